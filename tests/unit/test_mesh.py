"""What hosts tell each other: all of it, from those who have the token, and for how long nothing came."""

import json
import socket
import time

import pytest

from distdl.watch.facts import Facts
from distdl.watch.judge import Seen
from distdl.watch.mesh import Mesh
from distdl.watch.pulse import Call, State


def seen(rank=1):
    call = Call(7, 2, 3, 3, 99, "all_reduce of [4] torch.float32 (gradient bucket 0)", "loop.py:7", 0.5)
    state = State(
        pid=11,
        attached=True,
        phase="exchange",
        beat_age_s=0.5,
        phase_age_s=0.5,
        step=6,
        is_first=False,
        waits_in=call,
        waits_s=0.5,
        n_calls=3,
        calls=[call] * 20,
        spent_s={"forward": 1.0},
        thread=5,
    )
    return Seen(rank=rank, host="b", state=state, facts=Facts("S", 1.0, 10))


@pytest.fixture
def two():
    meshes = [Mesh("127.0.0.1"), Mesh("127.0.0.1")]
    addresses = [(mesh.address, mesh.port) for mesh in meshes]
    meshes[0].join("token", [None, addresses[1]])
    meshes[1].join("token", [addresses[0], None])
    yield meshes
    for mesh in meshes:
        mesh.close()


def arrived(mesh, condition):
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        mesh.receive()
        time.sleep(0.005)
    return condition()


def test_a_worker_is_told_of_whole_but_for_its_older_calls(two):
    two[1].send([seen()])

    assert arrived(two[0], two[0].others)
    (other,) = two[0].others()
    told = seen()
    assert other.state.waits_in == told.state.waits_in and len(other.state.calls) == 12
    assert (other.rank, other.host, other.facts, other.state.spent_s) == (1, "b", told.facts, told.state.spent_s)
    assert 0.5 <= other.state.beat_age_s < 5.5, "older by the time since"


def test_other_messages_are_kept_as_they_came(two):
    two[0].say({"kind": "verdict", "verdict": {"cause": "link"}})

    assert arrived(two[1], lambda: two[1].messages)
    assert two[1].messages[0]["verdict"] == {"cause": "link"} and two[1].messages[0]["from"] == 0


@pytest.mark.parametrize(
    "packet", [b"", b"x" * 10, b"x" * 16 + json.dumps({"kind": "verdict", "from": 1}).encode(), b"\0" * 60_000]
)
def test_fault_40_what_comes_without_the_token_is_dropped(two, packet):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(packet, (two[0].address, two[0].port))
    two[1].say({"kind": "verdict"})

    assert arrived(two[0], lambda: two[0].messages)
    assert len(two[0].messages) == 1


def test_silence_is_told_of_each_host_and_each_way(two):
    time.sleep(1.5)
    two[1].send([seen()])  # it says that it has heard nothing
    assert arrived(two[0], two[0].others)

    assert two[0].not_heard_s()[0] == 0.0 and two[0].not_heard_s()[1] < 1.4
    assert not two[0].is_heard_by(1, patience_s=1.4) and two[0].is_heard_by(1, patience_s=20.0)


def test_it_listens_on_one_address_alone():
    mesh = Mesh("127.0.0.1")

    assert mesh.address == "127.0.0.1" and mesh.port > 0
    mesh.close()
