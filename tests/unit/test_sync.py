"""`distdl sync`: each row once, whatever happened to the run, to the last sync, or to metrics.jsonl meanwhile."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_wandb import FakeWandb

from distdl.errors import UserError
from distdl.run import lease
from distdl.run.folder import RunFolder, create_or_reopen, write_json
from distdl.track import jsonl
from distdl.track.jsonl import MetricsFile
from distdl.track.sync import sync


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_or_reopen(tmp_path / "lenet5", resume=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    """A wandb that keeps what it is sent, and knows a run again when there was something to keep."""
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def train(folder: RunFolder, *steps: int, resume_step: int | None = None) -> None:
    """What a start of the run does to metrics.jsonl."""
    metrics = MetricsFile(folder.metrics, resume_step)
    for step in steps:
        metrics.append({"kind": "train", "step": step, "loss": 1.0 / step})
        if step % 20 == 0:
            metrics.append({"kind": "eval", "step": step, "set": "eval", "top1": 0.5})
    metrics.close()


def send(folder: RunFolder, server: FakeWandb, **options: Any) -> int:
    server.resumed = bool(server.logged)
    return sync(folder, lambda message: None, **options)


def arrived(server: FakeWandb, name: str = "train") -> list[int]:
    return [row["step"] for row in server.logged if f"{name}/step" in row]


def test_all_that_was_logged_is_sent_once(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10, 20, 30)

    counts = [send(folder, server), send(folder, server)]

    assert counts == [4, 0]
    assert arrived(server) == [10, 20, 30] and arrived(server, "eval") == [20]
    assert server.logged[0]["train/loss"] == 0.1
    assert server.init_arguments["id"] == folder.run_id() and server.init_arguments["resume"] == "allow"


def test_what_came_in_the_meantime_is_sent_the_next_time(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10, 20)
    send(folder, server)
    folder.metrics.write_bytes(
        folder.metrics.read_bytes() + jsonl.encode({"kind": "train", "step": 30, "loss": 1})[:20]
    )
    while_a_row_is_written = send(folder, server)
    train(folder, 30, resume_step=20)

    assert (while_a_row_is_written, send(folder, server)) == (0, 1)
    assert arrived(server) == [10, 20, 30]


def test_steps_that_a_resumed_run_makes_again_are_not_sent_again(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10, 20, 30, 40)
    send(folder, server)
    train(folder, 30, resume_step=20)  # killed before it is where it was
    behind = send(folder, server)
    train(folder, 30, 40, 50, 60, resume_step=20)

    assert (behind, send(folder, server)) == (0, 3)
    assert arrived(server) == [10, 20, 30, 40, 50, 60] and arrived(server, "eval") == [20, 40, 60]


def test_the_server_is_believed_and_not_a_note_of_what_never_arrived(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10, 20)
    (folder.path / "wandb").mkdir()
    write_json(folder.path / "wandb" / "sent-online.json", {"train": 20, "eval": 20})

    assert send(folder, server) == 3


def test_a_sync_that_failed_is_made_up_for(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10, 20)
    server.log_error = OSError("the network is down")
    with pytest.raises(OSError):
        send(folder, server)
    server.log_error = None

    assert send(folder, server) == 3


def test_offline_the_note_is_all_there_is(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10)

    counts = [sync(folder, lambda message: None, "offline") for _ in range(2)]

    assert counts == [1, 0]
    assert server.init_arguments["dir"] == str(folder.path)


def test_it_goes_where_the_config_says_unless_told_otherwise(folder: RunFolder, server: FakeWandb) -> None:
    wandb = {"mode": "disabled", "project": "mnist", "entity": "us", "group": "g", "a_key_of_a_later_version": 1}
    folder.config.write_text(yaml.safe_dump({"track": {"wandb": wandb}, "optim": {"lr": 0.1}}))
    train(folder, 10)
    send(folder, server)
    by_config = server.init_arguments
    send(folder, server, project="other", entity="them")

    assert [by_config[key] for key in ("project", "entity", "group", "mode")] == ["mnist", "us", "g", "online"]
    assert by_config["config"]["optim"] == {"lr": 0.1}
    assert [server.init_arguments[key] for key in ("project", "entity")] == ["other", "them"]


def test_the_machine_that_syncs_is_not_described_as_the_one_that_trained(folder: RunFolder, server: FakeWandb) -> None:
    send(folder, server)

    assert server.init_arguments["settings"]["x_disable_machine_info"]
    assert not Path(server.init_arguments["dir"]).exists()  # its files are of no use afterwards


@pytest.mark.parametrize(("outcome", "exit_code"), [("done", 0), ("preempted", 1), (None, 1)])
def test_wandb_learns_what_became_of_the_run(
    folder: RunFolder, server: FakeWandb, outcome: str | None, exit_code: int
) -> None:
    if outcome:
        write_json(folder.final, {"outcome": outcome})

    send(folder, server)

    assert exit_code in server.ended


def test_a_run_that_trains_without_wandb_can_be_sent_meanwhile(folder: RunFolder, server: FakeWandb) -> None:
    train(folder, 10)

    with lease.take(folder):
        assert send(folder, server) == 1
    assert 0 in server.ended  # it has not failed


# --- mistakes ---


def test_a_run_that_sends_its_rows_itself_is_left_alone(folder: RunFolder, server: FakeWandb) -> None:
    folder.config.write_text("track: {wandb: {mode: online}}")

    with lease.take(folder), pytest.raises(UserError, match="itself while it trains"):
        send(folder, server)


def test_two_at_a_time_would_send_the_same_rows(
    folder: RunFolder, server: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(folder, 10)
    errors = []

    def sync_as_well(values: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="under way") as caught:
            send(folder, server)
        errors.append(caught.value)

    monkeypatch.setattr(server, "log", sync_as_well)
    send(folder, server)

    assert len(errors) == 1


@pytest.mark.parametrize("error", ["No API key configured", "Failed to get resume status: no such host"])
def test_without_a_key_or_a_network_it_says_what_to_do(folder: RunFolder, server: FakeWandb, error: str) -> None:
    server.init_error = server.errors.Error(error)

    with pytest.raises(UserError, match=rf"{error}[^Z]*wandb login"):
        send(folder, server)


def test_without_the_package_it_says_what_to_install(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    with pytest.raises(UserError, match="pip install wandb"):
        sync(folder, print)
