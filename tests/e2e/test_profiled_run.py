"""`distdl train --profile`: a trace of each worker, with the parts of the step by name."""

import gzip
import json

PARTS = {"data wait", "forward", "backward", "exchange", "update"}


def test_every_worker_leaves_a_trace_of_the_named_steps(place):
    result = place.run("train", place.config(train__steps=6), "--nproc", 2, "--profile", "3:5")

    assert result.code == 0, result.output
    for rank in (0, 1):
        trace = place.path / "runs" / "run" / "profile" / f"rank-{rank}-steps-3-5.json.gz"
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
        names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        assert {name: names.count(name) for name in PARTS} == dict.fromkeys(PARTS, 2)


def test_a_range_that_cant_be_traced_is_refused_before_anything_starts(place):
    result = place.run("train", place.config(), "--profile", "5:5")

    assert result.code == 2
    assert "--profile" in result.output
    assert not (place.path / "runs").exists()
