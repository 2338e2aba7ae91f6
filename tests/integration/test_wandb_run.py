"""wandb: one run over all restarts, each step once, and no way for it to stop or outlive the training."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import FakeWandb

from distdl.config.schema import WandbConfig
from distdl.run.folder import RunFolder, create_or_reopen, write_json
from distdl.track import wandb_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_or_reopen(tmp_path / "lenet5", resume=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def train_row(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"kind": "train", "step": step, "epoch": step / 10, "samples": 8 * step, "time_s": 1.0 * step, "loss": loss}


def eval_row(step: int, name: str = "eval") -> dict[str, Any]:
    return {**train_row(step), "kind": "eval", "set": name, "top1": 0.9, "count": 100}


def track(folder: RunFolder, *rows: dict[str, Any], outcome: str = "done", **settings: Any) -> str | None:
    """One attempt at a run: the rows are sent, the run ends. Returns the fault, if there was one."""
    settings = {"mode": "online", "project": "mnist", **settings}
    background = wandb_run.start(folder, WandbConfig(**settings), {"optim": {"lr": 0.1}, "api_key": "0123"})
    for row in rows:
        background.put(row)
    background.close(outcome, timeout_s=10)
    return background.fault


def test_the_run_has_the_folders_identity_and_its_files_go_there(folder: RunFolder, fake: FakeWandb) -> None:
    assert track(folder, train_row(10)) is None

    given = fake.init_arguments
    assert given["id"] == folder.run_id() and given["resume"] == "allow"
    assert given["name"] == "lenet5" and given["dir"] == str(folder.path)
    assert given["settings"]["init_timeout"] == wandb_run.INIT_TIMEOUT_S


def test_what_the_config_says_is_what_wandb_is_told(folder: RunFolder, fake: FakeWandb, tmp_path: Path) -> None:
    there = tmp_path / "scratch" / "wandb-files"
    settings = {"project": "mnist", "entity": "us", "group": "sweep-3", "tags": ["lr", "short"], "mode": "online"}

    track(folder, train_row(10), dir=str(there), **settings)

    given = fake.init_arguments
    assert {name: given[name] for name in settings} == settings
    assert given["dir"] == str(there) and there.is_dir()
    assert (folder.path / "wandb" / "sent-online.json").exists()  # what the run has to know stays in its folder


def test_wandb_gets_the_commit_but_no_secret_and_no_copy_of_the_code(folder: RunFolder, fake: FakeWandb) -> None:
    write_json(folder.environment, {"git": "f00d+changes"})

    track(folder, train_row(10))

    given = fake.init_arguments
    assert given["config"] == {"optim": {"lr": 0.1}, "api_key": "***", "git": "f00d+changes"}
    assert given["settings"]["disable_git"] and given["settings"]["disable_code"]


@pytest.mark.parametrize(("word", "is_kept_back"), [("optim.lr=0.1", False), ("model.args.token=abc", True)])
def test_a_command_with_a_secret_in_it_is_not_shown(
    folder: RunFolder, fake: FakeWandb, monkeypatch: pytest.MonkeyPatch, word: str, is_kept_back: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["distdl", "train", "a.yaml", word])

    track(folder, train_row(10))

    assert fake.init_arguments["settings"].get("x_disable_meta", False) == is_kept_back


def test_numbers_are_drawn_over_the_step_which_is_a_number_of_its_own(folder: RunFolder, fake: FakeWandb) -> None:
    event = {"kind": "event", "step": 10, "event": "saved", "message": ""}

    track(folder, train_row(10, loss=2.0), eval_row(10, "dev"), event)

    assert ("*", "step") in fake.axes
    place = {"step": 10, "epoch": 1.0, "samples": 80, "time_s": 10.0}
    assert fake.logged == [
        {"train/loss": 2.0, "train/step": 10, **place},
        {"eval/dev/loss": 1.0, "eval/dev/top1": 0.9, "eval/dev/step": 10, **place},
    ]
    assert fake.hidden == ["train/step", "eval/dev/step"]  # for wandb to remember, not to draw


def test_steps_made_again_after_a_restart_are_not_sent_again(folder: RunFolder, fake: FakeWandb) -> None:
    track(folder, train_row(10), eval_row(10), train_row(20), train_row(30), outcome="failed")
    track(folder, train_row(20), eval_row(20), outcome="failed")  # goes back to 10, dies before it is where it was
    track(folder, train_row(20), eval_row(20), train_row(30), train_row(40))

    sent = [("eval" if "eval/top1" in row else "train", row["step"]) for row in fake.logged]
    assert sent == [("train", 10), ("eval", 10), ("train", 20), ("train", 30), ("eval", 20), ("train", 40)]


def test_steps_that_the_server_has_are_not_sent_again_though_nothing_was_noted(
    folder: RunFolder, fake: FakeWandb
) -> None:
    track(folder, train_row(10), eval_row(10), train_row(20))
    (folder.path / "wandb" / "sent-online.json").unlink()
    fake.resumed = True

    track(folder, train_row(20), eval_row(20), train_row(30))

    assert [row["step"] for row in fake.logged] == [10, 10, 20, 20, 30]


def test_a_worker_that_is_killed_while_it_sends_does_not_send_twice(folder: RunFolder, fake: FakeWandb) -> None:
    fake.log_error = ConnectionError("the end of the process")  # some of it may have arrived
    track(folder, train_row(10), outcome="failed")
    fake.log_error = None

    track(folder, train_row(10), train_row(20))

    assert [row["step"] for row in fake.logged] == [20]


def test_what_was_written_offline_does_not_count_as_sent_online(folder: RunFolder, fake: FakeWandb) -> None:
    track(folder, train_row(10), mode="offline")
    track(folder, train_row(10), mode="online")

    assert len(fake.logged) == 2


def test_a_damaged_note_of_what_was_sent_is_as_good_as_none(folder: RunFolder, fake: FakeWandb) -> None:
    (folder.path / "wandb").mkdir()
    (folder.path / "wandb" / "sent-online.json").write_text('{"train": ')

    assert track(folder, train_row(10)) is None
    assert len(fake.logged) == 1


@pytest.mark.parametrize(
    ("outcome", "calls"),
    [("done", [0, "teardown"]), ("failed", [1, "teardown"]), ("preempted", ["preempting", 1, "teardown"])],
)
def test_wandb_learns_how_the_run_ended(folder: RunFolder, fake: FakeWandb, outcome: str, calls: list[Any]) -> None:
    track(folder, train_row(10), outcome=outcome)

    assert fake.ended == calls


def test_a_failing_start_switches_wandb_off(folder: RunFolder, fake: FakeWandb) -> None:
    fake.init_error = ConnectionError("server is\naway")

    fault = track(folder, train_row(10))

    assert fault is not None and "wandb is off" in fault and "ConnectionError: server is away" in fault


def test_a_failing_row_switches_wandb_off(folder: RunFolder, fake: FakeWandb) -> None:
    fake.log_error = OSError("quota exceeded")

    fault = track(folder, train_row(10), train_row(20))

    assert fault is not None and "quota exceeded" in fault


def test_a_missing_package_switches_wandb_off(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    fault = track(folder, train_row(10))

    assert fault is not None and "wandb is off" in fault


# --- the real wandb, in a process of its own because it changes sys.exit and registers exit handlers ---

ATTEMPT = """
import sys, time
from pathlib import Path
from distdl.config.schema import TrackConfig
from distdl.run.folder import create_or_reopen
from distdl.track import Tracker
import distdl.track

