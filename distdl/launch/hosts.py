"""A run on several hosts, which are reached by ssh: `distdl train CONFIG --hosts a:8,b:8`.

    this process --ssh--> a node on each host (node.py) --starts--> its workers
         '------------- a line of JSON each way: what to start; output, ends, failures -----'

Nothing is asked of the hosts but an ssh that lets us in without a password, and the same distdl and torch, which is
looked at before anything is started: no shared home, no pdsh, no port that was agreed on beforehand. Config and plugins
are sent along. The first host has rank 0, and the run folder; the others find it at an address that they have tried.
"""

import os
import re
import secrets
import selectors
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distdl import plugins
from distdl.config import dump
from distdl.config.schema import Config
from distdl.errors import EXIT_BUG, EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from distdl.launch.output import Screen
from distdl.launch.remote import ANSWER_S, CONNECT_S, Lost, Remote, Spec
from distdl.launch.restarts import Restarts
from distdl.launch.signals import Signals
from distdl.net import probe
from distdl.run import failures, versions
from distdl.run.failures import FailureRecord
from distdl.run.places import runs_root

GRACE_S = 6.0  # for workers to notice that another one has failed
KILL_S = 8.0
REST_S = 30.0  # between two tries to reach a host that was lost

_FORWARDED = re.compile(r"(NCCL|GLOO|TORCH|OMP|MKL|WANDB|CUBLAS|PYTORCH|DISTDL|AWS)_")  # of the environment


