"""Ways to start a run x what may become of it: the right exit code, a line that says why, in seconds, and nothing left.

With DISTDL_TABLE=FILE each cell appends a line of JSON to it.
"""

import json
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest
from ways import TORCHRUN_PORT, WAYS, until

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("slurm", "ssh", "mpi")]

SMALL = {"dist__reduction": "tree", "train__global_batch": 48, "train__steps": 12, "train__eval_every": None}
ANSWER_S = 15.0
DECOY = "link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up"
OUTCOMES = (
    "ok",
    "exception",
    "SIGKILL",
    "out of memory",
    "port taken",
    "decoys",
    "no such host",
    "other version",
    "no shards",
    "time limit",
)
IN_SHORT = {  # each row and each column once; `--matrix` runs all
    ("torchrun", "ok"),
    ("Slurm", "exception"),
    ("mpirun", "SIGKILL"),
    ("ssh", "out of memory"),
    ("Slurm", "port taken"),
    ("torchrun", "decoys"),
    ("mpirun", "no such host"),
    ("torchrun", "other version"),
    ("ssh", "no shards"),
    ("local", "time limit"),
}
CELLS = [
    pytest.param(way, outcome, marks=[] if (way, outcome) in IN_SHORT else pytest.mark.matrix)
    for outcome in OUTCOMES
    for way in WAYS
]

# Says on one host alone that its torch is another one, or that the shards lie elsewhere.
SITE = """
import importlib.metadata, os, socket
is_second = {second!r} in (socket.gethostname(), "rank " + os.environ.get("RANK", ""))
if is_second and {what!r} == "other version":
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: "2.0.1" if name == "torch" else real(name)
if {what!r} == "no shards":
    os.environ["SETS"] = "/nowhere" if is_second else {sets!r}
"""
TAKER = """
import os, socket, sys, time
from distdl.comm import slurm, slurm_meeting
nodes = os.environ["SLURM_JOB_NODELIST"]
step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "0"}
step |= {"SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": nodes, "SLURM_NTASKS": "2"}
task = slurm.task({**os.environ, **step})
held = [socket.create_server(("", port)) for port in slurm_meeting.ports(task.word)[:3]]
print("took", len(held), flush=True)
time.sleep(30)
"""


