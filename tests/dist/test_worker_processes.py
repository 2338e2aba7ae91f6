"""Batches filled by worker processes: the same ones, and no end of a process that nobody hears of."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from distdl import plugins, registry
from distdl.config.schema import DataConfig
from distdl.config.sources import SplitConfig
from distdl.data import labels
from distdl.data.corpus import shards
from distdl.data.corpus.dataset import Dataset
from distdl.data.engine import Loader
from distdl.data.open import open_again
from distdl.data.order import Plan, Rows
from distdl.data.own import OwnDataset
from distdl.data.processes import Processes
from distdl.data.workers import Threads
from distdl.errors import ProcessLost, UserError

TRANSFORMS = ["flip", {"random_resized_crop": 8}, {"brightness": [0.5, 1.5]}]


def make_loader(folder, workers, *, transforms=TRANSFORMS, bad_sample="mask", spec=None, rows=50):
    dataset = Dataset.open(folder)
    plan = Plan(dataset.sizes, seed=3, global_batch=rows, lanes=4, window=10)
    made = Loader(
        dataset,
        SplitConfig(shards=str(folder), transforms=transforms),
        workers=workers,
        prefetch=3,
        open_again=partial(Dataset.open, folder),
        where="data.train",
        label=spec or labels.class_number(10),
        augmentation_seed=plan.augmentation_seed,
        bad_sample=bad_sample,
        substitute=plan.next_in_lane,
    )
    made.plan = plan
    return made


@pytest.fixture
def loader():
    opened = []
    yield lambda *args, **changed: opened.append(make_loader(*args, **changed)) or opened[-1]
    for each in opened:
        each.close()


def read(loader, n_batches=8):
    steps = loader.plan.steps(0, n_batches * 50, end=n_batches * 50)
    return [({name: t.clone() for name, t in batch.tensors.items()}, batch.problems) for batch in loader.stream(steps)]


def endless(loader):
    return loader.stream(loader.plan.steps(0, 1 << 40, end=1 << 40))


def worker_processes():
    """Of this process, those that run."""
    threads = Path("/proc/self/task").iterdir()
    pids = {int(pid) for thread in threads for pid in (thread / "children").read_text().split()}
    return {pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and is_running(pid)}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("bad_sample", ["mask", "substitute"])
def test_they_fill_the_batches_that_threads_fill(tmp_path, loader, bad_sample):
    folder = tiny.write_corpus(tmp_path / "corpus", 90, bad=[5, 6, 44])
    expected = read(loader(folder, Threads(2), bad_sample=bad_sample))

    found = read(loader(folder, Processes(3), bad_sample=bad_sample))

    assert len(found) == 8
    for (tensors, problems), (expected_tensors, expected_problems) in zip(found, expected, strict=True):
        assert problems == expected_problems
        assert tensors.keys() == expected_tensors.keys() > {"augment_key", "label"}
        for name in tensors:
            assert (tensors[name] == expected_tensors[name]).all(), name
    assert sum(len(problems) for _, problems in found) > 3


def write_images(folder):
    for name, value in (("a", 10), ("b", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            cv2.imwrite(str(folder / name / f"{i}.png"), np.full((4, 4), value + i, np.uint8))
    return folder


def halved(samples):
    for sample in samples:
        yield sample | {"png": cv2.imdecode(np.frombuffer(sample["png"], np.uint8), -1) // 2}


@pytest.mark.parametrize("source", ["folder", "mixture", "stages"])
def test_they_open_any_source_again(tmp_path, source):
    shards, images = str(tiny.write_corpus(tmp_path / "corpus", 40)), str(write_images(tmp_path / "images"))
    train = {
        "folder": {"folder": images},
        "mixture": {"mixture": {"one": {"shards": shards, "weight": 3}, "other": {"folder": images}}},
        "stages": {"shards": shards, "stages": [{"test_worker_processes:halved": None}]},
    }[source]

    def images_by(worker_type):
        settings = {"data.train": train, "data.workers": 2, "data.worker_type": worker_type}
        run = tiny.build(tiny.config(tmp_path / "corpus", settings))
        images = [batch.tensors["image"].clone() for batch in run.host_batches()]
        run.close()
        return images

    threads, processes = images_by("thread"), images_by("process")

    assert len(threads) == 5
    assert all((one == other).all() for one, other in zip(threads, processes, strict=True))


def test_one_group_serves_several_loaders_and_ends_with_the_last(tmp_path, loader):
    workers = Processes(2)
    one = loader(tiny.write_corpus(tmp_path / "one", 20), workers)
    other = loader(tiny.write_corpus(tmp_path / "other", 30), workers)

    assert len(worker_processes()) == 2  # before anything is read
    assert len(read(one)) == len(read(other)) == 8
    assert len(worker_processes()) == 2
    one.close()
    assert len(read(other)) == 8
    other.close()

    assert not worker_processes()


def test_what_goes_wrong_in_one_is_told_as_it_would_be_here(tmp_path, loader):
    folder = tiny.write_corpus(tmp_path / "corpus", 20, bad=[7])

    with pytest.raises(UserError, match=r"00007\.png in 000001\.tar") as caught:
        read(loader(folder, Processes(1), bad_sample="raise"))

    assert caught.value.where == "data.train" and "distdl data verify" in caught.value.fix


def test_a_process_that_is_gone_is_told_of_and_nobody_waits_for_it(tmp_path, loader):
    stream = endless(loader(tiny.write_corpus(tmp_path / "corpus", 90), Processes(2, rank=5)))
    next(stream)

    killed = worker_processes().pop()
    os.kill(killed, signal.SIGKILL)

    with pytest.raises(ProcessLost, match=f"process {killed} of rank 5: killed by SIGKILL.*memory.*\n.*--resume"):
        for _ in range(1000):
            next(stream)


def test_they_leave_the_signals_of_the_group_to_their_parent(tmp_path, loader):
    stream = endless(loader(tiny.write_corpus(tmp_path / "corpus", 90), Processes(1)))
    next(stream)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        os.kill(worker_processes().pop(), number)

    assert len(list(itertools.islice(stream, 40))) == 40


PARENT = """
import sys, time
from test_worker_processes import Path, Processes, endless, make_loader, worker_processes

