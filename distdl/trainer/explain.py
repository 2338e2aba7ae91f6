"""`distdl data explain RUN --step S --rank R --row I`: which sample stood there, and at which bytes of which shard.

Nothing was written down while the run went on: step -> position -> rows of the sample plan -> the rank's share -> the
row -> shard, key, bytes. So it can be asked of any step, also of one to come, and for any number of workers.
"""

import json

from distdl import plugins, registry
from distdl.checkpoint import load as checkpoint_load
from distdl.comm import tree
from distdl.config import load
from distdl.config.schema import Config
from distdl.config.sources import SourceConfig
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.folder import FolderDataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.iterable import OwnIterable
from distdl.data.mixture import AnyDataset, Mixture, Source
from distdl.data.order import Plan, Rows
from distdl.data.own import OwnDataset
from distdl.errors import UserError
from distdl.run import places, trust
from distdl.run.folder import RunFolder, find
from distdl.trainer import sounds
from distdl.trainer.loaders import build_plan


def explain(run: str, *, step: int, rank: int, row: int, world_size: int | None = None) -> str:
    """Text. `step` is that of metrics.jsonl: the batch that made update number `step`. `row` counts the rank's rows.

    Raises UserError where the run had no such step, rank or row, and where its data has changed.
    """
    folder = find(run)
    config = load(folder.config).config
    trust.check(folder, config, False)
    places.use(config.paths)
    world_size = world_size or _world_size(folder)
    if not 0 <= rank < world_size:
        raise UserError(f"there is no rank {rank} among {world_size} workers", where="command line --rank")
    with registry.using(plugins.load(plugins.read(config.plugins))):
        dataset = _open(config)
        plan = build_plan(config, dataset)
    _check_data(folder, dataset, plan)
    end = plan.end_position(epochs=config.train.epochs, steps=config.train.steps)
    position = _position(folder, plan, step)
    if position >= end:
        raise UserError(f"the run ends before step {step}", where="command line --step")
    rows = _share(plan.step_rows(position, end), config, dataset, rank, world_size)
    if not 0 <= row < len(rows):
        raise UserError(f"rank {rank} has the rows 0 to {len(rows) - 1} of step {step}", where="command line --row")
    try:
        return "\n".join(_lines(rows, row, f"step {step}, rank {rank} of {world_size}", config, dataset, plan))
    finally:
        dataset.close()


def _open(config: Config) -> AnyDataset:
    split = config.data.train
    if not split.mixture:
        return _open_source(split, "data.train")
    where = "data.train.mixture"
    return Mixture({name: _open_source(of, f"{where}.{name}") for name, of in split.mixture.items()})


def _open_source(split: SourceConfig, where: str) -> Source:
    if split.dataset is not None:
        return OwnDataset.open(split, where)
    if split.folder is not None:
        return FolderDataset.open(split.folder)
    if split.manifest is not None:
        return ManifestDataset.open(split.manifest)
    assert split.shards is not None, "a split has one source"
    return Dataset.open(split.shards, index_folder=split.index, write_index=False)


def _world_size(folder: RunFolder) -> int:
    """At the run's last start."""
    try:
        return len(json.loads(folder.environment.read_text())["workers"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            "it is not known how many workers the run had", where=str(folder.environment), fix="Add --world-size N."
        ) from None


def _check_data(folder: RunFolder, dataset: AnyDataset, plan: Plan) -> None:
    checkpoint = checkpoint_load.newest(folder, warn=lambda message: None, only="no tensor")
    if checkpoint and checkpoint.state.get("data") != {"identity": dataset.identity, **plan.identity}:
        raise UserError(
            "the training data is not what this run was trained on (other shards, weights or order of samples)",
            where=dataset.path,
            fix="Put the shards and their index back as they were.",
        )


def _position(folder: RunFolder, plan: Plan, step: int) -> int:
    """Where the step begins."""
    if step < 1:
        raise UserError("the first step is 1", where="command line --step")
    started_from = json.loads(folder.identity.read_text()).get("started_from")
    if not started_from or started_from["weights_only"]:
        return plan.end_position(epochs=None, steps=step - 1)
    # It went on where another run was, whose batches may have had another size: metrics.jsonl has positions.
    before, position = _last_row_before(folder, step)
    for _ in range(step - 1 - before):
        position += plan.batch_at(position)
    return position


def _last_row_before(folder: RunFolder, step: int) -> tuple[int, int]:
    """(step, position) of the last train row before the step."""
    found = None
    for line in folder.metrics.read_text().splitlines() if folder.metrics.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            continue
        if row.get("kind") == "train" and row["step"] < step:
            found = row["step"], row["samples"]
    if found is None:
        raise UserError(
            f"the run went on from another one, and its metrics don't say where it was before step {step}",
            where=str(folder.metrics),
            fix="Ask for a step after its first row.",
        )
    return found


def _share(rows: Rows, config: Config, dataset: AnyDataset, rank: int, world_size: int) -> Rows:
    """The rows of a step that the rank computes, in its order."""
    n_parts = config.n_leaves if config.dist.reduction == "tree" else world_size
    if config.data.sound:
        rows = sounds.cut(rows, sounds.rows_of(dataset, config.data.sound, "data.train"), n_parts)
    return rows.parts(tree.leaves_of(rank, world_size, n_parts), n_parts)


def _lines(rows: Rows, row: int, where: str, config: Config, dataset: AnyDataset, plan: Plan) -> list[str]:
    epoch, offset, sample_id = int(rows.epoch[row]), int(rows.offset[row]), int(rows.sample_id[row])
    position = epoch * plan.epoch_length + offset
    lines = [
        f"{where}, row {row} of {len(rows)}: sample {sample_id}",
        f"position    {position:,} of the run: {offset:,} of epoch {epoch}",
    ]
    if not rows.valid[row]:
        lines.append("weight      0: the run ends before it, and it only fills the last batch")
    if isinstance(dataset, Mixture):
        name, sample_id = dataset.locate(sample_id)
        dataset = dataset.sources[name]
        lines.append(f"source      {name}, its sample {sample_id}")
    if isinstance(dataset, OwnDataset | OwnIterable):
        return [*lines, f"item        {sample_id} of {dataset.path}"]
    shard, row_in_shard = dataset.locate(sample_id)
    if isinstance(dataset, FolderDataset):
        number = dataset.labels[sample_id]
        return [*lines, f"file        {dataset.file(sample_id)}", f"class       {dataset.classes[number]} ({number})"]
    if isinstance(dataset, ManifestDataset):
        part = dataset.utterance(sample_id)
        until = "its end" if part.duration_s is None else f"{part.begin_s + part.duration_s:g} s"
        what = "" if part.is_whole else f", from {part.begin_s:g} s to {until}"
        return [*lines, f"file        {part.path}{what}", f"key         {part.key}", f"text        {part.text}"]
    lines.append(f"shard       {dataset.shards[shard].tar}, its sample {row_in_shard}")
    lines.append(f"key         {dataset.key(shard, row_in_shard)}")
    for extension, component in dataset.index(shard).components(row_in_shard).items():
        lines.append(f"{extension:<11} {component.size:,} bytes from byte {component.offset:,} on")
    if config.data.bad_sample == "substitute":
        lines.append("If it can't be decoded, the next of its lane that can stands in for it (data.bad_sample).")
    return lines
