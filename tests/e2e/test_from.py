"""A run that starts from another one's checkpoint only reads there."""

import pytest

from distdl.run import lease
from distdl.run.folder import RunFolder

pytestmark = pytest.mark.timeout(120)


def contents(path):
    """Every file and folder below `path`: content and time of the last change."""
    return {
        str(each.relative_to(path)): (each.stat().st_mtime_ns, each.read_bytes() if each.is_file() else None)
        for each in sorted(path.rglob("*"))
    }


@pytest.mark.parametrize("source, flags", [("source", ()), ("source@10", ("--weights-only",))])
def test_the_source_run_is_left_as_it_is_also_while_somebody_trains_there(place, source, flags):
    config = place.config(train__steps=12, checkpoint__every=5)
    assert place.run("train", config, "--name", "source").code == 0
    folder = RunFolder(place.path / "runs/source")
    (folder.checkpoints / ".step-00000013.part").mkdir()  # a save under way: not ours to sweep
    with lease.take(folder):
        before = contents(folder.path)

        started = place.run("train", config, "--name", "new", "--from", source, *flags, "train.steps=14")

        assert started.code == 0, started.output
        assert contents(folder.path) == before
    first_step = 1 if flags else 13
    assert [row["step"] for row in place.rows("new")] == list(range(first_step, 15))
