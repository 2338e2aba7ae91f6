"""`distdl eval`: a run, the mean of several runs, or weights under a config; on images as they are, or on several views
of each (the mirror image too, or ten crops).

Runs that prepare their images in different ways are averaged as well. Each sees them its own way, in a pass of its own
whose probabilities the next pass finds in the order of the samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from distdl import registry
from distdl.config import load
from distdl.config.sources import SplitConfig
from distdl.data.pictures import transforms
from distdl.data.pictures.transforms import CenterCrop, Resize
from distdl.errors import UserError
from distdl.models.ensemble import Ensemble, Heard, Mirrored, TenCrop
from distdl.run import trust
from distdl.trainer.loaders import count_classes
from distdl.trainer.trained import Row, Trained, evaluate_sets, of_config, of_run

Views = Literal[1, 2, 10]  # of each image: itself; and its mirror image; ten crops


def evaluate_runs(
    runs: Sequence[str],
    step: str | None,
    overrides: Sequence[str],
    warn: Callable[[str], None],
    weights: str | None = None,
    *,
    views: Views = 1,
) -> list[Row]:
    """A row per evaluation split: of one run, as RUN or RUN@STEP, or of the mean of several runs' probabilities on the
    first one's samples. Raises UserError, also for runs that tell other classes apart."""
    every = [of_run(run, step, overrides, weights=weights, warn=warn) for run in runs]
    first = every[0]
    assert first.folder
    if weights is not None:
        head: Row = {"run": first.folder.name, "weights": weights}
    elif len(every) == 1:
        head = {"run": first.folder.name, "step": first.step, "averaged_weights": first.averaged_weights}
    else:
        head = {"runs": [f"{each.folder.name}@{each.step}" for each in every if each.folder]}
        _check_alike(every)
    return _evaluated(every, head, views)


def _check_alike(every: Sequence[Trained]) -> None:
    """Raises UserError for networks whose outputs can't be averaged."""
    first = every[0]
    for each in every:
        counts = [count_classes(one.model, one.config) for one in (first, each)]
        if "top1" not in each.task.metric_names or counts[0] != counts[1] or first.classes != each.classes:
            raise UserError(
                f"this run does not tell the same classes apart as {first.folder and first.folder.name}",
                where=each.folder.shown if each.folder else "",
            )


def evaluate_config(path: Path, overrides: Sequence[str], weights: str | None, *, views: Views = 1) -> list[Row]:
    """A row per evaluation split. Raises UserError without weights, or with those of another network."""
    if weights is None:
        raise UserError("a config alone has no weights", where=str(path), fix="Add --weights FILE, or name a run.")
    config = load(path, overrides).config
    trust.check_file(path, config)
    trained = of_config(config, weights)
    return _evaluated([trained], {"weights": weights}, views)


def _evaluated(every: Sequence[Trained], head: Row, views: Views) -> list[Row]:
    if views > 1:
        every = [_on_ten_crops(each) if views == 10 else _mirrored(each) for each in every]
        head = {**head, "views": views}
    first, *others = every
    others = [_on_samples_of(first, each) for each in others]
    if all(each.config.data.eval_sets == first.config.data.eval_sets for each in others):
        if others:
            first = replace(first, model=Ensemble([each.model for each in every]))
        return [{**head, **row} for row in evaluate_sets(first)]
    rows = []
    for name in first.config.data.eval_sets:
        heard = Heard()
        for each in every:
            heard.listen_to(each.model)
            on_this = _with_sets(each, {name: each.config.data.eval_sets[name]})
            (row,) = evaluate_sets(replace(on_this, model=heard))
        rows.append({**head, **row})
    return rows


def _on_samples_of(first: Trained, other: Trained) -> Trained:
    """`other` on the splits of `first`, whose images it transforms as its own split of that name, or its only one."""
    own = other.config.data.eval_sets
    splits = {}
    for name, split in first.config.data.eval_sets.items():
        mine = own.get(name) or (next(iter(own.values())) if len(own) == 1 else split)
        splits[name] = split.model_copy(update={"transforms": mine.transforms})
    batches_alike = other.config.train.model_copy(update={"eval_batch": first.config.train.eval_batch})
    return _with_sets(replace(other, config=other.config.model_copy(update={"train": batches_alike})), splits)


def _with_sets(trained: Trained, splits: Mapping[str, SplitConfig]) -> Trained:
    data = trained.config.data.model_copy(update={"eval": dict(splits)})
    return replace(trained, config=trained.config.model_copy(update={"data": data}))


def _mirrored(trained: Trained) -> Trained:
    _check_has_probabilities(trained, "command line --mirror")
    return replace(trained, model=Mirrored(trained.model))


def _check_has_probabilities(trained: Trained, where: str) -> None:
    if "top1" not in trained.task.metric_names:
        raise UserError("only probabilities of classes are averaged", where=where)


def _on_ten_crops(trained: Trained) -> Trained:
    """Of each split's images as large as the resize leaves them, ten crops as large as its center_crop.

    Raises UserError where a split does not resize and then crop, or the network tells no classes apart.
    """
    _check_has_probabilities(trained, "command line --ten-crop")
    splits, sides = {}, set()
    for name, split in trained.config.data.eval_sets.items():
        with registry.using(trained.own_code):
            built, _ = transforms.build(split.transforms, name)
        resize = next((each.size for each in built if isinstance(each, Resize) and isinstance(each.size, int)), 0)
        crop, across = next((each.size for each in built if isinstance(each, CenterCrop)), (0, 0))
        if not 0 < crop == across < resize:
            raise UserError(
                "ten crops are taken where images are resized to more than what is cropped from their middle",
                where=f"data.{name}.transforms" if name == "eval" else f"data.eval.{name}.transforms",
                fix="Such as [{resize: 256}, {center_crop: 224}].",
            )
        larger = [{"center_crop": resize} if "center_crop" in each else each for each in split.transforms]
        splits[name] = split.model_copy(update={"transforms": larger})
        sides.add(crop)
    if len(sides) > 1:
        raise UserError(f"the splits are cropped to several sizes: {sorted(sides)}", where="data.eval")
    return replace(_with_sets(trained, splits), model=TenCrop(trained.model, sides.pop()))
