"""Evaluation with one worker: every sample once, by whatever batches."""

import signal

import pytest
import tiny
import torch
from torch.nn import functional

from distdl.data.order import Rows
from distdl.errors import UserError
from distdl.tasks.classify import Classify
from distdl.trainer import evaluate as evaluation
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


# --- tasks that see more than sums ---


class WithExtremes(Classify):
    """The largest logit of the whole set, and its first three labels as digits."""

    metric_names = ("top1", "largest", "first_labels")

    def rows(self, outputs, batch):
        return {"logit": outputs, "label": batch["label"][:, None]}

    def finish(self, means, count, rows):
        assert len(rows["logit"]) == len(rows["label"]) == count
        labels = rows["label"][:3, 0].tolist()
        return {"largest": rows["logit"].max(), "first_labels": sum(10**i * label for i, label in enumerate(labels))}


@pytest.mark.parametrize("eval_batch", [1, 8, 100])
@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
def test_a_task_gets_the_rows_of_the_whole_set_in_its_order(build, monkeypatch, eval_batch, piece_bytes):
    monkeypatch.setattr(evaluation, "_PIECE_BYTES", piece_bytes)
    run = build(eval_batch)
    run.task = WithExtremes()

    result = evaluated(run)

    (whole,) = run.eval_loaders["eval"].stream([Rows.of(torch.arange(N).numpy())])
    with torch.no_grad():
        logits = run.engine.model(whole.tensors["image"].permute(0, 3, 1, 2) / 255)
    assert result["largest"] == pytest.approx(logits.max().item(), rel=1e-6)
    assert result["first_labels"] == 210  # labels 0, 1, 2
    assert set(result) == {"loss", "top1", "largest", "first_labels", "count"}


def test_rows_that_do_not_count_are_not_among_them(build):
    run = build(bad=True)
    run.task = WithExtremes()

    assert evaluated(run)["count"] == N - len(BAD)


def test_a_task_of_ones_own_needs_sums_alone(build):
    class Plain:
        metric_names = ("mean_logit",)
        lower_is_better = frozenset()

        def loss(self, outputs, batch):
            return outputs.sum(), batch["valid"].sum()

        def metrics(self, outputs, batch):
            return {"mean_logit": outputs.sum()}

    run = build(eval_batch=23)
    run.task = Plain()

    result = evaluated(run)

    assert result["mean_logit"] == result["loss"] and set(result) == {"loss", "mean_logit", "count"}


def test_its_progress_is_told_batch_by_batch(build):
    run, told = build(eval_batch=10), []

    evaluate(
        run.engine.model,
        run.task,
        run.eval_loaders["eval"],
        run.device,
        run.config.train,
        progress=lambda done, n_batches: told.append((done, n_batches)),
    )

    assert told == [(1, 3), (2, 3), (3, 3)]


class Forgetful(Classify):
    """A task of one's own whose metrics are not what it says."""

    def __init__(self, **found):
        super().__init__()
        self.found = found

    def metrics(self, outputs, batch):
        return self.found


@pytest.mark.parametrize(
    "found, complaint",
    [
        ({"top1": 3, "top5": torch.tensor(4)}, "its 'top1' is a int, not a tensor"),
        ({"top1": torch.tensor(3)}, "metrics\\(\\) lacks 'top5'"),
    ],
)
def test_what_a_task_of_ones_own_forgets_is_named(build, found, complaint):
    run = build()
    run.task = Forgetful(**found)

    with pytest.raises(UserError, match=complaint):
        evaluated(run)


def test_a_few_batches_try_an_evaluation_out(build):
    run = build(eval_batch=8)
    loader = run.eval_loaders["eval"]

    result = evaluate(run.engine.model, run.task, loader, run.device, run.config.train, most_batches=1)

    assert result["count"] == 8
