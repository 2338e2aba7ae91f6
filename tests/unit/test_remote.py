"""Hosts as they are named on the command line or in a file."""

import pytest

from distdl import cli
from distdl.errors import EXIT_USER_ERROR, UserError
from distdl.launch.remote import Spec, parse, ssh_command


@pytest.mark.parametrize(
    "text, found",
    [
        ("a", [Spec("a", None)]),
        ("a:8,b.example.org:4", [Spec("a", 8), Spec("b.example.org", 4)]),
        ("me@node-a:2, node_b", [Spec("me@node-a", 2), Spec("node_b", None)]),
        ("10.0.0.1:1", [Spec("10.0.0.1", 1)]),
    ],
)
def test_hosts_on_the_command_line(text, found):
    assert parse(text) == found


def test_hosts_in_a_file(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\na:8\n\nb slots=4  # slow\nc\n")

    assert parse(str(path)) == [Spec("a", 8), Spec("b", 4), Spec("c", None)]


@pytest.mark.parametrize(
    "tasks, sizes",
    [({}, [None, None]), ({"SLURM_NTASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "2(x2)"}, [2, 2])],
)
def test_the_nodes_of_a_job_of_slurms(tasks, sizes):
    found = parse("slurm", {"SLURM_JOB_NODELIST": "node[1-2]", **tasks})

    assert [(each.host, each.n) for each in found] == [("node1", sizes[0]), ("node2", sizes[1])]
    assert found[0].command()[0] == "srun" and "--nodelist=node1" in found[0].command()


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_NODELIST": "a; touch CANARY"}])
def test_what_is_no_job_of_slurms(environment):
    with pytest.raises(UserError, match=r"no job of Slurm's|no list of hosts"):
        parse("slurm", environment)


@pytest.mark.parametrize(
    "text", ["", "a:0", "a:x", "a,,b", "-oProxyCommand=x:1", "a b", "a;touch CANARY:1", "$(touch x)", "a:1,a:2", "a@-b"]
)
def test_what_is_no_host(text):
    with pytest.raises(UserError):
        parse(text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="can't be read: No such file"):
        parse(str(tmp_path / "hosts"))


def test_a_shell_there_reads_a_folder_as_one_word(tmp_path, monkeypatch):
    odd = tmp_path / "my $(project); x"
    odd.mkdir()
    monkeypatch.chdir(odd)
    monkeypatch.setenv("DISTDL_SSH", "ssh -p 2222 -i 'a key'")

    *ssh, there = ssh_command("node-a")

    assert ssh[:5] == ["ssh", "-p", "2222", "-i", "a key"] and ssh[-2:] == ["--", "node-a"]
    assert there.startswith(f"cd '{odd}' && exec ")


@pytest.mark.parametrize(
    "arguments, what",
    [
        (["--min-nodes", "2"], "of which hosts?"),
        (["--hosts", ""], "'' is no host"),
        (["--hosts", "hosts.txt"], "hosts.txt: can't be read: No such file"),
        (["--hosts", "a:1", "--nproc", "2"], "--hosts says how many workers each host has"),
        (["--hosts", "a:1,b:1", "--min-nodes", "3"], "there are 2 hosts"),
    ],
)
def test_options_that_clash_are_told(tmp_path, monkeypatch, capsys, arguments, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(
        "model: {name: lenet5, args: {classes: 10}}\ndata: {train: {shards: nowhere}}\n"
        "train: {global_batch: 8, steps: 8}\noptim: {name: sgd, lr: 0.1}\n"
    )

    assert cli.main(["train", "net.yaml", *arguments]) == EXIT_USER_ERROR
    assert what in capsys.readouterr().err
