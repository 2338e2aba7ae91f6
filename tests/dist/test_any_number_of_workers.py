"""What must not depend on the number of workers: which samples make a global batch, and an evaluation's result."""

import cases
import pytest
import tiny

pytestmark = pytest.mark.timeout(60)

N = 45


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("data") / "corpus", N, bad=(3, 30))


@pytest.mark.parametrize("n_workers", [2, 3, 4])
@pytest.mark.parametrize("policy", ["mask", "substitute"])
def test_every_global_batch_has_the_same_rows(workers, corpus, policy, n_workers):
    overrides = {
        "train.global_batch": 7,
        "train.steps": None,
        "train.epochs": 2.5,
        "data.bad_sample": policy,
        "data.train": {"shards": str(corpus), "transforms": [{"random_crop": {"size": 4, "padding": 1}}, "flip"]},
    }

    alone = cases.sample_ids(str(corpus), overrides)
    together = workers(n_workers).run("sample_ids", corpus=str(corpus), overrides=overrides)

    for step, rows in enumerate(alone):
        assert [row for worker in together for row in worker[step]] == rows
    assert len(alone) == len(together[0]) == -(-round(2.5 * N) // 7)


AUGMENTED = [
    {"random_resized_crop": 8},
    {"rotate": 20},
    {"homography": {"p": 1}},
    {"colour_jitter": {"brightness": 0.4, "contrast": 0.4}},
    {"rand_augment": {"n": 3, "magnitude": 20, "deviation": 3}},
    {"random_erasing": {"p": 0.6, "fill": "pixel"}},
    {"normalise": {"mean": [0.4], "std": [0.3]}},
]


@pytest.mark.parametrize("n_workers", [2, 3])
def test_every_sample_is_augmented_to_the_same_pixels(workers, corpus, n_workers):
    overrides = {
        "model.name": "tiny:pooled",
        "train.global_batch": 7,
        "train.steps": None,
        "train.epochs": 2,
        "train.resolution": {"start": 4, "end": 8, "epochs": [0, 1], "multiple": 2},
        "data.train": {"shards": str(corpus), "transforms": AUGMENTED},
        "data.bad_sample": "substitute",
    }

    alone = cases.augmented_pixels(str(corpus), overrides)
    together = workers(n_workers).run("augmented_pixels", corpus=str(corpus), overrides={**overrides, "data.workers": 3})

    for number, rows in enumerate(alone):
        assert [row for worker in together for row in worker[number]] == rows
    n_good = N - 2
    assert len({row for rows in alone for row in rows}) >= 2 * n_good  # others in the second epoch


def test_an_epoch_has_every_sample_once(corpus):
    overrides = {"train.global_batch": 9, "train.steps": None, "train.epochs": 1}

    steps = cases.sample_ids(str(corpus), overrides)

    assert sorted(sample_id for rows in steps for sample_id, *_ in rows) == list(range(N))


@pytest.mark.parametrize("n_workers", [2, 3])
def test_draws_and_batches_that_grow_are_the_same(workers, corpus, n_workers):
    overrides = {
        "train.global_batch": 5,
        "train.batch_growth": {"epochs": [0.5, 1], "factor": 2},
        "train.steps": None,
        "train.epochs": 2,
        "data.sampling": "balanced",
        "data.draws": 60,
        "data.bad_sample": "substitute",
    }

    alone = cases.sample_ids(str(corpus), overrides)
    together = workers(n_workers).run("sample_ids", corpus=str(corpus), overrides=overrides)

    for step, rows in enumerate(alone):
        assert [row for worker in together for row in worker[step]] == rows
    assert [len(rows) for rows in alone] == [5] * 6 + [10] * 3 + [20] * 3
    assert all(sample_id not in (3, 30) for rows in alone for sample_id, *_ in rows)


@pytest.mark.parametrize("n_workers", [2, 3])
@pytest.mark.parametrize("eval_batch", [4, 45, 64])  # 12 batches; one: the other workers have none
@pytest.mark.parametrize("model", ["tiny:perceptron", "tiny:with_batch_norm"])
def test_an_evaluation_has_the_same_bits(workers, corpus, model, eval_batch, n_workers):
    overrides = {"model.name": model, "data.eval": {"shards": str(corpus)}, "train.eval_batch": eval_batch}

    alone = cases.evaluation(str(corpus), overrides)
    together = workers(n_workers).run("evaluation", corpus=str(corpus), overrides=overrides)

    assert together == [alone] * n_workers
    assert float.fromhex(alone["count"]) == N - 2 and float.fromhex(alone["bad"]) == 2


@pytest.mark.parametrize("n_workers", [2, 3])
@pytest.mark.parametrize("eval_batch", [4, 64])  # 12 batches; one: the other workers have none
@pytest.mark.parametrize("task, outputs", [("multilabel", tiny.CLASSES), ("regress", 1)])
def test_so_have_metrics_that_are_no_means(workers, corpus, task, outputs, eval_batch, n_workers):
    overrides = {
        "task": {"name": task},
        "model.args": {"classes": outputs},
        "data.eval": {"shards": str(corpus)},
        "train.eval_batch": eval_batch,
    }

    alone = cases.evaluation(str(corpus), overrides)
    together = workers(n_workers).run("evaluation", corpus=str(corpus), overrides=overrides)

    assert together == [alone] * n_workers
    assert alone.keys() == {"loss", "count", "bad"} | ({"mAP", "f1"} if task == "multilabel" else {"mae", "r2"})


def test_a_stop_signal_to_one_worker_ends_the_evaluation_on_all(workers, corpus):
    overrides = {"data.eval": {"shards": str(corpus)}, "train.eval_batch": 4}

    results = workers(3).run("evaluation", corpus=str(corpus), overrides=overrides, stopped_rank=2)

    assert results == [{"stopped": "preempted"}] * 3
