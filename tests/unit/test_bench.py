"""`distdl bench step`: what is compared, on which data, and what is said about it."""

import argparse
import json
from pathlib import Path

import pytest
import tiny
import yaml

from distdl.bench import commands
from distdl.bench.ratio import alternate, ratio
from distdl.bench.step import measure, on_noise, only_steps, report
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config
from distdl.errors import UserError

LENET = {"model.name": "lenet5", "data.train.transforms": [{"pad": 2}, {"normalise": {"mean": [0.1], "std": [0.3]}}]}


# --- ratios ---


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    compared = ratio([2.0, 3.0, 40.0], [1.0, 2.0, 10.0])

    assert compared.median == 2.0
    assert (compared.low, compared.high) == (1.5, 4.0)


def test_equal_rounds_leave_no_doubt():
    assert ratio([1.1] * 10, [1.0] * 10) == pytest.approx((1.1, 1.1, 1.1))


def test_rounds_alternate_and_swap_who_comes_first():
    calls = []

    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 4)

    assert "".join(calls) == "baabbaab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4}


# --- measuring ---


@pytest.fixture
def no_threads_changed(monkeypatch):
    """`measure` pins the threads and kernels of its process, which here is everybody's."""
    monkeypatch.setattr("distdl.trainer.setup.set_threads_and_kernels", lambda config, world, is_tree: 1)


def test_the_step_the_bare_loop_and_the_loader_are_measured(corpus, no_threads_changed):
    result = measure(tiny.config(corpus), WorldInfo(), 4)

    assert result["samples_per_s"] == pytest.approx(8 / result["step_s"])
    assert result["interval_95"][0] <= result["ratio"] <= result["interval_95"][1]
    assert all(result[f"{name}_s"] >= 0 for name in ("forward", "backward", "exchange", "update"))
    assert result["loader"]["data_wait_s"] >= 0
    assert (result["rounds"], result["steps_per_round"]) == (4, 1)
    # perceptron(16, 8, 10): 16 x 8 + 8 x 10 multiply-adds
    assert result["mfu"] == pytest.approx(result["samples_per_s"] * 6 * 208 / result["peak_flops_per_s"])
    json.dumps(result)


def test_the_report_says_what_was_measured(corpus, no_threads_changed):
    text = report(measure(tiny.config(corpus), WorldInfo(), 2))

    assert str(corpus) in text
    for word in ("samples/s", "bare loop", "ratio", "with loader", "MFU", "MiB"):
        assert word in text


def test_where_the_data_is_not_there_the_network_gets_noise_of_its_usual_size(tmp_path, no_threads_changed):
    result = measure(tiny.config(tmp_path / "missing", LENET), WorldInfo(), 1)

    assert result["data"] == "noise"
    assert result["loader"] is None
    assert result["flops_per_sample"] == 6 * 416_520  # LeNet-5's multiply-adds on 32x32


def test_a_network_of_ones_own_needs_the_size_of_the_noise(tmp_path):
    config = tiny.config(tmp_path / "missing")

    with pytest.raises(UserError, match="--image"):
        on_noise(config, tmp_path, None)

    assert on_noise(config, tmp_path, (4, 4, 1)).data.train.shards == str(tmp_path / "noise")


def test_a_measured_config_neither_evaluates_nor_saves_nor_grows_but_computes_the_same(corpus):
    split = {"shards": str(corpus)}
    config = tiny.config(
        corpus,
        {
            "data.eval": split,
            "train.batch_growth": {"epochs": [1]},
            "train.precision": "bf16",
            "train.micro_batch": 4,
            "checkpoint.best": "top1",
            "schedule": {"name": "cosine", "args": {"final": 0.1}},
        },
    )

    measured = only_steps(config, log_every=5)

    assert (measured.data.eval, measured.train.batch_growth, measured.checkpoint.best) == (None, None, None)
    assert measured.train.log_every == 5
    for same in ("model", "task", "optim", "dist"):
        assert getattr(measured, same) == getattr(config, same)
    assert (measured.train.precision, measured.train.micro_batch) == ("bf16", 4)


# --- the command ---


def arguments(config: Config, folder: Path, **options):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    given = {"config": path, "overrides": [], "steps": 2, "nproc": 1, "image": None, "json": False}
    return argparse.Namespace(**given | options)


def test_json_is_the_whole_result(corpus, tmp_path, capsys, no_threads_changed):
    assert commands.step(arguments(tiny.config(corpus), tmp_path, json=True)) == 0

    assert json.loads(capsys.readouterr().out)["model"] == "tiny:perceptron"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "--steps"),
        ({"nproc": 0}, "--nproc"),
        ({"image": "224"}, "--image"),
        ({"image": "8x8x2"}, "--image"),
    ],
)
def test_mistakes_on_the_command_line(corpus, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        commands.step(arguments(tiny.config(corpus), tmp_path, **options))
