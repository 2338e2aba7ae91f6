"""Where a step's time goes."""

import time

import pytest
import torch

from distdl.trainer.phases import NAMES, HostPhases


def test_phases_are_the_mean_over_the_steps_since_the_last_time():
    phases = HostPhases()
    for _ in range(2):
        for _ in range(2):  # micro-batches
            phases.enter("forward")
            time.sleep(0.01)
            phases.enter("backward")
        phases.enter("exchange")
        phases.enter("update")
        phases.leave()
        time.sleep(0.05)  # between steps: nobody's

    seconds = phases.take()

    assert tuple(seconds) == NAMES
    assert 0.02 <= seconds["forward"] < 0.06
    assert sum(seconds.values()) < 0.07
    assert phases.take() == {}


@pytest.mark.parametrize("annotate", [True, False])
def test_phases_are_named_in_a_profile_if_asked(annotate):
    phases = HostPhases()
    phases.annotate = annotate

    with torch.profiler.profile() as profile:
        for name in NAMES:
            phases.enter(name)
            torch.ones(3).sum()
        phases.leave()

    named = {event.name for event in profile.events()} & set(NAMES)
    assert named == (set(NAMES) if annotate else set())
