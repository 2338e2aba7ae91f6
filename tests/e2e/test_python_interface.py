"""distdl from Python: a run in a process of its own, what comes back, and how it is stopped."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import distdl

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place.path)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place


def test_a_run_from_python_streams_its_output_and_comes_back_with_its_numbers(here, capfd):
    result = distdl.train(here.config(train__ema=0.9), nproc=2, train__steps=20)

    assert (result.outcome, result.exit_code, result.name) == ("done", 0, "run")
    assert "step 20/20" in capfd.readouterr().out
    last = distdl.metrics("run", kind="eval")[-1]
    assert result.metrics == last and result.final["steps"] == 20
    assert result.best["metric"] == "loss"
    assert {row["kind"] for row in distdl.metrics(result.folder)} >= {"train", "eval"}

    model, rng = distdl.load_model("run"), torch.random.get_rng_state()
    batches = list(distdl.batches("run.yaml", split="eval"))
    with torch.inference_mode():
        hits = sum((model(batch["image"]).argmax(1) == batch["label"]).sum().item() for batch in batches)
    assert hits / last["count"] == last["top1"] and not model.training
    assert torch.equal(rng, torch.random.get_rng_state())


def test_a_mapping_is_a_config_and_a_run_can_be_resumed(here):
    import yaml

    config = yaml.safe_load(here.config().read_text())

    first = distdl.train(config, name="own", quiet=True, overrides={"train.steps": 5})
    again = distdl.train(config, name="own", resume=True, quiet=True, train={"steps": 10})

    assert (first.final["steps"], again.final["steps"]) == (5, 10)


def test_a_mistake_that_shows_only_in_the_run_is_the_users(here):
    with pytest.raises(distdl.UserError, match=r"^data.train.shards: nowhere"):
        distdl.train(here.config(data__train__shards="nowhere"))
    with pytest.raises(distdl.UserError, match="this run folder exists"):
        distdl.train(here.config(train__steps=1))
        distdl.train(here.config(train__steps=1))


def test_a_bug_raises_with_the_last_lines_of_the_run(here):
    (here.path / "broken.py").write_text("def net():\n    return 1 / 0\n")
    here.environment["PYTHONPATH"] = str(here.path)

    with pytest.raises(distdl.TrainingFailed, match="ZeroDivisionError") as caught:
        distdl.train(here.config(model={"name": "broken:net"}), arguments=["--max-restarts", "0"])

    assert caught.value.exit_code == 1 and caught.value.name == "run"


CALLER = """
import distdl
try:
    distdl.train("run.yaml", nproc=2, train__steps=1000000, train__log_every=1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start_and_wait_for_a_step(here):
    here.config()
    process = here.start("-c", CALLER, launcher=(sys.executable,))
    for line in process.stdout:
        if "step 3/" in line:
            return process
    raise AssertionError("the run did not begin")


def wait_for_a_checkpoint(here):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and here.processes():
        time.sleep(0.1)
    assert not here.processes()
    assert list((here.path / "runs/run/checkpoints").glob("step-*/manifest.json"))
    return json.loads((here.path / "runs/run/final.json").read_text())["outcome"]


def test_an_interrupt_in_a_notebook_saves_the_run_and_reaches_the_caller(here):
    process = start_and_wait_for_a_step(here)

    process.send_signal(signal.SIGINT)  # to the caller alone, as a notebook's stop button does
    output, _ = process.communicate(timeout=60)

    assert output.rstrip().endswith("interrupted") and process.returncode == 0
    assert wait_for_a_checkpoint(here) == "interrupted"


def test_a_killed_notebook_leaves_a_run_that_was_saved_and_nothing_running(here):
    process = start_and_wait_for_a_step(here)

    process.kill()
    process.communicate(timeout=60)

    assert wait_for_a_checkpoint(here) == "preempted"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(here, path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "stored without outputs"

    nbclient.NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(here.path)}}).execute()

    said = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "top1" in said and "Traceback" not in said
