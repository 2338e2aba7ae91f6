"""Both engines give the weights of one process on the whole batch, whatever makes the workers' shares unlike.

The run has 5 steps of 7 rows over 33 samples: 7 is divided by neither 2 nor 3, the first epoch ends inside the last
batch but is also where the run ends (two padded rows), and one sample's label can't be read (a masked row on one rank).
"""

import cases
import pytest
import tiny

from distdl.registry import ENGINES

pytestmark = pytest.mark.timeout(60)

N, BAD = 33, (5,)
BASE = {"train.global_batch": 7, "train.steps": None, "train.epochs": 1, "optim.weight_decay": 0.01}
CASES = {
    "plain": {},
    "micro-batches": {"train.micro_batch": 3},  # one for shares of 3 rows, two for one of 4
    "single rows": {"train.micro_batch": 1},
    "clipped norm": {"train.clip_norm": 0.05},
    "clipped layers": {"train.clip_layer": 0.02},
    "clipped values": {"train.clip_value": 0.01},
    "partly used": {"model.name": "tiny:PartlyUsed", "train.micro_batch": 1},
    "tied": {"model.name": "tiny:Tied"},
    "frozen": {"model.name": "tiny:frozen"},
    "small buckets": {"dist.bucket_mib": 0.0001},
    "fp64": {"model.name": "tiny:Precise"},
    "sync batch norm": {"model.name": "tiny:with_batch_norm", "train.batch_norm": "sync"},
    "adamw": {"optim.name": "adamw", "optim.lr": 0.01},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("data") / "corpus", N, bad=BAD)


def assert_same(found, expected, relative):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        distance = sum((a - b) ** 2 for a, b in zip(found[name], values, strict=True)) ** 0.5
        size = sum(b**2 for b in values) ** 0.5
        assert distance <= relative * size, f"{name} differs by {distance / size:.1e}"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_workers", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_one_process(workers, corpus, case, n_workers, engine):
    overrides = {**BASE, **CASES[case], "dist.engine": engine}

    alone = cases.train(str(corpus), overrides)
    together = workers(n_workers).run("train", corpus=str(corpus), overrides=overrides)

    assert len(alone["sums"]) == 5
    for worker in together:
        assert worker["weights"] == together[0]["weights"]
        assert_same(worker["weights"], alone["weights"], relative=1e-6)
    for step, (loss_sum, count) in enumerate(alone["sums"]):
        assert sum(worker["sums"][step][0] for worker in together) == pytest.approx(loss_sum, rel=1e-5)
        assert sum(worker["sums"][step][1] for worker in together) == count
    assert sum(count for _, count in alone["sums"]) == N - len(BAD)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_weight_that_nothing_used_does_not_decay(workers, corpus, engine):
    overrides = {**BASE, "model.name": "tiny:PartlyUsed", "optim.weight_decay": 0.5, "dist.engine": engine}

    (alone,) = workers(1).run("train", corpus=str(corpus), overrides=overrides)
    together = workers(2).run("train", corpus=str(corpus), overrides=overrides)
    (never,) = workers(1).run("train", corpus=str(corpus), overrides={**overrides, "optim.lr": 1e-30})

    for worker in (alone, *together):
        assert worker["weights"]["idle.weight"] == never["weights"]["idle.weight"]
        assert worker["weights"]["always.weight"] != never["weights"]["always.weight"]


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_meet_may_come_before_a_bucket_on_one_worker_and_after_it_on_another(workers, corpus, engine):
    """Whose last layer, which sends the first bucket, is used by some batches only."""
    overrides = {
        **BASE,
        "model.name": "tiny:SometimesFirst",
        "train.batch_norm": "sync",
        "train.epochs": 3,
        "dist": {"engine": engine, "bucket_mib": 0.0001},
    }

    together = workers(3).run("train", corpus=str(corpus), overrides=overrides)

    assert all(worker["weights"] == together[0]["weights"] for worker in together)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_workers", [2, 3])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_batch_norms_statistics_are_the_same_on_all_workers(workers, corpus, micro_batch, n_workers, engine):
    overrides = {**BASE, "model.name": "tiny:with_batch_norm", "dist.engine": engine, "train.micro_batch": micro_batch}

    together = workers(n_workers).run("train", corpus=str(corpus), overrides=overrides)

    for worker in together:
        assert worker["weights"] == together[0]["weights"]
        for name in ("1.running_mean", "1.running_var"):
            assert worker["buffers"][name] == together[0]["buffers"][name]
    assert together[0]["buffers"]["1.running_var"] != [1, 1, 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_buffers_that_no_step_changes_keep_their_bits(workers, corpus, engine):
    overrides = {**BASE, "model.name": "tiny:WithConstant", "dist.engine": engine}

    alone = cases.train(str(corpus), {**overrides, "train.epochs": 0.1})
    together = workers(3).run("train", corpus=str(corpus), overrides=overrides)

    assert [worker["buffers"] for worker in together] == [alone["buffers"]] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_auto_finds_one_micro_batch_for_all_workers_and_trains_with_it(workers, corpus, engine):
    too_large = {"model": {"name": "tiny:TooLarge", "args": {"most_rows": [100, 2]}}, "dist.engine": engine}

    together = workers(2).run("train", corpus=str(corpus), overrides={**BASE, **too_large, "train.micro_batch": "auto"})

    assert [worker["micro_batch"] for worker in together] == [2, 2]  # of shares of 3 and 4 rows
    assert together[0]["weights"] == together[1]["weights"]
