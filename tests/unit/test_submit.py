"""`distdl submit`: the script that it writes, and what it refuses to write. Jobs themselves: tests/cluster."""

import shlex
import subprocess
import sys

import pytest

from distdl import cli
from distdl.errors import EXIT_DONE, EXIT_USER_ERROR, UserError
from distdl.launch.slurm.submit import seconds

CONFIG = """
model: {name: lenet5, args: {classes: 10}}
data: {train: {shards: nowhere}, eval: {shards: nowhere}}
train: {global_batch: 8, steps: 8}
optim: {name: sgd, lr: 0.1}
"""


@pytest.fixture
def submit(tmp_path, monkeypatch, capsys):
    """(exit code, what it has said) of a dry run in a folder with a config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG)

    def run(*arguments):
        command = ["submit", "mine.yaml", "--dry-run", *arguments]
        monkeypatch.setattr(sys, "argv", ["distdl", *command])
        code = cli.main(command)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def script_of(submit, *arguments):
    code, script = submit(*arguments)
    assert code == EXIT_DONE, script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert not checked.returncode, checked.stderr
    return script


def sbatch_lines(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def srun_words(script):
    lines = script.replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.startswith("srun ")))


def test_the_script_is_what_a_person_would_have_written(submit, tmp_path):
    script = script_of(submit, "--nodes", "4", "--gpus-per-node", "8", "--time", "8:00:00", "--partition", "gpu")

    assert script.startswith("#!/bin/bash\n# distdl submit mine.yaml --dry-run --nodes 4")
    assert sbatch_lines(script) == [
        "--job-name=mine",
        "--nodes=4",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--time=8:00:00",
        "--partition=gpu",
        "--requeue",
        "--open-mode=append",
        f"--output={tmp_path}/runs/mine/slurm/%j.log",
        f"--chdir={tmp_path}",
        "--signal=USR1@120",
    ]
    assert srun_words(script)[1:] == [
        *(sys.executable, "-m", "distdl", "train", f"{tmp_path}/runs/mine/slurm/1/mine.yaml"),
        *("--name", "mine", "--resume"),
    ]
    assert 'scontrol requeue "$SLURM_JOB_ID"' in script


def test_nothing_is_written_by_a_dry_run(submit, tmp_path):
    script_of(submit)

    assert [each.name for each in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    "arguments, workers",
    [
        ([], 1),
        (["--gpus-per-node", "a100:4"], 4),
        (["--gres", "gpu:h100:8,lustre"], 8),
        (["--gres", "gpu:2"], 2),
        (["--gpus-per-node", "8", "--ntasks-per-node", "2"], 2),
        (["slurm.sbatch={gpus-per-node: 3}"], 3),
    ],
)
def test_there_is_a_worker_for_each_device_unless_it_is_told_otherwise(submit, arguments, workers):
    assert f"--ntasks-per-node={workers}" in sbatch_lines(script_of(submit, *arguments))


def test_the_command_line_is_stronger_than_the_config(submit):
    script = script_of(submit, "slurm.sbatch={nodes: 2, qos: low, exclusive: true, mem: null}", "--qos", "high")

    lines = sbatch_lines(script)
    assert {"--nodes=2", "--qos=high", "--exclusive"} <= set(lines)
    assert not [line for line in lines if "mem" in line or "low" in line]


def test_cores_are_told_to_srun_again_which_does_not_take_them_from_the_job(submit):
    script = script_of(submit, "--cpus-per-task", "6", "slurm.srun={cpu-bind: none, label: true, mpi: null}")

    assert srun_words(script)[1:4] == ["--cpus-per-task=6", "--cpu-bind=none", "--label"]


@pytest.mark.parametrize("limit, told", [("8:00:00", "USR1@120"), ("4", "USR1@60"), ("1", "USR1@15"), (None, None)])
def test_the_run_is_saved_before_the_time_limit(submit, limit, told):
    lines = sbatch_lines(script_of(submit, *(["--time", limit] if limit else [])))

    assert [line for line in lines if line.startswith("--signal")] == ([f"--signal={told}"] if told else [])


def test_another_signal_is_the_users_choice(submit):
    lines = sbatch_lines(script_of(submit, "--time", "8:00:00", "slurm.sbatch={signal: USR2@600}"))

    assert [line for line in lines if line.startswith("--signal")] == ["--signal=USR2@600"]
    assert "--signal" not in script_of(submit, "--time", "8:00:00", "slurm.sbatch={signal: false}")


@pytest.mark.parametrize("arguments", [["--chain", "3"], ["slurm.sbatch={requeue: false}"]])
def test_where_jobs_may_not_be_queued_again_the_script_does_not_try(submit, arguments):
    script = script_of(submit, *arguments)

    assert "--no-requeue" in sbatch_lines(script) and "scontrol" not in script


def test_a_run_that_may_lose_nodes_starts_its_workers_itself(submit):
    script = script_of(submit, "--nodes", "4", "--ntasks-per-node", "2", "--min-nodes", "3")

    assert {"--nodes=4", "--no-kill"} <= set(sbatch_lines(script))
    assert "--hosts slurm --min-nodes 3" in script and "\nsrun" not in script


def test_lines_of_setup_that_bash_can_not_read_are_refused(submit):
    code, said = submit("slurm.setup=['if true; then']")

    assert code == EXIT_USER_ERROR and "slurm.setup: bash can't read these lines" in said


def test_the_lines_of_setup_are_the_users_own_shell(submit):
    script = script_of(submit, "slurm.setup=['module load cuda', 'export NCCL_DEBUG=WARN']")

    assert (
        "\nmodule load cuda\nexport NCCL_DEBUG=WARN\ncd " in script
    )  # runs/ is in the folder that it was submitted from
    assert script.index("module load") < script.index("srun ")


@pytest.mark.parametrize(
    "config, words",
    [
        (
            "{image: /images/a b.sqsh, binds: [/data]}",
            ["--container-image=/images/a b.sqsh", "--container-mounts={here}:{here},/data:/data"],
        ),
        (
            "{image: distdl.sif, runtime: apptainer, binds: ['/data:/d']}",
            ["apptainer", "exec", "--nv", "--pwd", "{here}", "--bind={here}", "--bind=/data:/d", "distdl.sif"],
        ),
    ],
)
def test_workers_may_live_in_a_container(submit, tmp_path, config, words):
    script = script_of(submit, f"slurm.container={config}")

    found = srun_words(script)
    first = [word.format(here=tmp_path) for word in words]
    assert found[1 : 1 + len(first)] == first
    assert found[found.index("-m") - 1] == "python3"


def test_an_image_on_the_command_line_takes_the_place_of_the_configs(submit):
    script = script_of(submit, "slurm.container={image: old.sqsh, binds: [/data]}", "--container", "new.sqsh")

    assert "--container-image=new.sqsh" in srun_words(script) and "/data:/data" in script


@pytest.mark.parametrize(
    "arguments, what",
    [
        (["--name", "x; touch CANARY"], "can't be the name of a folder"),
        (["--name", "x\n#SBATCH --wrap=y"], "can't be the name of a folder"),
        (["--partition", "a\n#SBATCH --wrap=y"], "can't be part of an option's value"),
        (["--mem", '4G" --wrap="y'], "can't be part of an option's value"),
        (["--account", "$(touch CANARY)"], "can't be part of an option's value"),
        (["slurm.sbatch={'a=b --wrap': c}"], "no long option of Slurm's"),
        (["slurm.sbatch={array: 0-3}"], "comes from distdl submit --array"),
        (["slurm.sbatch={comment: [1]}"], "should be a text, a number, true or false"),
        (["slurm.srun=[mpi]"], "should be a mapping of options"),
        (["--nodes", "two"], "'two' is not a number of nodes"),
        (["--nodes", "0"], "'0' is not a number of nodes"),
        (["--time", "tomorrow"], "'tomorrow' is not a time limit"),
        (["--chain", "0"], "0 jobs"),
        (["--nodes", "2", "--min-nodes", "3"], "2 nodes are asked for"),
        (["--min-nodes", "1", "--container", "x.sqsh"], "in a container"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(submit, tmp_path, arguments, what):
    code, said = submit(*arguments)

    assert code == EXIT_USER_ERROR
    assert what in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["a\n#SBATCH --wrap=x", "a$(touch CANARY)", 'a"b', "a%jb"])
def test_a_folder_whose_name_slurm_would_read_otherwise_is_refused(submit, tmp_path, monkeypatch, name):
    odd = tmp_path / name
    odd.mkdir()
    (odd / "mine.yaml").write_text(CONFIG)
    monkeypatch.chdir(odd)

    code, said = submit()

    assert code == EXIT_USER_ERROR
    assert "Submit from another folder" in said


def test_a_folder_with_spaces_stays_one_word(submit, tmp_path, monkeypatch):
    spaced = tmp_path / "my project"
    spaced.mkdir()
    (spaced / "mine.yaml").write_text(CONFIG)
    monkeypatch.chdir(spaced)

    script = script_of(submit)

    assert f'--chdir="{spaced}"' in sbatch_lines(script)
    assert f"{spaced}/runs/mine/slurm/1/mine.yaml" in srun_words(script)


@pytest.mark.parametrize(
    "text, found",
    [
        ("UNLIMITED", None),
        ("90", 5400),
        ("1:30", 90),
        ("8:00:00", 28800),
        ("2-12", 216000),
        ("1-0:30", 88200),
        ("1-00:00:01", 86401),
    ],
)
def test_time_limits_as_slurm_writes_them(text, found):
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "8 h", "-1", "1:2:3:4"])
def test_what_is_no_time_limit(text):
    with pytest.raises(UserError, match="is not a time limit"):
        seconds(text)


def test_without_slurm_it_says_where_to_submit(submit, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert cli.main(["submit", "mine.yaml"]) == EXIT_USER_ERROR
    assert "Submit on a login node" in capsys.readouterr().err


def test_flags_of_packing_are_passed_on_as_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--mono", "--rate", "16000", "--strip-punctuation", "--parts", "3", "--dry-run"]

    assert cli.main(["submit", "data", "pack", "librispeech", "a", "b", *options]) == 0

    assert "data pack librispeech --rate 16000 --mono --strip-punctuation a b --part" in capsys.readouterr().out
