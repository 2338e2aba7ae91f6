"""dist.reduction: tree gives the same bits on any number of workers, whatever in the network or the recipe is not linear
in the rows: batch norm, dropout, augmentation, averages, noise, clipping, weights that only some batches use."""

import pytest
import tiny

pytestmark = pytest.mark.timeout(120)

N, BAD = 67, (5, 40)
BASE = {
    "model.name": "tiny:Stateful",
    "train.global_batch": 16,
    "train.steps": None,
    "train.epochs": 1,  # ends inside the fifth batch
    "optim.weight_decay": 0.01,
    "dist.reduction": "tree",
}
AUGMENTED = [{"random_crop": {"size": 4, "padding": 1}}, "flip"]
ON_DEVICE = [
    {"rotate": 20},
    {"colour_jitter": {"brightness": 0.4, "contrast": 0.4}},
    {"rand_augment": {"n": 2, "magnitude": 15, "deviation": 3}},
    {"random_erasing": {"p": 0.6, "fill": "pixel"}},
    {"normalise": {"mean": [0.5], "std": [0.25]}},
]
CASES = {
    "plain": {},
    "augmented": {"data.train.transforms": AUGMENTED},
    "small buckets": {"dist.bucket_mib": 0.0001},
    "micro-batches": {"train.micro_batch": 1},
    "averaged": {"train.ema": 0.9, "train.clip_norm": 0.05},
    "noise": {"train.noise": {"input": 0.1, "weight": 0.01, "gradient": 0.01}},
    "augmented on the device": {"data.train.transforms": ON_DEVICE},
    "mixup": {"train.mixup": 0.4},
    "mixup or cutmix": {"train.mixup": 0.4, "train.cutmix": 1.0},
    "clipped layers": {"train.clip_layer": 0.01},
    "adversarial": {"train.adversarial": {"epsilon": 0.1}},
    "ghost batch norm": {"train.batch_norm": "ghost", "train.ghost_rows": 2, "dist.leaves": 4},
    "growing batches": {"train.batch_growth": {"epochs": [0.4], "factor": 2}},
    "recomputed in backward": {"model.name": "tiny:Recomputed"},
    "lamb": {"optim.name": "lamb", "optim.lr": 0.01},
    "fp16": {"train.precision": "fp16"},
    "adamw": {"optim.name": "adamw", "optim.lr": 0.01},
    "fp64": {"model.name": "tiny:Precise"},
    "bf16": {"train.precision": "bf16"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("data") / "corpus", N, bad=BAD)


@pytest.fixture(scope="module")
def alone(workers, corpus):
    """What one worker comes to."""
    found = {}

    def train(overrides):
        key = repr(sorted(overrides.items()))
        if key not in found:
            (found[key],) = workers(1).run("train", corpus=str(corpus), overrides=overrides)
        return found[key]

    return train


@pytest.mark.parametrize("n_workers", [2, 3, 4, 6, 8])
def test_the_bits_are_those_of_one_worker(workers, corpus, alone, n_workers):
    expected = alone(BASE)

    together = workers(n_workers).run("train", corpus=str(corpus), overrides=BASE)

    for worker in together:
        assert worker["weights"] == expected["weights"]
        assert worker["buffers"] == expected["buffers"]
    for step, (_, count) in enumerate(expected["sums"]):
        assert sum(worker["sums"][step][1] for worker in together) == count


@pytest.mark.parametrize("case", CASES)
def test_so_they_are_with_whatever_the_recipe_asks_for(workers, corpus, alone, case):
    overrides = {**BASE, **CASES[case]}

    together = workers(3).run("train", corpus=str(corpus), overrides=overrides)

    for worker in together:
        for kind in ("weights", "buffers"):
            assert worker[kind] == alone(overrides)[kind]


@pytest.mark.parametrize(("n_workers", "per_node"), [(4, 2), (6, 3), (6, 2), (8, 2)])
@pytest.mark.parametrize("reduction", ["tree", "fast"])
def test_in_two_stages_the_sums_are_the_same(workers, corpus, alone, reduction, n_workers, per_node):
    overrides = {**BASE, "model.name": "tiny:Precise", "dist.reduction": reduction, "dist.hierarchical": True}

    together = workers(n_workers).run("train", corpus=str(corpus), overrides=overrides, per_node=per_node)

    for worker in together:
        assert worker["weights"] == together[0]["weights"]
        for name, values in alone({**overrides, "dist.reduction": "tree"})["weights"].items():
            assert worker["weights"][name] == (values if reduction == "tree" else pytest.approx(values, rel=1e-12))


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        ({"dist.leaves": 2}, "dist.leaves: 2"),  # for three workers
        ({"dist.leaves": 32}, "dist.leaves: 32"),
        ({"dist.engine": "ddp"}, "dist.engine: ddp"),
        ({"train.batch_norm": "sync"}, "train.batch_norm: sync"),
        ({"train.micro_batch": "auto"}, "train.micro_batch: auto"),
        ({"train.deterministic": False}, "train.deterministic: false"),
    ],
)
def test_what_would_give_other_bits_is_refused_with_the_reason(workers, corpus, overrides, where):
    refusals = workers(3).run("refusal", corpus=str(corpus), overrides={**BASE, **overrides})

    assert all(refusal.startswith(where) for refusal in refusals), refusals