class Hosts:
    """Those of a run, with a connection to each that is there. None of their processes outlives the `with` block."""

    def __init__(
        self,
        specs: Sequence[Spec],
        files: Mapping[str, str],
        command: Sequence[str],
        name: str,
        most: int | None = None,
    ) -> None:
        """`files`: for all; `command`: of a worker, where {files} stands for their folder; `name`: of the run; `most`:
        hosts at a time, of which the others take the places of those that are lost."""
        self._specs, self._files, self._command = list(specs), files, command
        self._most = most or len(self._specs)
        self._run = f"{runs_root()}/{name}"
        self.here: list[Remote] = []
        self._next_try = self._next_ask = 0.0
        self._coming: dict[str, tuple[Remote, int]] = {}

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        for remote in [*self.here, *(remote for remote, _ in self._coming.values())]:
            remote.close()

    def connect(self) -> None:
        """Raises UserError if one can't be reached, or is not as the others; those that wait are tried as well."""
        self._begin_all()
        failed = self._take_all(CONNECT_S + ANSWER_S)
        if failed:
            host, why = failed[0]
            more = f" ({len(failed) - 1} more can't be used)" * (len(failed) > 1)
            raise UserError(f"{why}{more}", where=host, fix=_fix(why))
        self._let_wait()

    def drop_lost(self) -> list[str]:
        """Their names."""
        lost = [remote for remote in self.here if remote.is_lost]
        for remote in lost:
            remote.close()
            self.here.remove(remote)
        self._next_try = time.monotonic() + _rest_s() if lost else self._next_try
        return [remote.name for remote in lost]

    def one_is_back(self) -> bool:
        """Looks now and then for those that are not here; whether one of them answers, for `take` to take in."""
        if self._is_full():
            return False
        if time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + _rest_s()
            self._begin_all()
        for name, (remote, number) in list(self._coming.items()):
            remote.pump()
            if remote.is_lost:
                remote.close()
                del self._coming[name]
            elif remote.has_answered(number):
                return True
        return False

    def is_free_again(self) -> bool:
        """Of a job of Slurm's that has lost nodes: whether they could be had again, by another start of the job."""
        if not self._specs[0].by_slurm or time.monotonic() < self._next_ask or self._is_full():
            return False
        self._next_ask = time.monotonic() + _rest_s()
        lost = [spec.host for spec in self._specs if spec.host not in [remote.name for remote in self.here]]
        asked = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(lost)}", "--states=idle", "--format=%N"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.SubprocessError):
            return False
        return set(done.stdout.split()) >= set(lost)

    def take(self) -> None:
        """Those that have come back."""
        self._take_all(0.5)
        self._let_wait()

    def fill_up(self, lost: Sequence[str]) -> None:
        """With those that wait for a place of one that is lost."""
        if not self._is_full() and len(self._specs) > self._most:
            self._begin_all(without=lost)
            self._take_all(CONNECT_S)
            self._let_wait()

    def _is_full(self) -> bool:
        return len(self.here) >= min(self._most, len(self._specs))

    @property
    def has_all_again(self) -> bool:
        """Others have taken the places of those that were lost."""
        return self._most < len(self._specs) and self._is_full()

    def _let_wait(self) -> None:
        for remote in self.here[self._most :]:
            remote.close()
        del self.here[self._most :]

    def _begin_all(self, without: Sequence[str] = ()) -> None:
        for spec in self._specs:
            is_known = spec.host in self._coming or spec.host in [remote.name for remote in self.here]
            if not is_known and spec.host not in without:
                remote = Remote(spec, spec.command())
                self._coming[spec.host] = remote, remote.send("describe")

    def _take_all(self, timeout_s: float) -> list[tuple[str, str]]:
        """(host, why not) of those that can't be taken."""
        failed, until = [], time.monotonic() + timeout_s
        for name, (remote, number) in list(self._coming.items()):
            try:
                remote.about = remote.answer(number, max(0.5, until - time.monotonic()))
                self._check(remote)
                self.here.append(remote)
            except (Lost, UserError) as error:
                failed.append((name, error.what if isinstance(error, UserError) else str(error)))
                remote.close()
            del self._coming[name]
        order = [spec.host for spec in self._specs]
        self.here.sort(key=lambda remote: order.index(remote.name))
        return failed

    def _check(self, remote: Remote) -> None:
        versions.check([(each.name, each.about["versions"]) for each in (*self.here[:1], remote)])

    # --- workers ---

    def meet(self) -> tuple[str, int]:
        """The address and the port at which rank 0 is going to listen."""
        first, *others = self.here
        if not others:
            return "127.0.0.1", first.ask("reserve", address="127.0.0.1")
        token = secrets.token_hex(probe.TOKEN_BYTES)
        targets = first.ask("listen", token=token)["targets"]
        asked = [(each, each.send("try", token=token, who=i + 1, targets=targets)) for i, each in enumerate(others)]
        tried = {str(i + 1): each.answer(number) for i, (each, number) in enumerate(asked)}
        address = first.ask(
            "choose",
            answered={who: told["answered"] for who, told in tried.items()},
            names={str(i + 1): each.name for i, each in enumerate(others)},
            peers=[address for told in tried.values() for address in told["own"]],
        )
        return address, first.ask("reserve", address=address)

    def start(self, attempt: int, environment: Mapping[str, str]) -> None:
        address, port = self.meet()
        size, first, asked = sum(remote.n for remote in self.here), 0, []
        for number, remote in enumerate(self.here):
            folder = remote.ask("keep", files=self._files)
            more = {
                **environment,
                "WORLD_SIZE": str(size),
                "GROUP_RANK": str(number),
                "MASTER_ADDR": address,
                "MASTER_PORT": str(port),
            }
            command = [word.format(files=folder) for word in self._command]
            what = {"run": self._run, "attempt": attempt, "first": first, "n": remote.n, "command": command}
            asked.append((remote, remote.send("start", **what, environment=more)))
            first += remote.n
        for remote, request in asked:
            remote.answer(request)

    def tell_all(self, do: str, **arguments: Any) -> None:
        for remote in self.here:
            if not remote.is_lost:
                remote.send(do, **arguments)

    def checkpoint(self) -> int | None:
        """The step of the newest one, as the first host that answers sees it."""
        while self.here:
            try:
                return self.here[0].ask("checkpoint", run=self._run)
            except Lost:
                self.drop_lost()
        return None