if __name__ == "__main__":
    batches = endless(make_loader(Path(sys.argv[1]), Processes(2)))
    next(batches)
    print(*worker_processes(), flush=True)
    time.sleep(60)
"""


def test_they_end_with_a_parent_that_was_killed(tmp_path):
    folder = tiny.write_corpus(tmp_path / "corpus", 90)
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    paths = [str(Path(__file__).parent), *sys.path]

    command = [sys.executable, script, folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        started = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()

    assert len(started) == 2
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline, "they outlive their parent"
        time.sleep(0.05)


PLUGIN = """
import sys, distdl, numpy as np

@distdl.register_dataset
class Squares:
    def __len__(self): return 30
    def __getitem__(self, i): return np.full((4, 4), i, np.uint8), int("torch" in sys.modules)
"""


def from_plugin(text):
    """A batch of items 3 and 29 of the dataset Squares that a plugin registers."""
    with registry.using(plugins.load([("squares.py", text)])):
        data = DataConfig.model_validate({"train": {"dataset": "Squares", "transforms": ["flip", "brightness"]}})
        split = data.train
        dataset = OwnDataset.open(split, "data.train")
        loader = Loader(
            dataset,
            split,
            workers=Processes(1),
            prefetch=1,
            open_again=partial(open_again, split, data, dataset.identity, "data.train"),
            where="data.train",
            label=labels.class_number(10),
            augmentation_seed=None,
            bad_sample="mask",
        )
        with contextlib.closing(loader):
            (batch,) = loader.stream([Rows.of(np.array([3, 29]))])
    return batch.tensors


@pytest.fixture
def no_other_plugins(monkeypatch):
    """What this process has executed, its worker processes execute as well."""
    monkeypatch.setattr(plugins, "loaded", {})


def test_what_a_plugin_registers_is_known_to_them_and_torch_is_not_imported_without_need(no_other_plugins):
    tensors = from_plugin(PLUGIN)

    assert tensors["image"][:, 0, 0, 0].tolist() == [3, 29]
    assert "augment_key" in tensors  # of brightness, whose own code is made of torch
    assert tensors["label"].tolist() == [0, 0]


def test_an_exception_of_a_plugin_that_comes_only_there_is_told_with_its_traceback(no_other_plugins):
    text = PLUGIN + "import multiprocessing\nif multiprocessing.parent_process(): raise OSError('no licence here')\n"

    with pytest.raises(OSError, match="no licence here") as caught:
        from_plugin(text)

    assert 'File "squares.py", line 9, in <module>' in "".join(caught.value.__notes__)


def test_what_cannot_be_sent_is_said_at_once(tmp_path, loader):
    folder = tiny.write_corpus(tmp_path / "corpus", 20)
    spec = labels.LabelSpec(parse=lambda label: int(label), expected="numbers", dtype="int64")

    with pytest.raises(UserError, match="can't be sent to a worker process") as caught:
        loader(folder, Processes(1), spec=spec)

    assert "data.worker_type: thread" in caught.value.fix


def test_pixels_of_photographs_are_the_same(tmp_path, loader):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    samples = ({"__key__": f"{i:03}", "jpg": jpeg, "cls": i % 10} for i in range(60))
    shards.write_shards(samples, tmp_path / "photos", classes=None, kind="test", shard_samples=20)
    folder = tmp_path / "photos"

    threads, processes = (read(loader(folder, workers)) for workers in (Threads(0), Processes(2)))

    assert all((a["image"] == b["image"]).all() for (a, _), (b, _) in zip(threads, processes, strict=True))
