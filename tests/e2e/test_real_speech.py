"""Real recordings: the recipe for spoken digits, from packing to the figure that its config promises."""

from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "configs" / "speech" / "fsdd_keyword.yaml"


@pytest.mark.needs("data")
@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_spoken_digits_are_told_apart(place, real_data):
    packed = place.run("data", "pack", "fsdd", real_data / "fsdd", place.path / "data" / "fsdd")
    assert packed.code == 0, packed.output

    ran = place.run("train", CONFIG, "--nproc", 2, "--name", "digits", deadline=800)

    assert ran.code == 0, ran.output
    last = place.rows("digits", "eval")[-1]
    assert last["count"] == 300
    assert last["top1"] >= 0.97
