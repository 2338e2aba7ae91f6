"""metrics.jsonl: whole rows or none, nothing twice after a restart, and a full disk that training survives."""

import json
import math
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distdl.track import jsonl
from distdl.track.jsonl import MetricsFile, check_row, read


def train_row(step: int, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "epoch": step / 100, "samples": step * 8, "time_s": 0.5 * step, **more}


def eval_row(step: int, **more: Any) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "set": "eval", "loss": 0.5, "top1": 0.9, "count": 100, **more}


def write_rows(path: Path, *rows: dict[str, Any], resume_step: int | None = None) -> None:
    file = MetricsFile(path, resume_step)
    for row in rows:
        assert file.append(row) is None
    assert file.close() is None


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [train_row(20, loss=2.310412345678, lr=0.1), eval_row(20), {"kind": "event", "step": 20, "event": "saved"}]

    write_rows(tmp_path / "metrics.jsonl", *rows)

    assert read(tmp_path / "metrics.jsonl") == rows


def test_each_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", None)

    file.append(train_row(20))

    assert read(tmp_path / "metrics.jsonl") == [train_row(20)]
    file.close()


def test_nan_and_infinity_become_null_so_that_every_json_reader_can_read_the_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", train_row(20, loss=math.nan, lr=-math.inf))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row["loss"] is None and row["lr"] is None


@pytest.mark.parametrize("torn", [b'{"kind": "train", "st', b'{"kind": "train", "message": "\xc3', b"{", b"12"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, train_row(20))
    path.write_bytes(path.read_bytes() + torn)

    assert read(path) == [train_row(20)]


def test_a_run_without_metrics_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.jsonl") == []


def test_resuming_drops_the_rows_past_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    saved = {"kind": "event", "step": 40, "event": "saved"}
    system = {"kind": "system", "step": 60, "cpu_percent": 50.0}
    write_rows(path, train_row(20), train_row(40), eval_row(40), saved, train_row(60), eval_row(60), system)
    path.write_bytes(path.read_bytes() + b'{"kind": "tra')

    write_rows(path, train_row(60, loss=1.0), resume_step=40)

    assert read(path) == [train_row(20), train_row(40), eval_row(40), saved, train_row(60, loss=1.0)]


def test_resuming_twice_leaves_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, *(train_row(step) for step in (20, 40, 60, 80)))
    write_rows(path, train_row(60), resume_step=40)
    write_rows(path, train_row(60), train_row(80), train_row(100), resume_step=40)

    assert [row["step"] for row in read(path)] == [20, 40, 60, 80, 100]


def test_an_evaluation_made_again_at_the_checkpoint_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, train_row(40), eval_row(40, time_s=7.0))

    write_rows(path, eval_row(40, time_s=9.0), eval_row(40, set="dev"), train_row(60), resume_step=40)

    assert read(path) == [train_row(40), eval_row(40, time_s=7.0), eval_row(40, set="dev"), train_row(60)]


def test_a_run_that_starts_from_nothing_drops_the_rows_of_an_attempt_that_saved_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, train_row(20), train_row(40))

    write_rows(path, train_row(20, loss=3.0), resume_step=None)

    assert read(path) == [train_row(20, loss=3.0)]


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Writes past this size fail, after writing what still fits: what a full disk does too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_that_do_not_fit_on_the_disk_are_written_later_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, None)
    file.append(train_row(20))

    with file_size_limit(path.stat().st_size + 30):  # room for the front of a row
        troubles = [file.append(train_row(40)), file.append(train_row(60))]
        seen_meanwhile = read(path)

    assert all(isinstance(trouble, OSError) for trouble in troubles) and file.n_waiting == 2
    assert seen_meanwhile == [train_row(20)]
    assert file.append(train_row(80)) is None and file.n_waiting == 0
    assert file.close() is None
    assert path.read_bytes() == b"".join(jsonl.encode(train_row(step)) for step in (20, 40, 60, 80))


def test_a_disk_that_is_full_when_the_run_resumes_is_tried_again_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, train_row(20), train_row(40))
    file = MetricsFile(path, resume_step=20)

    with file_size_limit(10):
        assert file.append(train_row(40, loss=1.0)) is not None

    assert file.close() is None
    assert read(path) == [train_row(20), train_row(40, loss=1.0)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_killed_worker_leaves_whole_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = (
        "import itertools, sys\nfrom pathlib import Path\nfrom distdl.track.jsonl import MetricsFile\n"
        "file = MetricsFile(Path(sys.argv[1]), None)\n"
        "for step in itertools.count():\n"
        "    file.append({'kind': 'train', 'step': step})\n"
        "    if step == 500: print('going', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)

    steps = [row["step"] for row in read(path)]
    assert len(steps) > 500 and steps == list(range(len(steps)))
    assert len(steps) - path.read_bytes().count(b"\n") in (0, 1)  # a row without its newline is whole too


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        ({"kind": "trian", "step": 1}, ValueError, "train, eval, event, system"),
        ({"kind": "train"}, ValueError, "step"),
        ({"kind": "train", "step": np.int64(3)}, ValueError, "step"),
        ({"kind": "eval", "step": 1, "loss": 1.0}, ValueError, "set"),
        ({"kind": "train", "step": 1, "loss": np.float64(1.0)}, TypeError, "loss of a row is a numpy.float64"),
        ({"kind": "train", "step": 1, "lr": [0.1]}, TypeError, "lr of a row is a builtins.list"),
    ],
)
def test_a_row_that_is_not_plain_python_is_refused_and_its_key_named(
    row: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        check_row(row)


def test_a_torch_scalar_is_refused() -> None:
    torch = pytest.importorskip("torch")

    with pytest.raises(TypeError, match=r"loss of a row is a torch.Tensor.*\.item\(\)"):
        check_row({"kind": "train", "step": 1, "loss": torch.tensor(1.0)})


def test_names_of_curves_come_from_kind_and_set() -> None:
    assert jsonl.scalars(train_row(1, loss=2, lr=0.1)) == {"train/loss": 2.0, "train/lr": 0.1}
    assert jsonl.scalars(eval_row(1)) == {"eval/loss": 0.5, "eval/top1": 0.9}
    assert jsonl.scalars(eval_row(1, set="dev")) == {"eval/dev/loss": 0.5, "eval/dev/top1": 0.9}
    assert jsonl.scalars({"kind": "system", "step": 1, "time_s": 2.0, "load_1min": 1}) == {"system/load_1min": 1.0}
    assert jsonl.scalars({"kind": "event", "step": 1, "event": "saved", "size_bytes": 3}) == {}
