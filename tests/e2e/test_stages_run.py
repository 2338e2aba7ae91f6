"""Code of one's own between reading and decoding: a run ends with the same bits after a stop, with any threads."""

import pytest

pytestmark = pytest.mark.timeout(240)

PLUGIN = """
import random
import distdl

@distdl.register_stage
def at_times_inverted(samples):
    for sample in samples:
        chance = random.Random(sample["__seed__"]).random()
        if chance < 0.02:
            raise LookupError("bad luck")
        yield sample | {"png": 255 - sample["png"] if chance < 0.2 else sample["png"]}
"""


def test_a_run_with_stages_goes_on_with_the_same_bits(place):
    (place.path / "my.py").write_text(PLUGIN)
    stages = [{"webdataset:decode": "l8"}, "at_times_inverted"]
    transforms = [{"resize": 32}, {"normalise": {"mean": [0.3], "std": [0.37]}}]
    train = {"shards": "digits/train", "stages": stages, "transforms": transforms}
    config = place.config(plugins=["my.py"], data__train=train, train__steps=16, schedule={"name": "constant"})

    whole = place.run("train", config, "--name", "whole", "data.workers=3")
    part = place.run("train", config, "--name", "resumed", "data.workers=1", "train.steps=7")
    rest = place.run("train", config, "--name", "resumed", "data.workers=1", "--resume")

    assert (whole.code, part.code, rest.code) == (0, 0, 0), whole.output + part.output + rest.output
    assert "stage at_times_inverted: LookupError: bad luck" in whole.output
    assert place.hash("whole") == place.hash("resumed")
