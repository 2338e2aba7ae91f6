"""`distdl config show`: readable, complete, and a config again."""

from pathlib import Path

import pytest

from distdl.config import Loaded, load, show
from distdl.config.layout import WIDTH

CONFIG = """\
base: base.yaml
model: {args: {classes: 10}}
data:
  train:
    shards: data/train
    transforms: [{random_resized_crop: {size: 224, scale: [0.08, 1.0]}}, flip, {normalise: {mean: [0.5], std: [0.2]}}]
  eval: {dev: {shards: data/dev}, test: {shards: data/test}}
train: {global_batch: 128, epochs: 5, precision: fp32}
"""
BASE = """\
model: {name: resnet50}
optim: {lr: 0.1}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(CONFIG)
    Path("base.yaml").write_text(BASE)
    return load("x.yaml", ["optim.weight_decay=1e-4", "model.args.width=2"])


def test_the_whole_config_is_shown_with_the_meaning_of_each_key(config: Loaded) -> None:
    lines = show(config, diff=False).splitlines()

    assert lines[:5] == [
        "model:                              # the network",
        "  name: resnet50                    # network: a name from `distdl zoo`, or package.module:attribute",
        "  args:                             # arguments of the network's function, such as classes",
        "    classes: 10",
        "    width: 2",
    ]
    assert "  momentum: 0.9                     # of sgd, lars, muon and rmsprop" in lines
    assert (
        "      shards: data/dev              # tars: folder, tar, address, list; or folder, manifest, dataset" in lines
    )


def test_comments_are_aligned_wrapped_and_fit_the_screen(config: Loaded) -> None:
    lines = show(config, diff=False).splitlines()

    assert max(map(len, lines)) <= WIDTH
    assert {line.index("#") for line in lines if "#" in line} == {36}
    wrapped = next(number for number, line in enumerate(lines) if line.startswith("  micro_batch: null"))
    assert lines[wrapped + 1] == f"{'':<36}# (default: all its rows)"


@pytest.mark.parametrize("diff", [False, True])
def test_what_is_shown_is_a_config_again(config: Loaded, diff: bool) -> None:
    Path("shown.yaml").write_text(show(config, diff=diff))

    assert load("shown.yaml").config == config.config


def test_diff_shows_only_what_differs_from_the_defaults_and_where_it_was_set(config: Loaded) -> None:
    assert show(config, diff=True).splitlines() == [
        "model:",
        "  name: resnet50         # base.yaml:1",
        "  args:",
        "    classes: 10          # x.yaml:2",
        "    width: 2             # command line 'model.args.width=2'",
        "",
        "data:",
        "  train:",
        "    shards: data/train   # x.yaml:5",
        "    transforms:          # x.yaml:6",
        "      - {random_resized_crop: {size: 224, scale: [0.08, 1.0]}}",
        "      - {flip: {}}",
        "      - {normalise: {mean: [0.5], std: [0.2]}}",
        "  eval:",
        "    dev:",
        "      shards: data/dev   # x.yaml:7",
        "    test:",
        "      shards: data/test  # x.yaml:7",
        "",
        "train:",
        "  global_batch: 128      # x.yaml:8",
        "  epochs: 5.0            # x.yaml:8",
        "",
        "optim:",
        "  lr: 0.1                # base.yaml:2",
        "  weight_decay: 0.0001   # command line 'optim.weight_decay=1e-4'",
    ]


def test_a_comment_that_does_not_fit_beside_its_key_stands_above_it(config: Loaded) -> None:
    long = "/data/" + "deep/" * 20
    Path("x.yaml").write_text(CONFIG.replace("shards: data/dev", f"shards: {long}"))

    lines = show(load("x.yaml"), diff=False).splitlines()

    place = lines.index(f"      shards: {long}")
    assert lines[place - 1] == "      # tars: folder, tar, address, list; or folder, manifest, dataset"
    assert show(load("x.yaml", ["model.args={a: 1,\n b: 2}"]), diff=True).splitlines()[3:5] == [
        "    classes: 10          # x.yaml:2",
        "    a: 1                 # command line 'model.args={a: 1, b: 2}'",
    ]
