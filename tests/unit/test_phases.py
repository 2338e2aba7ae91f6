"""Where a step's time goes."""

import pytest
import torch

from distdl.trainer import phases as phases_module
from distdl.trainer.phases import NAMES, HostPhases


class Clock:
    s = 0.0

    def perf_counter(self):
        return self.s


def test_phases_are_the_mean_over_the_steps_since_the_last_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(phases_module, "time", clock)
    phases = HostPhases()
    for _ in range(2):
        for _ in range(2):  # micro-batches
            phases.enter("forward")
            clock.s += 0.25
            phases.enter("backward")
        phases.enter("exchange")
        phases.enter("update")
        phases.leave()
        clock.s += 1  # between steps: nobody's

    seconds = phases.take()

    assert seconds == {name: 0.5 if name == "forward" else 0 for name in NAMES}
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
