"""`distdl train --hosts`: workers on other machines, by ssh alone."""

import json
import re
import signal
import sys
import time

import pytest

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("ssh")]

SHORT = {"dist__reduction": "tree", "train__global_batch": 48, "train__steps": 8, "train__eval_every": None}
LONG = {
    **SHORT,
    "model__name": "paced:lenet5",
    "model__args": {"classes": 10, "pace_s": 0.1},
    "train__steps": 60,
    "checkpoint__every": 10,
}


class Started:
    def __init__(self, hosts, place, *arguments, **environment):
        self.hosts, self.place = hosts, place
        command = [sys.executable, "-m", "distdl", "train", *map(str, arguments)]
        more = {**place.environment, "OMP_NUM_THREADS": "1", "DISTDL_REST_S": "2", **environment}
        self.process = hosts.start(command, place.path, more)
        self.began = time.monotonic()

    def finish(self, within_s=120.0):
        self.said, _ = self.process.communicate(timeout=within_s)
        self.seconds = time.monotonic() - self.began
        return self.process.returncode

    def wait_for_step(self, step):
        metrics = self.place.path / "runs/run/metrics.jsonl"
        until = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text().count('"kind": "train"') >= step):
            assert time.monotonic() < until and self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.05)


@pytest.fixture(scope="session")
def hash_of(tmp_path_factory, corpus, place_of):
    """Of a run of one worker on this machine that nobody stopped."""
    known = {}

    def find(config):
        name = config["train__steps"]
        if name not in known:
            there = place_of(tmp_path_factory.mktemp("whole"), corpus)
            at_once = {"model__args": {"classes": 10, "pace_s": 0}} if config is LONG else {}
            assert there.run("train", there.config(**{**config, **at_once}), "--nproc", 1).code == 0
            known[name] = there.hash("run")
        return known[name]

    return find


def test_hosts_train_to_the_bits_of_one(hosts, place, hash_of):
    run = Started(hosts, place, place.config(**SHORT), "--hosts", "a:2,b:1,c:1")

    assert run.finish() == 0, run.said
    assert "on 4 workers (cpu, gloo)" in run.said
    assert place.hash("run") == hash_of(SHORT)
    workers = json.loads((place.path / "runs/run/environment.json").read_text())["workers"]
    assert [each["host"] for each in workers] == ["a", "a", "b", "c"]
    assert (place.path / "runs/run/logs/rank-3.log").exists()
    assert place.gone_within(5)


def test_hosts_may_stand_in_a_file(hosts, place):
    (place.path / "hosts").write_text("# mine\nb slots=1\nroot@c:1\n")
    run = Started(hosts, place, place.config(**SHORT), "--hosts", "hosts")

    assert run.finish() == 0, run.said
    assert "on 2 workers" in run.said


def test_an_error_on_one_host_ends_all_and_is_the_last_word(hosts, place):
    fault = {"rank": 2, "where": "train", "nth": 6, "kill": "self", "once": str(place.path / "struck")}
    config = place.config(**SHORT, model__name="faulty:lenet5")
    run = Started(hosts, place, config, "--hosts", "a:2,b:2", FAULT=json.dumps(fault), DISTDL_FORWARD="FAULT")

    assert run.finish() == 1, run.said
    assert re.search(r"^rank 2 on b failed .*3 other workers lost their peer because of it:$", run.said, re.M), run.said
    assert "killed by SIGKILL" in run.said
    assert place.gone_within(5)


def test_a_mistake_is_told_with_what_is_wrong(hosts, place):
    config = place.config(**SHORT, data__train__shards="/only/on/others")
    run = Started(hosts, place, config, "--hosts", "a:1,b:1")

    assert run.finish() == 2, run.said
    assert "/only/on/others" in run.said and "Traceback" not in run.said.rpartition("failed")[2]
    assert place.gone_within(5)


@pytest.mark.parametrize(
    "given, what",
    [
        ("a:1,nowhere.invalid:1", "nowhere.invalid: ssh has ended with exit code 255: .*(resolve|Name or service)"),
        ("a:1,-oProxyCommand=touch CANARY:1", "is no host"),
        ("a:0", "is no host"),
        ("a:1,a:1", "a host stands there twice"),
        ("a:1;touch CANARY", "is no host"),
        ("nofile/hosts", "can't be read"),
    ],
)
def test_hosts_that_are_none_are_told_in_seconds(hosts, place, given, what):
    run = Started(hosts, place, place.config(**SHORT), f"--hosts={given}")

    assert run.finish() == 2, run.said
    assert re.search(what, run.said), run.said
    assert run.seconds < 15
    assert not list(place.path.rglob("CANARY*"))


