"""Sections that a config may leave out, and settings by a name that the user chooses: as plain as all the others."""

from pathlib import Path

import pytest

from distdl.config import Config, compare, dump, load, show
from distdl.errors import UserError

CONFIG = """\
model: {name: lenet5}
data: {train: {shards: data/train}}
train:
  global_batch: 128
  epochs: 5
optim: {lr: 0.1}
"""
EVERY_ONE = (
    "train.early_stop.metric=top1",
    "train.distill={teacher: resnet50@best, temperature: 2}",
    "train.adversarial.epsilon=0.03",
    "train.batch_growth={epochs: [2, 3.5]}",
    "train.noise.input=0.1",
    "checkpoint.keep={last: 2, every: 10 epochs}",
    "optim.groups={'conv.*': {lr_scale: 0}, 'fc.*': {}}",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(CONFIG)


def errors(*overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load("x.yaml", overrides)
    return str(caught.value).splitlines()


def test_an_override_switches_a_section_on_and_null_switches_it_off() -> None:
    on = load("x.yaml", ["train.early_stop.metric=top1"]).config
    off = load("x.yaml", ["train.early_stop.metric=top1", "train.early_stop=null"]).config

    assert on.train.early_stop and (on.train.early_stop.metric, on.train.early_stop.patience) == ("top1", 5)
    assert off.train.early_stop is None


def test_a_number_of_checkpoints_is_short_for_that_many_of_the_newest() -> None:
    assert load("x.yaml", ["checkpoint.keep=7"]).config == load("x.yaml", ["checkpoint.keep={last: 7}"]).config


@pytest.mark.parametrize("write", [dump, lambda config: show(load("x.yaml", EVERY_ONE), diff=True)])
def test_with_every_section_given_a_config_reads_back_equal(write) -> None:  # type: ignore[no-untyped-def]
    config = load("x.yaml", EVERY_ONE).config

    Path("again.yaml").write_text(write(config))

    assert load("again.yaml").config == config


def test_diff_shows_where_the_keys_of_such_a_section_were_set() -> None:
    Path("y.yaml").write_text("base: x.yaml\ntrain:\n  early_stop:\n    metric: top1\noptim: {groups: {'fc.*': {}}}\n")

    shown = show(load("y.yaml", ["train.early_stop.patience=2"]), diff=True).splitlines()

    assert [line for line in shown if "y.yaml" in line or "early_stop" in line] == [
        "  early_stop:",
        "    metric: top1        # y.yaml:4",
        "    patience: 2         # command line 'train.early_stop.patience=2'",
        "    fc.*: {}            # y.yaml:5",
    ]


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("train.early_stop.metrc", "train.early_stop.metric"),
        ("train.distill.techer", "train.distill.teacher"),
        ("train.adversarial.eps", "train.adversarial.epsilon"),
        ("train.batch_growth.epoch", "train.batch_growth.epochs"),
        ("train.noise.inputs", "train.noise.input"),
        ("checkpoint.keep.lst", "checkpoint.keep.last"),
        ("optim.groups.fc.lr_scle", "optim.groups.fc.lr_scale"),
        ("early_stop", "train.early_stop"),
        ("train.patience", "train.early_stop.patience"),
        ("train.keep", "checkpoint.keep"),
        ("train.weight_decay", "optim.weight_decay"),  # and not one of a group that isn't there
    ],
)
def test_a_typo_in_such_a_section_is_answered_with_the_key_that_was_meant(unknown: str, meant: str) -> None:
    override = f"{unknown}=1"

    assert errors(override) == [f"command line '{override}': unknown key '{unknown}' - did you mean {meant}?"]


def test_mistakes_in_such_sections_are_told_with_their_lines_and_all_at_once() -> None:
    Path("x.yaml").write_text(
        CONFIG.replace("  epochs: 5\n", "  epochs: 5\n  early_stop:\n    patience: 0\n  adversarial: {epsilon: 2}\n")
        + "checkpoint: {keep: some}\n"
    )

    assert errors("train.batch_growth={epochs: [3, 2]}", "optim.groups={'fc.*': 3}") == [
        "x.yaml:7: train.early_stop.patience: should be greater than or equal to 1 (got 0)",
        "x.yaml:8: train.adversarial.epsilon: should be less than or equal to 1 (got 2)",
        "x.yaml:10: checkpoint.keep: should be a whole number or a mapping of keys (got 'some')",
        "x.yaml: missing key 'train.early_stop.metric' "
        "(metric of the first evaluation set that has to improve, such as top1 or loss)",
        "command line 'train.batch_growth={epochs: [3, 2]}': train.batch_growth: epochs rise, from above 0",
        "command line 'optim.groups={'fc.*': 3}': optim.groups.fc.*: should be a mapping of keys (got 3)",
    ]


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        (
            "{}",
            "x.yaml: missing key 'data.train.shards' (tars: folder, tar, address, list; or folder, manifest, dataset)",
        ),
        ("{shrads: a}", "x.yaml:2: unknown key 'data.train.shrads' - did you mean data.train.shards?"),
        (
            "{shards: a, dataset: 'b:c'}",
            "x.yaml:2: data.train: give one of shards, folder, manifest, dataset and mixture, not shards and dataset",
        ),
        ("{shards: []}", "x.yaml:2: data.train.shards: it names nothing to read: give a path, or leave the key out"),
        (
            "{mixture: {a: {shards: b}, c: {folder: ''}}}",
            "x.yaml:2: data.train.mixture.c.folder: "
            "it names nothing to read: give a path, or leave the key out (got '')",
        ),
    ],
)
def test_a_split_has_one_source_and_other_mistakes_are_told_besides(split: str, problem: str) -> None:
    Path("x.yaml").write_text(CONFIG.replace("{shards: data/train}", split).replace("lr: 0.1", "lr: 0"))

    assert sorted(errors()) == sorted([problem, "x.yaml:6: optim.lr: should be greater than 0 (got 0)"])


def test_at_a_resume_a_section_that_is_free_may_come_and_another_may_not() -> None:
    before, after = load("x.yaml").config, load("x.yaml", EVERY_ONE[:2]).config

    assert compare(before, after) == (
        ["train.distill: null -> {teacher: resnet50@best, temperature: 2.0}"],
        ["train.early_stop: null -> {metric: top1}"],
    )


def test_a_pattern_of_parameter_names_keeps_its_place_in_the_order() -> None:
    config = Config.model_validate(load("x.yaml", EVERY_ONE).config.model_dump())

    assert list(config.optim.groups) == ["conv.*", "fc.*"]


def test_ways_to_start_that_do_not_go_together_are_refused() -> None:
    assert any("partial is said of pretrained" in line for line in errors("model.partial=true"))
    assert any("two ways to start" in line for line in errors("model.pretrained=run:a", "model.init_images=100"))
