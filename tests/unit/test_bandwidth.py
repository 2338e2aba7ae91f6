"""`distdl bench comm`: what may be asked for, what the numbers mean, and how they are shown."""

import json
from pathlib import Path

import pytest
import torch

from distdl.bench import bandwidth, comm, commands
from distdl.cli import parse
from distdl.comm import probe
from distdl.comm.world import WorldInfo
from distdl.errors import UserError
from distdl.run import tuned

RESULT = {
    "backend": "gloo",
    "device": "cpu",
    "workers": 4,
    "nodes": 2,
    "workers_per_node": 2,
    "threads": 1,
    "dtype": "fp32",
    "torch": "2.13.0",
}


def row(name="all_reduce", size_bytes=2**20, n_workers=4, batches_s=(0.001,), copy_s=0.0001):
    return bandwidth.measured(name, size_bytes, n_workers, batches_s, copy_s)


# --- definitions ---


@pytest.mark.parametrize(
    ("factor", "names"),
    [
        (2 * 3 / 4, ["all_reduce", "tree", "hierarchical"]),
        (3 / 4, ["all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"]),
        (1, ["broadcast", "reduce"]),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(factor, names):
    for name in names:
        measured = row(name, size_bytes=10**9, batches_s=[0.5], copy_s=0.1)

        assert measured["algorithm_gb_per_s"] == 2
        assert measured["bus_gb_per_s"] == pytest.approx(2 * factor)
        assert measured["copy_gb_per_s"] == 10
        assert measured["share_of_copy"] == pytest.approx(2 * factor / 10)


def test_every_operation_has_a_factor():
    assert list(bandwidth.FACTORS) == list(probe.OPERATIONS)


def test_latency_is_the_median_of_the_batches_and_their_95th_percentile():
    measured = row(batches_s=[i / 1000 for i in range(20, 0, -1)])

    assert measured["latency_s"] == pytest.approx(0.0105)
    assert measured["latency_95_s"] == 0.019
    assert row(batches_s=[0.002, 0.001])["latency_95_s"] == 0.002


def test_a_barrier_has_a_latency_and_no_bandwidth():
    assert set(row("barrier", size_bytes=0, copy_s=None)) == {"operation", "size_bytes", "latency_s", "latency_95_s"}


@pytest.mark.parametrize(("n_workers", "leaves"), [(2, 2), (3, 4), (4, 4), (5, 8)])
def test_the_tree_has_as_few_leaves_as_it_may(n_workers, leaves):
    assert probe.n_leaves(n_workers) == leaves


# --- what is asked for ---


def test_sizes_are_powers_of_1024_and_come_in_order():
    assert bandwidth.parse_sizes("1M,4K, 100,4k,1.5KiB,2MB") == [100, 1536, 4096, 2**20, 2**21]


def test_operations_come_in_their_usual_order():
    assert bandwidth.parse_operations("scatter, all_reduce,scatter") == ["all_reduce", "scatter"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ops", "all_redcue"], "unknown operation 'all_redcue' - did you mean all_reduce?"),
        (["--ops", ""], "unknown operation ''"),
        (["--sizes", "64MM"], "'64MM' is not a size - did you mean 64M?"),
        (["--sizes", "4K,,"], "'' is not a size"),
        (["--sizes", "0"], "0 is out of range"),
        (["--sizes", "3G"], "From 1 byte to 2G"),
        (["--sizes", f"{'9' * 400}G"], "out of range"),
        (["--backend", "ncll"], "unknown backend 'ncll' - did you mean nccl?"),
        (["--dtype", "fp16"], "unknown type 'fp16'"),
        (["--nproc", "0"], "--nproc"),
        (["--nproc", "5000"], "At most"),
        (["--nproc", "1"], "Add --nproc 2, or start it by torchrun"),
        (["--backend", "gloo"], "Add --nproc 2, or start it by torchrun"),
        (["--iterations", "0"], "--iterations"),
        (["--seconds-each", "nan"], "--seconds-each"),
        (["--plot", "/no/such/folder/x.png"], "there is no folder /no/such/folder"),
        (["--plot", "."], "this is a folder"),
        (["--plot", "x.png", "--ops", "barrier"], "a barrier has no bandwidth"),
    ],
)
def test_mistakes_on_the_command_line(options, words):
    if "--plot" in options:
        pytest.importorskip("matplotlib")

    with pytest.raises(UserError) as caught:
        commands.comm(parse(["bench", "comm", *options]))

    assert words in str(caught.value)


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"pip install 'distdl\[plot\]'"):
        commands.comm(parse(["bench", "comm", "--nproc", "2", "--plot", "x.png"]))


def test_nccl_without_a_gpu_is_the_users_mistake(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)

    with pytest.raises(UserError, match="Or use --backend gloo"):
        comm.measure(commands._wanted(parse(["bench", "comm", "--nproc", "2", "--backend", "nccl"])), WorldInfo())


# --- what comes of it ---