def test_another_version_on_one_host_is_told_before_anything_starts(hosts, place):
    """By a Python that says so on host b alone."""
    (place.path / "sitecustomize.py").write_text(
        "import importlib.metadata, socket\n"
        "real = importlib.metadata.version\n"
        "if socket.gethostname() == 'b':\n"
        "    importlib.metadata.version = lambda name: '2.0.1' if name == 'torch' else real(name)\n"
    )
    path = f"{place.path}:{place.environment['PYTHONPATH']}"
    run = Started(hosts, place, place.config(**SHORT), "--hosts", "a:1,b:1", PYTHONPATH=path)

    assert run.finish() == 2, run.said
    assert re.search(r"^error: b: torch 2\.0\.1 is not that of a, 2\.", run.said), run.said
    assert not (place.path / "runs").exists()


def test_ctrl_c_saves_on_all_hosts(hosts, place, hash_of):
    config = place.config(**LONG)
    run = Started(hosts, place, config, "--hosts", "a:1,b:1")
    run.wait_for_step(13)

    run.process.send_signal(signal.SIGINT)

    assert run.finish() == 130, run.said
    again = Started(hosts, place, config, "--hosts", "b:1,c:1", "--resume")
    assert again.finish() == 0, again.said
    assert [row["step"] for row in place.rows("run")] == list(range(1, 61))
    assert place.hash("run") == hash_of(LONG)


def test_the_end_of_the_launcher_is_that_of_its_workers(hosts, place):
    run = Started(hosts, place, place.config(**LONG), "--hosts", "a:1,b:1")
    run.wait_for_step(3)

    run.process.kill()
    run.finish()

    assert place.gone_within(20)


def test_faults_7_and_8_a_host_that_is_lost_is_done_without_and_taken_in_again(hosts, place, hash_of):
    config = place.config(**LONG)
    run = Started(hosts, place, config, "--hosts", "a:1,b:1,c:1", "--min-nodes", "2")
    run.wait_for_step(13)

    hosts.switch_off("b")
    run.wait_for_step(25)
    hosts.switch_on("b")

    assert run.finish() == 0, run.said
    assert "b was lost" in run.said and "with 2 workers" in run.said
    assert "a host is back: saving, to go on with it" in run.said
    assert place.hash("run") == hash_of(LONG)


def test_fault_7_without_min_nodes_a_host_that_is_lost_ends_the_run(hosts, place):
    run = Started(hosts, place, place.config(**LONG), "--hosts", "a:1,b:1", "--max-restarts", "2")
    run.wait_for_step(13)

    hosts.switch_off("b")

    assert run.finish() == 1, run.said
    assert "b was lost" in run.said.rstrip().splitlines()[-1]
    assert place.gone_within(10)


def test_a_host_that_waits_takes_the_place_of_one_that_is_lost(hosts, place, hash_of):
    run = Started(hosts, place, place.config(**LONG), "--hosts", "a:1,b:1,c:1", "--max-nodes", "2")
    run.wait_for_step(13)

    hosts.switch_off("b")

    assert run.finish() == 0, run.said
    assert "b was lost" in run.said
    assert run.said.count("on 2 workers (cpu, gloo)") == 2
    workers = json.loads((place.path / "runs/run/environment.json").read_text())["workers"]
    assert [each["host"] for each in workers] == ["a", "c"]
    assert [row["step"] for row in place.rows("run")] == list(range(1, 61))
    assert place.hash("run") == hash_of(LONG)


@pytest.mark.parametrize("option", ["--min-nodes=3", "--max-nodes=4", "--max-nodes=0", "--min-nodes=0"])
def test_a_number_of_nodes_that_can_not_be_is_refused(hosts, place, option):
    run = Started(hosts, place, place.config(**SHORT), "--hosts", "a:1,b:1", option)
    assert run.finish() == 2
    assert f"command line {option.replace('=', ' ')}: there are 2 hosts" in run.said


def test_with_sums_in_the_librarys_order_fewer_hosts_learn_the_same(hosts, place, tmp_path_factory, corpus, place_of):
    """Not to the bit, as with a tree."""
    fast = {**LONG, "dist__reduction": "fast"}
    there = place_of(tmp_path_factory.mktemp("fast"), corpus)
    at_once = {"model__args": {"classes": 10, "pace_s": 0}}
    assert there.run("train", there.config(**{**fast, **at_once}), "--nproc", 3).code == 0
    run = Started(hosts, place, place.config(**fast), "--hosts", "a:1,b:1,c:1", "--min-nodes", "2")
    run.wait_for_step(13)

    hosts.switch_off("b")
    run.wait_for_step(25)
    hosts.switch_on("b")

    assert run.finish() == 0, run.said
    assert "with 2 workers" in run.said and "a host is back" in run.said
    rows, wanted = place.rows("run"), there.rows("run")
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in wanted], rel=1e-5)
