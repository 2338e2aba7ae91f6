"""Training on a plain wds.WebDataset: it learns, says what is not exact, and goes on."""

import json

import pytest
import webdataset as wds

pytestmark = pytest.mark.timeout(240)

PLUGIN = """
import webdataset as wds
import distdl

@distdl.register_dataset
def tars(*, shards, nodesplitter="split_by_node"):
    pipeline = wds.WebDataset(shards, nodesplitter=getattr(wds, nodesplitter), shardshuffle=False)
    return pipeline.shuffle(200).decode("l8").to_tuple("png", "cls")

@distdl.register_dataset
def unsplit(*, shards):
    return wds.WebDataset(shards, nodesplitter=None, shardshuffle=False)
"""
NORMALISED = [{"resize": 32}, {"normalise": {"mean": [0.3], "std": [0.37]}}]


@pytest.fixture
def streamed(place):
    """Call it for the config of a run on three shards of the digits: 100, 900 and the rest, for one epoch of 1,400."""
    (tar,) = (place.path / "digits" / "train").glob("*.tar")
    samples = list(wds.WebDataset([str(tar)], shardshuffle=False))
    for number, rows in enumerate((slice(100), slice(100, 1000), slice(1000, None))):
        with wds.TarWriter(str(place.path / f"{number}.tar")) as writer:
            for sample in samples[rows]:
                writer.write({name: value for name, value in sample.items() if name in ("__key__", "png", "cls")})
    (place.path / "my.py").write_text(PLUGIN)

    def config(dataset="tars", **args):
        train = {"dataset": dataset, "args": {"shards": str(place.path / "{0..2}.tar"), **args}}
        return place.config(
            plugins=["my.py"],
            data__train={**train, "transforms": NORMALISED},
            data__draws=1400,
            train__steps=120,
            train__eval_every="1 epoch",
            data__workers=2,
        )

    return config


def test_it_learns_from_uneven_shards_says_what_is_not_exact_and_goes_on(place, streamed):
    first = place.run("train", streamed(), "--nproc", 2, "train.steps=60")
    assert first.code == 0, first.output

    resumed = place.run("train", streamed(), "--nproc", 2, "--resume")

    assert resumed.code == 0, resumed.output
    assert resumed.output.count("a resumed run begins a new pass") == 1 and "resumed at step 60" in resumed.output
    assert "split_by_node" not in resumed.output
    assert [row["step"] for row in place.rows("run")] == list(range(1, 121))
    assert place.rows("run", "eval")[-1]["top1"] > 0.9
    environment = json.loads((place.path / "runs" / "run" / "environment.json").read_text())
    assert ["new pass" in remark for remark in environment["data"]] == [True]


def test_workers_that_read_the_same_shards_are_told(place, streamed):
    result = place.run("train", streamed("unsplit"), "--nproc", 2, "train.steps=3")

    assert result.code == 0, result.output
    assert "two workers began with the same sample" in result.output


def test_webdatasets_own_refusal_is_passed_on(place, streamed):
    result = place.run("train", streamed(nodesplitter="single_node_only"), "--nproc", 2)

    assert result.code == 2, result.output
    assert "need to add an explicit nodesplitter" in result.output
