"""Whatever is switched on, a run that is killed and resumed ends with the bits of one that was not."""

import json

import pytest

pytestmark = pytest.mark.timeout(240)

FEW_STEPS = {"train__steps": 24, "train__eval_every": 6, "checkpoint__every": 5}
CASES = {
    "fp16, accumulation, EMA, plateau": {
        "train__precision": "fp16",
        "train__micro_batch": 9,
        "train__ema": 0.95,
        "optim__name": "adamw",
        "optim__lr": 0.01,
        "schedule": {"name": "plateau", "args": {"metric": "loss", "patience": 1, "factor": 0.5, "threshold": 0.05}},
    },
    "bf16, equal averaging, noise, balanced draws": {
        "train__precision": "bf16",
        "train__average_from": 8,
        "train__noise": {"input": 0.1, "weight": 0.01, "gradient": 0.001},
        "data__sampling": "balanced",
        "optim__name": "rmsprop",
        "optim__lr": 0.001,
    },
    "growing batches, adversarial examples, L1, groups": {
        "train__batch_growth": {"epochs": [0.3, 0.6], "factor": 2},
        "train__adversarial": {"epsilon": 0.1},
        "optim__name": "lamb",
        "optim__l1": 1e-5,
        "optim__groups": {"features.c1.*": {"lr_scale": 0.5}},
    },
    "synchronous batch norm, stochastic depth, dropout, Muon": {
        "model": {"name": "faulty:resnet20", "args": {"channels": 1, "stochastic_depth": 0.2, "dropout": 0.1}},
        "train__batch_norm": "sync",
        "train__global_batch": 10,
        "train__early_stop": {"metric": "loss", "patience": 50},
        "optim__name": "muon",
        "schedule": {"name": "one_cycle"},
    },
}


def kill_and_resume(place, case, nth):
    config = place.config(**{"model__name": "faulty:lenet5", **FEW_STEPS, **CASES[case]})
    fault = {"rank": 1, "where": "train", "nth": nth, "kill": "self", "once": str(place.path / "struck")}

    whole = place.run("train", config, "--nproc", 2, "--name", "whole")
    killed = place.run("train", config, "--nproc", 2, "--name", "killed", FAULT=json.dumps(fault))
    resumed = place.run("train", config, "--nproc", 2, "--name", "killed", "--resume")

    assert (whole.code, killed.code, resumed.code) == (0, 1, 0), whole.output + killed.output + resumed.output
    assert "resumed at step" in resumed.output
    assert place.hash("killed") == place.hash("whole")
    for kind, keys in (("train", ("step", "loss", "lr")), ("eval", ("step", "loss", "top1"))):
        by_run = [[[row[key] for key in keys] for row in place.rows(run, kind)] for run in ("killed", "whole")]
        assert by_run[0] == by_run[1]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_with_all_that_its_techniques_have_gathered(place, case):
    kill_and_resume(place, case, nth=37 if "accumulation" in case else 17)


@pytest.mark.matrix
@pytest.mark.parametrize("nth", [2, 8, 13, 23])
@pytest.mark.parametrize("case", CASES)
def test_at_other_steps_as_well(place, case, nth):
    kill_and_resume(place, case, nth)
