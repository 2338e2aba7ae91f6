"""Tasks of srun: their places, lists of hosts as Slurm writes them, and how they meet without any channel."""

import socket
import threading

import pytest

from distdl.comm import slurm, slurm_meeting, world
from distdl.errors import UserError
from distdl.launch.slurm import lists


def variables(rank=0, *, tasks="2(x2)", hosts="node[1-2]", node=None, local=None, **more):
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(sum(lists.tasks_per_node(tasks))),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_STEP_NODELIST": hosts,
        "SLURM_NODEID": str(rank // 2 if node is None else node),
        "SLURM_LOCALID": str(rank % 2 if local is None else local),
        **more,
    }


@pytest.mark.parametrize(
    "text, hosts",
    [
        ("head", ["head"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-10,3]", ["node08", "node09", "node10", "node3"]),
        ("a,b[1,3],c-x.example.org", ["a", "b1", "b3", "c-x.example.org"]),
        ("r[0-1]n[1-2]-ib", ["r0n1-ib", "r0n2-ib", "r1n1-ib", "r1n2-ib"]),
    ],
)
def test_a_list_of_hosts_stands_for_their_names(text, hosts):
    assert lists.expand(text) == hosts


@pytest.mark.parametrize(
    "text",
    [
        *("", "node[1-", "node[2-1]", "node[]", "a;touch CANARY", "$(touch CANARY)", "a\nb", "a b"),
        *("n[1-9999999]", "n[0-999]m[0-999]", ",a"),
    ],
)
def test_anything_else_is_no_list_of_hosts(text):
    with pytest.raises(ValueError, match="host"):
        lists.expand(text)


@pytest.mark.parametrize("text, found", [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x1)", [1, 2])])
def test_the_tasks_of_each_node(text, found):
    assert lists.tasks_per_node(text) == found


@pytest.mark.parametrize("text", ["", "2(x3", "x", "2(x9999999)", "1,,2"])
def test_anything_else_says_nothing_of_tasks(text):
    with pytest.raises(ValueError, match="tasks"):
        lists.tasks_per_node(text)


def test_ranks_follow_one_another_on_a_node_however_slurm_has_dealt_them_out():
    cyclic = {0: (0, 0), 1: (1, 0), 2: (0, 1), 3: (1, 1), 4: (0, 2)}
    found = {}
    for procid, (node, local) in cyclic.items():
        task = slurm.task(variables(tasks="3,2", node=node, local=local, SLURM_PROCID=str(procid)))
        found[procid] = (task.rank, task.size, task.local_rank, task.local_size)

    assert found == {0: (0, 5, 0, 3), 2: (1, 5, 1, 3), 4: (2, 5, 2, 3), 1: (3, 5, 0, 2), 3: (4, 5, 1, 2)}


def test_another_step_another_start_and_another_job_have_other_words_and_ports():
    tasks = [
        slurm.task(variables() | more)
        for more in ({}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "8"})
    ]

    assert len({task.word for task in tasks}) == 4
    assert len({tuple(slurm_meeting.ports(task.word)) for task in tasks}) == 4
    assert slurm.task(variables(3)).word == tasks[0].word


@pytest.mark.parametrize(
    "changed, what",
    [
        ({"SLURM_NODEID": "2"}, "node 2, where 2 nodes have"),
        ({"SLURM_LOCALID": "-1"}, "task -1 of node 0"),
        ({"SLURM_LOCALID": "x"}, "invalid literal"),
        ({"SLURM_STEP_NODELIST": "a; touch CANARY"}, "is no list of hosts"),
        ({"SLURM_STEP_NODELIST": "node[1-3]"}, "3 nodes"),
    ],
)
def test_variables_that_clash_are_told(changed, what):
    with pytest.raises(UserError, match=what):
        slurm.task(variables() | changed)


def test_a_variable_that_is_missing_is_named():
    environment = variables()
    del environment["SLURM_STEP_NODELIST"]

    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set"):
        slurm.task(environment)


def test_processes_of_an_mpirun_that_has_srun_start_its_helpers_are_none_of_its_tasks():
    assert slurm.is_one_of_several(variables())
    assert not slurm.is_one_of_several(variables() | {"OMPI_COMM_WORLD_SIZE": "16"})
    assert not slurm.is_one_of_several(variables() | {"PMI_SIZE": "16"})
    assert slurm.is_one_of_several(variables() | {"PMI_SIZE": "4"})


# --- the meeting ---


def meet(n, environment=variables, wait_s=20.0):
    """What each of n tasks on this machine is told, by rank."""
    found = {}

    def run(rank):
        own = environment(rank)
        try:
            slurm_meeting.settle(own, wait_s)
            found[rank] = own
        except UserError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(n)]


