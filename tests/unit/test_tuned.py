"""What bench comm leaves for later runs: which bucket follows from an all-reduce, and that nothing damaged is used."""

import json

import pytest

from distdl.run import tuned

MIB = 2**20


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "distdl" / "comm"


def rows(**gb_per_s):
    """rows(K4=0.1, M16=2.0)"""
    unit = {"K": 2**10, "M": MIB}
    return [
        {"size_bytes": int(size[1:]) * unit[size[0]], "algorithm_gb_per_s": value} for size, value in gb_per_s.items()
    ]


def record(backend="gloo", n_nodes=1, per_node=2, measured=None):
    measured = measured or rows(K64=0.1, M1=0.5, M4=1.8, M16=2.0)
    return tuned.record(n_nodes, per_node, backend, measured, torch_version="2.13.0")


# --- the rule ---


@pytest.mark.parametrize(
    ("measured", "bucket_mib"),
    [
        (rows(K4=0.1, M1=0.5, M4=1.59, M16=1.6, M64=2.0), 16),  # 80 % of 2.0 is 1.6
        (rows(K4=0.1, M1=0.5, M16=2.0, M64=1.0), 16),  # the best is not the largest
        (rows(K4=0.1, M1=1.9, M16=2.0, M64=2.0), 1),
        (rows(K4=2.0, M1=2.0, M16=2.0), 1),  # no smaller than 1 MiB
        (rows(M1=0.1, M64=0.2, M256=2.0), 64),  # no larger than 64 MiB
    ],
)
def test_a_bucket_is_the_smallest_size_with_80_percent_of_the_best_bandwidth(measured, bucket_mib):
    assert tuned.choose_bucket_mib(measured) == bucket_mib


def test_sizes_that_were_rounded_up_for_three_workers_count_as_what_they_were_asked_for():
    measured = [
        {"size_bytes": MIB + 8, "algorithm_gb_per_s": 1.0},
        {"size_bytes": 16 * MIB + 8, "algorithm_gb_per_s": 1.0},
    ]

    assert tuned.is_enough(measured)
    assert tuned.choose_bucket_mib(measured) == 1


@pytest.mark.parametrize(
    ("measured", "is_enough"),
    [
        (rows(K4=1.0, M16=1.0), True),
        (rows(M1=1.0, M16=1.0), True),
        (rows(K4=1.0, M8=1.0), False),
        (rows(M64=1.0), False),
        ([], False),
    ],
)
def test_the_rule_needs_sizes_from_1_to_16_mib(measured, is_enough):
    assert tuned.is_enough(measured) is is_enough


# --- the file ---


def test_what_was_recorded_is_read_back_for_as_many_workers(state):
    path = record(per_node=2)

    assert tuned.bucket_mib(1, 2, "gloo") == 4
    assert tuned.bucket_mib(1, 2, "nccl") is None
    assert tuned.bucket_mib(1, 4, "gloo") is None
    assert tuned.bucket_mib(2, 2, "gloo") is None
    assert list(state.iterdir()) == [path]  # and no temporary file
    entry = json.loads(path.read_text())["backends"]["gloo"]
    assert entry["torch"] == "2.13.0" and entry["date"].startswith("20")
    assert [row["size_bytes"] for row in entry["all_reduce_fp32"]] == [2**16, MIB, 4 * MIB, 16 * MIB]


def test_auto_is_nccl_where_it_was_measured_and_else_gloo():
    assert tuned.bucket_mib(1, 2, "auto") is None

    record("gloo")
    assert tuned.bucket_mib(1, 2, "auto") == 4

    record("nccl", measured=rows(M1=0.1, M16=2.0))
    assert tuned.bucket_mib(1, 2, "auto") == 16
    assert tuned.bucket_mib(1, 2, "gloo") == 4


def test_a_new_measurement_replaces_the_old_one():
    record()
    record(measured=rows(M1=0.1, M16=2.0))

    assert tuned.bucket_mib(1, 2, "gloo") == 16


def test_another_host_measures_for_itself(monkeypatch):
    record()
    monkeypatch.setattr("socket.gethostname", lambda: "another")

    assert tuned.bucket_mib(1, 2, "gloo") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"backends": 3}',
        '{"backends": {"gloo": []}}',
        '{"backends": {"gloo": {}}}',
        '{"backends": {"gloo": {"bucket_mib": "4"}}}',
        '{"backends": {"gloo": {"bucket_mib": true}}}',
        '{"backends": {"gloo": {"bucket_mib": NaN}}}',
        '{"backends": {"gloo": {"bucket_mib": 0}}}',
        "\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode("latin-1"),
    ],
)
def test_a_damaged_file_is_as_none_and_is_written_anew(content):
    path = record()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    assert tuned.bucket_mib(1, 2, "gloo") is None
    assert tuned.bucket_mib(1, 2, "auto") is None

    record()
    assert tuned.bucket_mib(1, 2, "gloo") == 4


def test_without_a_home_there_is_nothing_to_read(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("pathlib.Path.home", no_home)

    assert tuned.bucket_mib(1, 2, "auto") is None
    with pytest.raises(RuntimeError):
        record()