class Cell:
    """What is to be done before, what the exit code is to be, and what a line has to say."""

    def __init__(self, way, name):
        self.way, self.name, self.place = way, name, way.place
        self.code, self.says = 0, r"100\.0 %|finished|top1"
        self.changes = {}
        self.held = []
        self.at = None  # of a fault: the file that notes when
        getattr(self, name.replace(" ", "_"))(type(way).__name__.lower())

    def ok(self, way):
        pass

    def exception(self, way):
        self._fault("raises")
        self.code, self.says = 1, r"RuntimeError: of rank 1"

    def SIGKILL(self, way):
        self._fault("killed")
        self.code, self.says = (
            {"slurm": 137, "mpirun": 137}.get(way, 1),
            {
                "local": r"rank 1 on \S+ failed.*:\n(.*\n)?killed by SIGKILL",
                "ssh": r"rank 1 on b failed.*:\n(.*\n)?killed by SIGKILL",
                "slurm": r"node2: task 1: Killed",
                "mpirun": r"rank 1 .*on node b exited on signal 9",
                "torchrun": r"Signal 9 \(SIGKILL\)",
            }[way],
        )

    def out_of_memory(self, way):
        self._fault("memory")
        self.code = 1 if way == "torchrun" else 2  # smaller portions would have done
        self.says = r"out of memory on cpu with \d+ rows at a time"

    def port_taken(self, way):
        if way == "torchrun":
            self._hold(TORCHRUN_PORT)
            self.way.is_first_enough = True
            self.code, self.says = 1, r"EADDRINUSE|[Aa]ddress already in use"
        elif way == "slurm":
            (self.place.path / "taker.py").write_text(TAKER)
            line = f"env -u DISTDL_TEST {sys.executable} {self.place.path}/taker.py & sleep 2"
            self.way.arguments.append(f"slurm.setup={json.dumps([line])}")
            self.says = r"took 3\n"
        else:
            for port in (29400, 29500, 29501):
                self._hold(port)

    def decoys(self, way):
        hosts = self.way.cluster.hosts if way == "slurm" else self.way.hosts.network
        for name in ("node1", "node2") if way == "slurm" else ("a", "b"):
            hosts.ip(name, DECOY)
            self.held.append(lambda name=name: hosts.ip(name, "link del docker0"))

    def no_such_host(self, way):
        if way == "ssh":
            self.way.to, self.code = "a:1,nowhere.invalid:1", 2
            self.says = r"nowhere\.invalid: ssh has ended .*(resolve|Name or service)"
        elif way == "mpirun":
            self.way.to, self.code = "a:1,nowhere.invalid:1", 255
            self.says = r"Could not resolve hostname nowhere"
        elif way == "torchrun":
            self.way.master, self.code = "nowhere.invalid", 1
            self.way.options = ["--rdzv-conf", "timeout=10"]  # of its own, which is ten minutes
            self.says = r"nowhere\.invalid"
        else:  # what is set there by hand, or by an old script, misleads nobody
            self.way.environment |= {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1"} if way == "slurm" else {}

    def other_version(self, way):
        self._site()
        if way != "local":  # where there is but one
            second = "rank 1" if way == "mpirun" else self.way.second
            self.code = 1 if way == "torchrun" else 2
            self.says = rf"({second}|b): torch 2\.0\.1 is not that of (a|node1), 2\."

    def no_shards(self, way):
        (self.place.path / "sets").mkdir()
        (self.place.path / "digits").rename(self.place.path / "sets/digits")
        self._site()
        self.changes = {"paths": {"data": "$SETS"}}
        self.code = 1 if way == "torchrun" else 2
        self.says = r"rank 1 on \S+.*\n.*digits/train|(b|node2)\S*: .*digits/train|digits/train: can't open"

    def time_limit(self, way):
        self.changes = {"model__name": "paced:lenet5", "model__args": {"classes": 10, "pace_s": 0.5}}
        self.changes |= {"train__steps": 500, "train__stop_after": "3 s"}
        self.code, self.says = 1 if way == "torchrun" else 75, r"preempted: step \d+/500"

    def _fault(self, how):
        self.at = self.place.path / "at"
        fault = {"rank": 1, "after": 6, "how": how, "at": str(self.at)}
        self.way.environment["HANG"] = json.dumps(fault)
        self.changes = {"model__name": "hanging:lenet5"}

    def _site(self):
        text = SITE.format(second=self.way.second, what=self.name, sets=str(self.place.path / "sets"))
        (self.place.path / "sitecustomize.py").write_text(text)
        self.way.environment["PYTHONPATH"] = f"{self.place.path}:{self.place.environment['PYTHONPATH']}"

    def _hold(self, port):
        """On host a."""
        code = f"import socket, time; held = socket.create_server(('', {port})); print(1, flush=True); time.sleep(300)"
        process = self.way.hosts.network.start("a", [sys.executable, "-c", code])
        assert process.stdout.readline() == "1\n"
        self.held.append(process.kill)

    def undo(self):
        for each in self.held:
            each()


@pytest.mark.parametrize(("way", "outcome"), CELLS)
def test_what_becomes_of_a_run_is_told(place, hosts, cluster, way, outcome):
    way = WAYS[way](place, hosts, cluster)
    cell = Cell(way, outcome)
    config = place.config(**{**SMALL, **cell.changes})
    began = time.monotonic()
    try:
        way.start(config)
        told = until(lambda: re.search(cell.says, way.output()) or way.has_ended(), 90)
        ended = until(way.has_ended, 90)
        since = float(cell.at.read_text()) if cell.at and cell.at.exists() else began
        is_quiet = place.gone_within(10)
        result = {
            "way": type(way).__name__.lower(),
            "outcome": outcome,
            "code": way.code() if ended else None,
            "wanted": cell.code,
            "told": (re.search(cell.says, way.output()) or [None])[0],
            "told_s": told and round(told - since, 1),
            "ended_s": ended and round(ended - since, 1),
            "processes_left": not is_quiet,
        }
        if table := os.environ.get("DISTDL_TABLE"):
            with Path(table).open("a") as file:
                file.write(json.dumps({"host": socket.gethostname(), **result}) + "\n")
    finally:
        cell.undo()
        way.stop()
    assert ended, way.output()
    assert re.search(cell.says, way.output()), way.output()
    assert way.code() == cell.code, way.output()
    assert is_quiet, way.output()
    if cell.code:
        assert told - since < ANSWER_S, result