def _fix(why: str) -> str:
    if "is not that of" in why:
        return "Install the same on all hosts."
    if "No module named" in why or "not found" in why or "No such file" in why:
        return f"distdl has to be at {sys.executable} there as well, and the folder {Path.cwd()} has to exist."
    return "`ssh HOST true` has to work without a password; options of ssh's go into DISTDL_SSH='ssh -p 2222 -i key'."


def _rest_s() -> float:
    return float(os.environ.get("DISTDL_REST_S", REST_S))


# --- the run ---


def train(
    specs: Sequence[Spec],
    config: Config,
    arguments: Sequence[str],
    name: str,
    *,
    max_restarts: int,
    min_nodes: int | None,
    max_nodes: int | None = None,
) -> int:
    """The exit code of the run. `arguments`: flags of `distdl train` for the workers.

    A host that is lost is done without, if `min_nodes` are left, and taken in again when it answers. Of more than
    `max_nodes` the last ones wait for a place of one that is lost.
    """
    copies = {f"plugins/{plugins.copy_name(path, text)}": text for path, text in plugins.read(config.plugins)}
    sent = config.model_copy(update={"plugins": list(copies)})
    command = ["-m", "distdl", "train", "{files}/config.yaml", "--name", name, *arguments]
    own = os.environ.get("DISTDL_FORWARD", "").split(",")
    environment = {key: value for key, value in os.environ.items() if _FORWARDED.match(key) or key in own}
    environment["DISTDL_SCREEN"] = "tty" if os.isatty(1) and not os.environ.get("NO_COLOR") else "plain"
    environment["DISTDL_COMMAND"] = shlex.join(sys.argv)
    screen, restarts = Screen(), Restarts(max_restarts)
    with (
        Hosts(specs, {"config.yaml": dump(sent), **copies}, command, name, max_nodes) as hosts,
        Signals(config.train.stop_signals) as signals,
    ):
        hosts.connect()
        number, saved = 0, hosts.checkpoint()
        while True:
            attempt = Attempt(hosts, screen, signals, can_grow=min_nodes is not None)
            attempt.run(number, environment)
            if not attempt.records:
                is_whole = attempt.makes_room and attempt.code == EXIT_PREEMPTED and signals.stop_code is None
                if is_whole and not attempt.ends_job:
                    hosts.take()
                    number += 1
                    continue
                return attempt.code
            if signals.kill_code is not None:
                return signals.kill_code
            records = sorted(attempt.records.values(), key=lambda record: record.rank)
            cause = failures.first_cause(records)
            assert cause is not None
            lost = hosts.drop_lost()
            hosts.fill_up(lost)
            why_not = "" if cause.kind == "user" else _too_few(hosts, lost, min_nodes)
            if why_not is None:
                newest = hosts.checkpoint()
                if saved is not None and (newest is None or newest < saved):
                    first = hosts.here[0].name if hosts.here else "what is left"
                    why_not = f"{first} does not see the checkpoints of this run, which are on {attempt.first_host}"
                restarts.note(cause, is_restart=number > 0, made_progress=newest != saved)
                saved = newest
                why_not = restarts.why_not(newest) if why_not is None and not lost else why_not
            if why_not is None and signals.stop_code is None:
                screen.say(restarts.line(cause, saved, sum(each.n for each in hosts.here), attempt.size))
                number += 1
                continue
            if why_not:
                screen.say(f"not starting again: {why_not}")
            screen.say(failures.format_cause(cause, [each for each in records if each is not cause]))
            if why_not is None and signals.stop_code is not None:
                return signals.stop_code
            return EXIT_USER_ERROR if cause.kind == "user" else EXIT_BUG


def _too_few(hosts: Hosts, lost: Sequence[str], min_nodes: int | None) -> str | None:
    if not lost or hosts.has_all_again:
        return None
    if min_nodes is None:
        return ""
    if len(hosts.here) < min_nodes:
        return f"{len(hosts.here)} hosts are left, and --min-nodes is {min_nodes}"
    return None


