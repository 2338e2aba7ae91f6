"""What a start says of a folder: how fast its files are read, and how fast out of shards, which need not be opened."""

import os
import time

import cv2
import numpy as np
import pytest
import tiny

from distdl.data import reading_speed
from distdl.data.corpus.folder import FolderDataset
from distdl.data.reading_speed import Speed, measured
from distdl.trainer import loaders


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    for i in range(40):
        path = tmp_path / "images" / f"class{i % 10}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return tmp_path / "images"


def slowed(function, seconds):
    def slow(*args):
        time.sleep(seconds)
        return function(*args)

    return slow


def test_each_file_is_tried_once_and_its_bytes_are_counted(folder):
    speed = measured(FolderDataset.open(folder))

    assert speed.n_files == 40
    assert speed.n_bytes == sum(path.stat().st_size for path in folder.rglob("*.png"))


def test_opening_is_what_shards_would_save(folder, monkeypatch):
    monkeypatch.setattr(os, "open", slowed(os.open, 0.003))
    slow_to_open = measured(FolderDataset.open(folder))
    monkeypatch.undo()
    monkeypatch.setattr(os, "readv", slowed(os.readv, 0.002))  # twice a file: the second time tells its end
    slow_to_read = measured(FolderDataset.open(folder))

    assert slow_to_open.open_s > 40 * 0.003 and slow_to_open.open_s > 3 * slow_to_open.read_s
    assert slow_to_read.read_s > 40 * 0.004 and slow_to_read.read_s > 3 * slow_to_read.open_s


def test_it_takes_as_long_as_it_may_and_no_longer(folder, monkeypatch):
    monkeypatch.setattr(reading_speed, "_MOST_S", 0.1)
    now, opened = [0.0], os.open

    def slow(*args):
        now[0] += 0.04
        return opened(*args)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(os, "open", slow)

    assert measured(FolderDataset.open(folder)).n_files == 3


def test_files_that_cant_be_read_are_left_to_training(folder):
    dataset = FolderDataset.open(folder)
    for path in folder.rglob("*.png"):
        path.unlink()

    assert measured(dataset) is None and loaders.remarks(dataset) == []


def test_what_is_said():
    said = str(Speed(n_files=200, n_bytes=20_000_000, open_s=0.15, read_s=0.05))

    assert said.startswith(
        "a thread reads 1,000 files/s (100 MB/s) here; out of shards, which stay open, 4,000/s or more"
    )


def test_a_run_says_it_of_a_folder_and_not_of_shards(folder, corpus, opened):
    on_folder = opened(tiny.build(tiny.config(corpus, {"data.train": {"folder": str(folder)}})))
    on_shards = opened(tiny.build(tiny.config(corpus)))

    (remark,) = loaders.remarks(on_folder.train_loader.dataset)
    assert remark.startswith(f"{folder}: a thread reads ")
    assert loaders.remarks(on_shards.train_loader.dataset) == []
