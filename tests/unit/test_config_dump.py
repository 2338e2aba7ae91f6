"""Configs that are written down and read back equal, and what a resumed run's config may change."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_config import SMALLEST

from distdl.config import Config, compare, dump, load


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small(*overrides: str) -> Config:
    Path("x.yaml").write_text(SMALLEST)
    return load("x.yaml", overrides).config


# --- dump ---

TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        "off",
        "yes",
        "1e-3",
        "007",
        "1:30",
        "2026-11-21",
        "null",
        "~",
        "<<",
        "=",
        "a: b",
        "# c",
        "a\n",
        "\u2028",
        "- a",
        "",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGS = st.dictionaries(TEXT, VALUES, max_size=3)
SPLITS = st.fixed_dictionaries(
    {"shards": TEXT.filter(bool)},
    optional={
        "transforms": st.lists(
            st.sampled_from(["flip", {"pad": 2}]) | st.fixed_dictionaries({"my.module:own": VALUES}), max_size=5
        ),
        "image": st.none() | TEXT,
    },
)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
CONFIGS = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({"name": st.sampled_from(["lenet5", "my.module:Network"]), "args": ARGS}),
        "data": st.fixed_dictionaries(
            {"train": SPLITS, "eval": st.none() | SPLITS | st.dictionaries(TEXT, SPLITS, min_size=1, max_size=3)}
        ),
        "train": st.fixed_dictionaries(
            {
                "global_batch": st.integers(min_value=1, max_value=2**40),
                "epochs": st.floats(0.01, 1e6),
                "log_every": st.sampled_from([7, "7 steps", "0.5 epoch", "30 min"]),
                "channels_last": st.booleans(),
                "micro_batch": st.none() | st.just("auto") | st.integers(min_value=1),
            }
        ),
        "optim": st.fixed_dictionaries(
            {"lr": POSITIVE, "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), "args": ARGS}
        ),
    },
    optional={"track": st.fixed_dictionaries({"wandb": st.fixed_dictionaries({"project": TEXT})})},
)


@given(raw=CONFIGS)
def test_a_dumped_config_reads_back_equal(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    config = Config.model_validate(raw)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"

    path.write_text(dump(config), encoding="utf-8", newline="")

    assert load(path).config == config


def test_a_dump_has_every_key_in_the_order_of_the_schema_and_plain_values() -> None:
    text = dump(small("model.args={eps: 1e-3, mode: 'off'}", "data.train.transforms=[{pad: 2}, flip]"))

    assert text.startswith(
        "model:\n  name: lenet5\n  args:\n    eps: 0.001\n    mode: 'off'\n"
        "  pretrained: null\n  partial: false\n  init_images: null\n  freeze: []\ntask:\n  name: classify\n"
    )
    assert "    transforms: [{pad: 2}, {flip: {}}]\n" in text
    assert "  betas: [0.9, 0.999]\n" in text
    sections = [line.partition(":")[0] for line in text.splitlines() if not line.startswith(" ")]
    assert sections == list(Config.model_fields)


# --- compare ---


def changes(*overrides: str) -> tuple[list[str], list[str]]:
    return compare(small("model.args.classes=10"), small(*overrides))


def test_equal_configs_have_no_changes() -> None:
    assert changes("model.args.classes=10") == ([], [])


def test_free_keys_may_change_and_others_may_not() -> None:
    refused, allowed = changes(
        "model.args.classes=10", "optim.lr=0.2", "train.epochs=6", "track.wandb.mode=offline", "data.workers=2"
    )

    assert refused == ["optim.lr: 0.1 -> 0.2"]
    assert allowed == ["data.workers: null -> 2", "train.epochs: 5.0 -> 6.0", "track.wandb.mode: disabled -> offline"]


def test_arguments_and_lists_are_compared_by_value_and_never_free() -> None:
    refused, allowed = changes("model.args.width=2", "data.train.transforms=[flip]")

    assert refused == [
        "model.args.classes: 10 -> (not set)",
        "model.args.width: (not set) -> 2",
        "data.train.transforms: [] -> [{flip: {}}]",
    ]
    assert allowed == []


def test_evaluating_on_something_else_is_refused_but_its_index_may_move() -> None:
    one = small("data.eval={shards: a}")
    elsewhere = small("data.eval={shards: a, index: /tmp/index}")
    several = small("data.eval={dev: {shards: a}}")

    assert compare(one, elsewhere) == ([], ["data.eval.index: null -> /tmp/index"])
    assert compare(one, several) == (["data.eval: {shards: a} -> {dev: {shards: a}}"], [])
