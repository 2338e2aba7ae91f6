"""Where a run puts and looks for things: nothing in the home, everything where `paths` says."""

import sys

import pytest

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distdl")
SITE = "paths: {runs: $STORE/runs, data: $STORE/sets, cache: $LOCAL/cache, scratch: $LOCAL/scratch}\n"


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
def test_a_run_leaves_nothing_in_the_home(place, launcher):
    home = place.path / "home"
    home.mkdir()
    place.environment |= {"HOME": str(home), "TMPDIR": str(home.parent)}
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        place.environment.pop(name, None)
    start = {} if launcher == "ours" else {"launcher": TORCHRUN}
    arguments = ["--nproc", "2"] if launcher == "ours" else []
    config = place.config(train__steps=4, data__train__shards="digits/train", track__wandb={"mode": "offline"})
    result = place.run("train", config, *arguments, **start)
    assert result.code == 0, result.output
    assert files(home) == set()


def test_runs_data_and_what_is_kept_lie_where_the_site_says(place):
    store, local = place.path / "store", place.path / "local"
    (store / "sets").mkdir(parents=True)
    (place.path / "digits").rename(store / "sets" / "digits")
    (place.path / "site.yaml").write_text(SITE)
    place.environment |= {
        "STORE": str(store),
        "LOCAL": str(local),
        "DISTDL_SITE": str(place.path / "site.yaml"),
    }
    config = place.config(train__steps=4)

    result = place.run("train", config, "--nproc", "2")
    assert result.code == 0, result.output
    assert {"run.json", "metrics.jsonl", "final.json"} <= files(store / "runs" / "run")
    assert not (place.path / "runs").exists()
    assert (local / "scratch").is_dir()

    listed = place.run("runs")
    assert listed.code == 0 and "run" in listed.output and "done" in listed.output
    evaluated = place.run("eval", "run")
    assert evaluated.code == 0, evaluated.output
    assert place.run("train", config, "--nproc", "2", "--resume").code == 0

    refused = place.run("train", config, "--name", "other", DISTDL_SITE="")
    assert refused.code == 2 and "digits/train: can't open" in refused.output, refused.output
    del place.environment["LOCAL"]
    refused = place.run("train", config, "--name", "other")
    assert refused.code == 2 and "$LOCAL is not set on this machine" in refused.last_line, refused.output
    assert [path.name for path in (store / "runs").iterdir()] == ["run"]
