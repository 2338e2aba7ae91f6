"""Evaluation with one worker: every sample once, by whatever batches."""

import signal

import pytest
import tiny
import torch
from torch.nn import functional

from distdl.data.order import Rows
from distdl.trainer.evaluate import Interrupted, evaluate
from distdl.trainer.signals import StopRequests

N = 23
BAD = (4, 5)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return tiny.write_corpus(folder / "good", N), tiny.write_corpus(folder / "bad", N, bad=BAD)


@pytest.fixture
def build(corpora):
    runs = []

    def make(eval_batch=8, bad=False, policy="mask", model="tiny:perceptron"):
        shards = str(corpora[bad])
        overrides = {
            "model.name": model,
            "data.eval": {"shards": shards},
            "data.bad_sample": policy,
            "train.eval_batch": eval_batch,
        }
        runs.append(tiny.build(tiny.config(corpora[0], overrides)))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


def evaluated(run, stops=None):
    return evaluate(run.engine.model, run.task, run.eval_loaders["eval"], run.device, run.config.train, stops)


def by_hand(run, ids):
    """Mean loss and hits over the samples `ids`, from one forward over all of them."""
    loader = run.eval_loaders["eval"]
    (whole,) = loader.stream([Rows.of(torch.tensor(ids).numpy())])
    with torch.no_grad():
        logits = run.engine.model(whole.tensors["image"].permute(0, 3, 1, 2) / 255)
    labels = whole.tensors["label"]
    hits = logits.topk(5).indices == labels[:, None]
    return {
        "loss": functional.cross_entropy(logits, labels).item(),
        "top1": hits[:, 0].double().mean().item(),
        "top5": hits.any(1).double().mean().item(),
        "count": len(ids),
    }


@pytest.mark.parametrize("eval_batch", [1, 7, 8, 23, 100])
def test_the_result_is_that_of_one_pass_over_all_samples_for_any_batch(build, eval_batch):
    run = build(eval_batch)

    result = evaluated(run)

    expected = by_hand(run, list(range(N)))
    assert result == pytest.approx(expected, rel=1e-6)
    assert result["count"] == N and isinstance(result["count"], int)
    assert result["top1"] == expected["top1"]


def test_samples_that_can_not_be_read_are_left_out_and_counted(build):
    run = build(bad=True)

    result = evaluated(run)

    assert result.pop("bad") == 2
    assert result == pytest.approx(by_hand(run, [i for i in range(N) if i not in BAD]), rel=1e-6)


def test_no_stand_in_takes_the_place_of_a_sample_that_can_not_be_read(build):
    result = evaluated(build(bad=True, policy="substitute"))

    assert (result["count"], result["bad"]) == (N - 2, 2)


def test_it_changes_nothing_in_the_network_and_leaves_it_training(build):
    run = build(model="tiny:with_batch_norm")
    before = {name: value.clone() for name, value in run.engine.model.state_dict().items()}

    first, second = evaluated(run), evaluated(run)

    assert first == second
    assert run.engine.model.training
    assert all(torch.equal(value, before[name]) for name, value in run.engine.model.state_dict().items())


def test_a_stop_signal_ends_it_early_and_the_network_goes_on_training(build):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = build(eval_batch=1)
    try:
        stops = StopRequests(["SIGTERM"])
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            evaluated(run, stops)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])

    assert caught.value.stop == "preempted"
    assert run.engine.model.training