def on_one_node(rank, job="7"):
    return variables(tasks="4", hosts="node1", node=0, local=rank, SLURM_JOB_ID=job)


def test_tasks_of_one_node_meet_and_have_torchruns_variables():
    told = meet(4, on_one_node)

    assert [each["RANK"] for each in told] == ["0", "1", "2", "3"]
    assert {(each["WORLD_SIZE"], each["LOCAL_WORLD_SIZE"], each["GROUP_RANK"]) for each in told} == {("4", "4", "0")}
    assert {(each["MASTER_ADDR"], each["MASTER_PORT"]) for each in told} == {("127.0.0.1", told[0]["MASTER_PORT"])}
    with socket.socket() as store:
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        store.bind(("127.0.0.1", int(told[0]["MASTER_PORT"])))
        store.listen()


def test_tasks_of_several_nodes_take_the_address_by_which_the_first_is_reached():
    told = meet(4, lambda rank: variables(rank, hosts="localhost,otherhost", SLURM_JOB_ID="70"))

    assert {each["MASTER_ADDR"] for each in told} <= {"127.0.0.1", "::1"}
    assert [each["GROUP_RANK"] for each in told] == ["0", "0", "1", "1"]


def test_somebody_elses_ports_are_passed_over():
    first, second, *_ = slurm_meeting.ports(slurm.task(on_one_node(0, "71")).word)
    with socket.create_server(("", first)), socket.create_server(("127.0.0.1", second)) as stranger:
        stranger.listen()
        threading.Thread(target=answer_wrongly, args=[stranger], daemon=True).start()

        told = meet(4, lambda rank: on_one_node(rank, "71"))

    assert len({each["MASTER_PORT"] for each in told}) == 1


def answer_wrongly(stranger):
    while True:
        try:
            guest, _ = stranger.accept()
        except OSError:
            return
        with guest:
            guest.recv(1000)
            guest.sendall(b'{"word": "another"}\n')


def test_strangers_at_the_door_are_sent_away():
    port = slurm_meeting.ports(slurm.task(on_one_node(0, "72")).word)[0]
    said = [b"GET / HTTP/1.0\r\n\r\n", b"[]\n", b'{"word": "x", "rank": 1, "node": 0}\n', b""]
    threading.Thread(target=knock_with, args=[port, said], daemon=True).start()

    told = meet(4, lambda rank: on_one_node(rank, "72"))

    assert [each["RANK"] for each in told] == ["0", "1", "2", "3"]


def knock_with(port, said):
    for each in said:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1.0) as door:
                    door.sendall(each)
                break
            except OSError:
                continue


def test_who_does_not_come_is_named_to_all_that_have():
    def environment(rank):
        return on_one_node(rank, "73")

    told = meet(3, environment, wait_s=1.5)  # the fourth task is missing

    assert "rank 3 has not come to node1 within 1.5 s" in told[0]
    assert told[0] == told[1] == told[2]


def test_a_first_node_whose_name_leads_nowhere_is_told_at_once(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(UserError, match=r"first node, no-such-host\.invalid, leads to no address") as caught:
        slurm_meeting.settle(variables(2, hosts="no-such-host.invalid,other"), 20.0)

    assert "--exclude" in caught.value.fix


def test_slurm_itself_knows_the_address_of_a_node_whose_name_leads_nowhere(monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "NodeName=$4 NodeAddr=10.1.2.3 NodeHostName=$4"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    assert slurm_meeting.addresses_of("no-such-host.invalid") == ["10.1.2.3"]


def test_several_tasks_are_workers_of_slurm_without_any_mpi(monkeypatch):
    monkeypatch.setattr(slurm_meeting, "WAIT_S", 20.0)
    found = {}

    def run(rank):
        found[rank] = world.detect(on_one_node(rank, "74"), backend="gloo")

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [(found[rank].rank, found[rank].world_size, found[rank].local_world_size) for rank in range(4)] == [
        (rank, 4, 4) for rank in range(4)
    ]


def test_a_cluster_whose_srun_always_starts_processes_of_mpi_needs_none_of_it(monkeypatch):
    monkeypatch.setattr(world, "find_spec", lambda name: None)  # no mpi4py
    asked = []
    monkeypatch.setattr(
        slurm_meeting,
        "settle",
        lambda environment: asked.append(environment) or environment.update(RANK="0", WORLD_SIZE="4"),
    )

    assert world.detect(variables() | {"PMIX_RANK": "0"}).world_size == 4
    assert asked