@pytest.fixture
def as_worker(monkeypatch):
    """Makes this process one of two workers, whose `measure` is the function that is given."""

    def pretend(measure):
        for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("distdl.bench.comm.measure", measure)

    return pretend


def result_with(*sizes, dtype="fp32"):
    rows = [row(size_bytes=size, batches_s=[size * 1e-9 + 1e-3]) for size in sizes]
    return {**RESULT, "dtype": dtype, "rows": rows}


def test_a_wrong_number_is_exit_code_1_and_says_of_what(as_worker, capsys):
    def measure(wanted, world, say):
        raise comm.WrongNumber("gather of 4K gave wrong numbers on rank 1")

    as_worker(measure)

    assert commands.comm(parse(["bench", "comm"])) == 1
    assert "gather of 4K gave wrong numbers on rank 1" in capsys.readouterr().err


def test_an_all_reduce_over_enough_sizes_is_stored_and_the_screen_says_so(as_worker, capsys):
    as_worker(lambda wanted, world, say: result_with(2**12, 2**20, 2**24))

    assert commands.comm(parse(["bench", "comm"])) == 0

    told = capsys.readouterr().out
    assert "dist.bucket_mib: auto will use 16 MiB for 2 x 2 workers by gloo here" in told
    (path,) = (Path(line.removeprefix("stored in ")) for line in told.splitlines() if line.startswith("stored in "))
    assert path.exists()
    assert tuned.bucket_mib(2, 2, "gloo") == 16


@pytest.mark.parametrize(
    "result",
    [
        result_with(2**12, 2**20),
        result_with(2**24),
        result_with(2**12, 2**24, dtype="bf16"),
        {**result_with(2**12, 2**24), "nodes": None},  # of unlike numbers of workers
    ],
)
def test_else_nothing_is_stored(as_worker, capsys, monkeypatch, result):
    monkeypatch.setattr("distdl.run.tuned.record", lambda *_, **__: pytest.fail("it was recorded"))
    as_worker(lambda wanted, world, say: result)

    assert commands.comm(parse(["bench", "comm", "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["stored"] is None


def test_a_state_folder_that_can_not_be_written_ends_nothing(as_worker, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    as_worker(lambda wanted, world, say: result_with(2**12, 2**24))

    assert commands.comm(parse(["bench", "comm"])) == 0
    assert "not stored for dist.bucket_mib: auto: " in capsys.readouterr().out


# --- for a person ---


def test_a_table_has_a_line_for_each_size_under_the_name_of_the_operation():
    text = bandwidth.table([row(size_bytes=2**12, batches_s=[45.1e-6]), row(batches_s=[0.001, 0.002, 0.0015])])

    _, names, small, large = text.split("\n")
    assert names.split() == ["all_reduce", "size", "median", "95", "%", "algorithm", "bus", "copy", "bus", "/", "copy"]
    assert small.split() == ["4K", "45.1", "us", "45.1", "us", "0.0908", "0.136", "0.041", "332.6", "%"]
    assert large.split() == ["1M", "1.5", "ms", "2", "ms", "0.699", "1.05", "10.5", "10.0", "%"]
    assert len(names) == len(small) == len(large)


def test_a_barrier_is_a_line_without_bandwidths():
    text = bandwidth.table([row("barrier", size_bytes=0, copy_s=None)])

    assert text.split("\n")[2].split() == ["-", "1", "ms", "1", "ms"]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (bandwidth.show_size(5124), "5.004K"),
        (bandwidth.show_size(100), "100"),
        (bandwidth.show_size(2**31), "2G"),
        (bandwidth.show_time(2.5), "2.5 s"),
        (bandwidth.show_time(0.0123), "12.3 ms"),
        (bandwidth.show_time(4e-5), "40 us"),
        (bandwidth.show_rate(1234.5), "1234.5"),
        (bandwidth.show_rate(0.00123), "0.00123"),
    ],
)
def test_numbers_are_short_and_have_units(shown, text):
    assert shown == text


def test_the_heading_says_who_was_measured():
    assert bandwidth.heading(RESULT).startswith("4 workers on 2 nodes, gloo, cpu (1 thread each), fp32, torch 2.13.0\n")
    assert bandwidth.heading(RESULT | {"nodes": None}).startswith("4 workers, gloo")


def test_a_plot_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row(name, size) for name in ("all_reduce", "tree") for size in (2**12, 2**20)]
    rows.append(row("barrier", 0, copy_s=None))

    bandwidth.plot({**RESULT, "rows": rows}, tmp_path / "x.png")

    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_picture_that_can_not_be_written_is_told(tmp_path):
    pytest.importorskip("matplotlib")

    with pytest.raises(UserError, match="can't be written"):
        bandwidth.plot({**RESULT, "rows": [row()]}, tmp_path / "gone" / "x.png")


def test_the_command_stands_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse(["bench", "comm", "--help"])

    told = capsys.readouterr().out
    for name in (*bandwidth.FACTORS, "--plot", "--json", "--seconds-each"):
        assert name in told