class Attempt:
    """The workers of one start, on all hosts that are here."""

    def __init__(self, hosts: Hosts, screen: Screen, signals: Signals, *, can_grow: bool) -> None:
        self._hosts, self._screen, self._signals, self._can_grow = hosts, screen, signals, can_grow
        self._running: dict[int, Remote] = {}
        self._grace_end: float | None = None
        self._kill_end: float | None = None
        self.makes_room = False  # they were told to save, since a host is back
        self.ends_job = False  # of Slurm's, which another start gives its nodes again
        self.code = 0
        self.records: dict[int, FailureRecord] = {}
        self.size = 0
        self.first_host = hosts.here[0].name if hosts.here else ""

    def run(self, number: int, environment: Mapping[str, str]) -> None:
        """Until all have ended, or their hosts are lost."""
        ranks = [remote for remote in self._hosts.here for _ in range(remote.n)]
        self._running, self.size, began = dict(enumerate(ranks)), len(ranks), number
        try:
            self._hosts.start(number, environment)
        except Lost:
            self._grace_end = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for remote in self._hosts.here:
                for each in remote.filenos():
                    selector.register(each, selectors.EVENT_READ)
            while self._running:
                selector.select(0.2)
                for remote in self._hosts.here:
                    remote.pump()
                    self._take_events(remote)
                    if remote.is_lost:
                        self._lose(remote, began)
                        for each in remote.filenos():
                            if each in selector.get_map():
                                selector.unregister(each)
                self._obey()
                all_run = len(self._running) == self.size  # and none has come to the end of the run
                if self._can_grow and all_run and not self.makes_room and self._can_have_more():
                    self.makes_room = True
                    self._hosts.tell_all("signal", number=self._signals.first_stop_signal)
                if not self._end_in_time():
                    return

    def _can_have_more(self) -> bool:
        if self._hosts.one_is_back():
            self._screen.say("a host is back: saving, to go on with it")
            return True
        self.ends_job = self._hosts.is_free_again()
        if self.ends_job:
            self._screen.say("the nodes that were lost can be had again: saving, for another start of this job")
        return self.ends_job

    def _take_events(self, remote: Remote) -> None:
        events, remote.events = remote.events, []
        for event in events:
            if "output" in event:
                self._screen.show(event["output"].encode())
            elif "ended" in event:
                rank = event["ended"]
                self._running.pop(rank, None)
                self.code = max(self.code, event["code"])
                if event["record"]:
                    self._note(FailureRecord(**{**event["record"], "host": remote.name}))

    def _lose(self, remote: Remote, attempt: int) -> None:
        for rank, its in list(self._running.items()):
            if its is remote:
                del self._running[rank]
                self._note(
                    failures.from_outside(
                        rank=rank,
                        kind="process_lost",
                        message=f"{remote.name} was lost: {remote.is_lost}",
                        stacks="",
                        step=None,
                        attempt=attempt,
                        host=remote.name,
                    )
                )

    def _note(self, record: FailureRecord) -> None:
        self.records[record.rank] = record
        self._grace_end = self._grace_end or time.monotonic() + GRACE_S

    def _obey(self) -> None:
        for number in self._signals.arrived():
            self._screen.say("stopping after this step and saving")
            self._hosts.tell_all("signal", number=int(number))
        if self._signals.kill_code is not None:
            self._grace_end = 0.0

    def _end_in_time(self) -> bool:
        """Kills those that are left some time after a failure; False once that has not helped."""
        now = time.monotonic()
        if self._grace_end is not None and now > self._grace_end and self._kill_end is None:
            self._kill_end = now + KILL_S
            self._hosts.tell_all("kill")
        if self._kill_end is None or now < self._kill_end:
            return True
        for remote in set(self._running.values()):
            remote.is_lost = remote.is_lost or "it does not end its workers"
            self._lose(remote, 0)
        return False
