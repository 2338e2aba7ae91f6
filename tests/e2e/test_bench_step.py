"""`distdl bench step` on several workers, which it starts itself."""

import json


def test_workers_are_started_and_measured_together(place):
    result = place.run("bench", "step", place.config(), "train.threads=1", "--nproc", 2, "--steps", 4, "--json")

    assert result.code == 0, result.output
    measured = json.loads(result.output[result.output.index("{") :])
    assert (measured["workers"], measured["data"]) == (2, "digits/train")
    assert measured["exchange_s"] > 0
    assert not (place.path / "runs").exists()


def test_a_mistake_in_the_config_is_told_without_a_traceback_and_leaves_nothing(place):
    result = place.run("bench", "step", place.config(), "train.global_batch=1", "--nproc", 2)

    assert result.code == 2
    assert "a global batch of 1 can't be shared by 2 workers" in result.output
    assert "Traceback" not in result.output
    assert not (place.path / "runs").exists()
