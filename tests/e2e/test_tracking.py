"""Where numbers go, over kills and resumes: wandb's files, a wandb server, a wandb that hangs; and system metrics."""

import json
import os
import signal
import statistics
import struct
import time
from collections import Counter

import pytest
from wandb_server import WandbServer

pytestmark = pytest.mark.timeout(240)


def run_id(place):
    return json.loads((place.path / "runs/run/run.json").read_text())["run_id"]


def curves(rows):
    """The steps of each curve, as often as they came: {("train", 7): 1, ("eval", 16): 1, ...}"""
    return Counter((name, row[f"{name}/step"]) for row in rows for name in ("train", "eval") if f"{name}/step" in row)


def wait_until_wandb_has(place, process, step, mode):
    """Until the rows of this step were given to wandb."""
    note = place.path / f"runs/run/wandb/sent-{mode}.json"
    deadline = time.monotonic() + 60
    while not note.exists() or json.loads(note.read_text())["train"] < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def kill_twice_and_finish(place, mode, **environment):
    """All processes of a run are killed after step 150, its supervisor after step 450; returns the last step."""
    wandb = {"mode": mode, "project": "test", "group": "kills"}
    lasting = {"checkpoint__every": 50, "train__eval_every": 100, "track__wandb": wandb, "model__name": "faulty:lenet5"}
    command = ("train", place.config(train__steps=10_000, **lasting), "--nproc", 1, "--resume")
    for step, victims in ((150, "all"), (450, "supervisor")):
        process = place.start(*command, **environment)
        wait_until_wandb_has(place, process, step, mode)
        for pid in place.processes() if victims == "all" else [process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        assert place.gone_within(20), "processes were left behind"  # wandb's own notices a few seconds later
    last_step = 50 * (place.rows("run")[-1]["step"] // 50) + 200

    place.config(train__steps=last_step, **lasting)
    result = place.run(*command, **environment)

    assert result.code == 0 and "warning" not in result.output, result.output
    assert [row["step"] for row in place.rows("run")] == list(range(1, last_step + 1))
    return last_step


def read_wandb_file(path):
    """The records of a .wandb file: protocol buffers in blocks of LevelDB's log format. A torn end is left out."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    position, parts = 7, b""  # behind wandb's own header
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        part = content[position + 7 : position + 7 + length]
        if kind == 0 or len(part) < length:
            return
        parts += part
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_an_offline_wandb_run_that_is_killed_twice_is_one_run_with_no_step_twice(place):
    pytest.importorskip("wandb")

    last_step = kill_twice_and_finish(place, "offline")

    files = list((place.path / "runs/run/wandb").glob("offline-run-*/*.wandb"))
    records = [record for file in files for record in read_wandb_file(file)]
    rows = [
        {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert len(files) == 3
    assert {record.run.run_id for record in records if record.HasField("run")} == {run_id(place)}
    assert {record.run.run_group for record in records if record.HasField("run")} == {"kills"}
    sent = curves(rows)
    assert max(sent.values()) == 1
    assert sent["train", 100] and sent["eval", 100] and sent["train", last_step] and sent["eval", last_step]


def test_an_online_wandb_run_that_is_killed_twice_is_one_run_with_no_step_twice(place):
    pytest.importorskip("wandb")
    with WandbServer() as server:
        last_step = kill_twice_and_finish(place, "online", WANDB_BASE_URL=server.url, WANDB_API_KEY="0" * 40)

        (stored,) = server.runs.items()

    assert stored[0] == run_id(place) and stored[1].fields["groupName"] == "kills"
    sent = curves(stored[1].history)
    assert max(sent.values()) == 1
    assert sent["train", last_step] and sent["eval", last_step]
    assert stored[1].exit_codes[-1] == 0


def test_sync_sends_what_the_server_lacks_also_while_the_run_trains(place):
    pytest.importorskip("wandb")
    eval_every = {"train__eval_every": 100, "checkpoint__every": 50}
    with WandbServer() as server:
        there = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
        process = place.start("train", place.config(train__steps=10_000, **eval_every), "--nproc", 1)
        while not (place.path / "runs/run/metrics.jsonl").exists() or len(place.rows("run")) < 120:
            assert process.poll() is None
            time.sleep(0.02)
        first = place.run("sync", "run", "--project", "digits", **there)
        assert first.code == 0 and "rows sent to http://127.0.0.1" in first.output
        n_sent = len(server.runs[run_id(place)].history)
        process.kill()
        process.communicate()
        assert place.gone_within(20)
        last_step = place.rows("run")[-1]["step"] + 100

        config = place.config(train__steps=last_step, **eval_every)
        resumed = place.run(
            "train", config, "--nproc", 1, "--resume"
        )  # drops rows that were sent, and makes them again
        assert resumed.code == 0, resumed.output
        (place.path / "runs/run/wandb/sent-online.json").unlink()  # the server knows it all
        again, nothing_left = (place.run("sync", "run", "--project", "digits", **there) for _ in range(2))

        stored = server.runs[run_id(place)]

    assert again.code == 0 and nothing_left.output.startswith("run: 0 rows sent"), again.output + nothing_left.output
    assert len(stored.history) > n_sent >= 120
    rows = [("train", row["step"]) for row in place.rows("run")]
    rows += [("eval", row["step"]) for row in place.rows("run", "eval")]
    assert curves(stored.history) == Counter(rows)  # each of them once
    assert stored.project == "digits" and stored.exit_codes[-1] == 0
    assert not list((place.path / "runs/run/wandb").glob("run-*")), "sync leaves no files of wandb"


def test_sync_says_what_it_needs(place):
    pytest.importorskip("wandb")
    assert place.run("train", place.config(train__steps=2)).code == 0
    home = {"HOME": str(place.path), "WANDB_BASE_URL": "http://127.0.0.1:9"}

    no_key = place.run("sync", "run", **home)
    no_package = place.run("sync", "run", PYTHONPATH=str(blocking_wandb(place, "raise ImportError('no wandb here')")))
    no_run = place.run("sync", "nowhere")

    assert no_key.code == 2 and "wandb login" in no_key.last_line
    assert no_package.code == 2 and "pip install" in no_package.last_line
    assert no_run.code == 2 and "no run 'nowhere'" in no_run.output


# --- a wandb that hangs ---

HANGS = """
import os, time
def Settings(**settings): ...
def setup(settings=None): ...
class Run:
    url, resumed, summary = "http://wandb", False, {}
    def define_metric(self, *name, **options): ...
    def finish(self, exit_code): ...
    def log(self, values):
        hang("log")
def init(**options):
    hang("init")
    return Run()
def teardown(): ...
def hang(where):
    if where == os.environ["HANGS"]:
        time.sleep(3600)
"""


def blocking_wandb(place, source):
    """A folder for PYTHONPATH with a package named wandb."""
    folder = place.path / "not-wandb"
    folder.mkdir()
    (folder / "wandb.py").write_text(source)
    return folder


def test_a_wandb_that_hangs_for_ever_neither_slows_nor_stops_the_run(place):
    config = place.config(track__wandb={"mode": "online"})
    fake = blocking_wandb(place, HANGS)
    path = os.pathsep.join([str(fake), place.environment["PYTHONPATH"]])

    plain = place.run("train", config, "--name", "plain", "track.wandb.mode=disabled")
    hung = {
        where: place.run("train", config, "--name", where, PYTHONPATH=path, HANGS=where) for where in ("init", "log")
    }

    for where, result in hung.items():
        assert result.code == 0, result.output
        assert result.output.count("warning") == 1 and "warning: wandb is off" in result.output
        assert [row["step"] for row in place.rows(where)] == list(range(1, 41))
        assert result.seconds < 2 * plain.seconds + 60  # it is given 10 s to finish, and machines are busy
        assert median_step_s(place, where) < 5 * median_step_s(place, "plain")


def median_step_s(place, run):
    return statistics.median(row["step_s"] for row in place.rows(run))


# --- the system ---


def test_system_metrics_count_all_processes_of_the_job(place):
    config = place.config(train__steps=300, checkpoint__every=300, train__eval_every=300, track__system_every="0.2 s")

    result = place.run("train", config, "--nproc", 2)

    assert result.code == 0, result.output
    rows = place.rows("run", "system")
    assert len(rows) >= 3
    assert all(row["job_cpu_percent"] <= row["cpu_percent"] + 20 for row in rows)  # ticks are 10 ms
    assert max(row["job_cpu_percent"] for row in rows) > 20
    assert rows[-1]["job_memory_bytes"] > 2 * 100e6  # two workers that have imported torch
    assert {row["step"] for row in rows} <= {row["step"] for row in place.rows("run")}
    assert "cpu_percent" not in result.output