folder = create_or_reopen(Path(sys.argv[1]), resume=True)
mode, first, last = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
distdl.track.CLOSE_TIMEOUT_S = float(sys.argv[5])
tracker = Tracker.open(
    folder, TrackConfig(wandb={"mode": mode, "project": "mnist"}), config={"optim": {"lr": 0.1}},
    resume_step=first or None, total_steps=100, samples_per_epoch=1000, verbosity=0, screen="plain",
)
for step in range(first + 10, last + 1, 10):
    tracker.log({"kind": "train", "step": step, "loss": 1.0 / step})
tracker.close("done", ["the end"])
"""


def attempt(folder: Path, mode: str, first: int, last: int, close_timeout_s: float, **environment: str) -> str:
    """Runs steps first..last in a worker that tracks with wandb; returns all it printed. Fails if a process is left."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    arguments = [str(folder), mode, str(first), str(last), str(close_timeout_s)]
    with subprocess.Popen(
        [sys.executable, "-c", ATTEMPT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**clean, "HOME": str(folder.parent), "WANDB_SILENT": "true", **environment},
    ) as worker:
        output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    wait_for_service_of(worker.pid)
    return output


def wait_for_service_of(pid: int) -> None:
    """Returns when no wandb service of this process is left."""
    deadline = time.monotonic() + 10
    while left := [line for line in running_commands() if "wandb-core" in line and f"--pid {pid} " in f"{line} "]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def running_commands() -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return commands


def test_offline_needs_no_network_and_leaves_no_process(tmp_path: Path) -> None:
    pytest.importorskip("wandb")

    output = attempt(tmp_path / "run", "offline", 0, 30, close_timeout_s=30)

    folder = RunFolder(tmp_path / "run")
    assert "warning" not in output and output.splitlines()[-1] == "the end"
    (offline_run,) = folder.path.glob("wandb/offline-run-*")
    (content,) = offline_run.glob(f"run-{folder.run_id()}.wandb")
    assert b"train/loss" in content.read_bytes()
    assert (folder.path / "wandb" / "sent-offline.json").read_text() == '{"train": 30}'


def test_a_server_that_does_not_answer_delays_the_end_of_the_run_by_no_more_than_the_limit(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}

    started = time.monotonic()
    output = attempt(tmp_path / "run", "online", 0, 30, close_timeout_s=2, **nowhere)

    assert time.monotonic() - started < 20  # wandb itself waits for 60 s here, and once more when Python exits
    lines = output.splitlines()
    assert len(lines) == 5 and "warning: wandb is off" in lines[-2] and lines[-1] == "the end"
