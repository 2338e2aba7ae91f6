"""`distdl data explain`: the very sample that stood in a row of a worker's batch, and the bytes it was read from."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny

import distdl
from distdl.checkpoint import load as checkpoint_load
from distdl.cli import main
from distdl.data.pictures.image import decode_image
from distdl.errors import UserError
from distdl.run.folder import RunFolder
from distdl.run.open import open_run
from distdl.trainer.explain import explain


@pytest.fixture
def started(corpus, tmp_path, monkeypatch):
    """Makes the folder of a run of a tiny corpus of 20 samples, seven to a shard, with the config changed."""
    monkeypatch.chdir(tmp_path)

    def start(**overrides) -> RunFolder:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        config = tiny.config(corpus, {"train.steps": 9, **dotted})
        opened = open_run(tmp_path / "runs" / "run", config, resume=False)
        opened.lease.close()
        return opened.folder

    return start


def sample_of(text):
    return int(re.search(r": sample (\d+)$", text.splitlines()[0])[1])


def rows_of(run, step, rank, world_size):
    """Sample ids, row by row, until there is no such row."""
    found = []
    while True:
        try:
            found.append(sample_of(explain("run", step=step, rank=rank, row=len(found), world_size=world_size)))
        except UserError as error:
            assert f"rank {rank} has the rows 0 to {len(found) - 1} of step {step}" in error.what
            return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data__tail": "drop"},
        {"train__batch_growth": {"epochs": [1.0], "factor": 2}, "train__global_batch": 4},
        {"train__epochs": 2, "train__steps": None},
        {"data__sampling": "balanced"},
    ],
    ids=str,
)
@pytest.mark.parametrize("world_size", [1, 3])
def test_it_names_the_samples_of_the_batches_that_the_worker_gets(started, changes, world_size):
    run = started(**changes)
    batches = [
        [
            batch["sample_id"].tolist()
            for batch in distdl.batches(run.config, rank=rank, world_size=world_size, epochs=2)
        ]
        for rank in range(world_size)
    ]
    rank = world_size - 1

    for step in (1, 2, 4):
        assert rows_of(run, step, rank, world_size) == batches[rank][step - 1], step


def test_with_a_tree_the_rows_are_those_of_the_workers_leaves(started, corpus, opened):
    started(dist__reduction="tree", dist__leaves=4)
    alone = opened(tiny.build(tiny.config(corpus, {"dist.reduction": "tree", "dist.leaves": 4})))
    batch = next(iter(alone.host_batches())).tensors["sample_id"].tolist()

    shares = [rows_of("run", 1, rank, 3) for rank in range(3)]

    assert [len(share) for share in shares] == [2, 2, 4]  # of four leaves of two rows
    assert [sample for share in shares for sample in share] == batch


def test_the_bytes_it_names_are_the_image_that_is_trained_on(started, corpus):
    run = started()
    text = explain("run", step=2, rank=0, row=5, world_size=1)

    tar = re.search(r"^shard +(\S+), its sample \d+$", text, re.MULTILINE)[1]
    size, offset = re.search(r"^png +([\d,]+) bytes from byte ([\d,]+) on$", text, re.MULTILINE).groups()
    with Path(tar).open("rb") as file:
        file.seek(int(offset.replace(",", "")))
        pixels = decode_image(file.read(int(size.replace(",", ""))), "png")
    second = list(distdl.batches(run.config))[1]
    assert tar.startswith(str(corpus))
    assert (second["image"][5].permute(1, 2, 0).numpy() * 255).round().astype(int).tolist() == pixels.tolist()
    assert re.search(rf"^key +{sample_of(text):05}$", text, re.MULTILINE)


def test_of_a_folder_of_images_it_names_the_file_and_its_class(started, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, name in enumerate(["cat/0.png", "cat/1.png", "dog/2.png"]):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(cv2.imencode(".png", np.full((4, 4), number, np.uint8))[1].tobytes())
    started(**{"data.train": {"folder": str(tmp_path / "pets")}, "train.global_batch": 3})

    text = "\n".join(explain("run", step=1, rank=0, row=row, world_size=1) for row in range(3))

    assert sorted(re.findall(r"^file +\S+/pets/(\S+)\nclass +(.+)$", text, re.MULTILINE)) == [
        ("cat/0.png", "cat (0)"),
        ("cat/1.png", "cat (0)"),
        ("dog/2.png", "dog (1)"),
    ]


def test_rows_beyond_the_end_of_the_run_are_said_to_be_padding(started):
    started(train__epochs=1, train__steps=None)  # 20 samples: two batches of 8 and a part of one

    text = {row: explain("run", step=3, rank=0, row=row, world_size=1) for row in range(8)}

    assert sum("only fills the last batch" in each for each in text.values()) == 4
    with pytest.raises(UserError, match="the run ends before step 4"):
        explain("run", step=4, rank=0, row=0, world_size=1)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"step": 0}, "the first step is 1"),
        ({"rank": 2}, "there is no rank 2 among 2 workers"),
        ({"row": 4}, "rank 0 has the rows 0 to 3 of step 1"),
        ({"row": -1}, "rank 0 has the rows 0 to 3"),
        ({"run": "rum"}, "no run 'rum' here"),
    ],
)
def test_a_place_that_there_was_not_is_answered(started, place, expected):
    started()

    with pytest.raises(UserError, match=expected):
        explain(**{"run": "run", "step": 1, "rank": 0, "row": 0, "world_size": 2, **place})


def test_the_number_of_workers_is_that_of_the_run(started, capsys):
    run = started()
    command = ["data", "explain", "run", "--step", "1", "--rank", "1", "--row", "3"]

    assert main(command) == 2
    assert "it is not known how many workers the run had" in capsys.readouterr().err
    run.environment.write_text(json.dumps({"workers": [{}, {}]}))
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("step 1, rank 1 of 2, row 3 of 4: sample ")


def test_a_run_that_went_on_from_another_is_placed_by_its_metrics(started):
    run = started()
    run.add_to_identity(started_from={"run": "other", "run_id": "x", "step": 2, "weights_only": False})
    with pytest.raises(UserError, match="its metrics don't say where it was before step 4"):
        explain("run", step=4, rank=0, row=0, world_size=1)

    run.metrics.write_text(json.dumps({"kind": "train", "step": 3, "samples": 48}) + "\n")  # others had larger batches

    text = explain("run", step=5, rank=0, row=0, world_size=1)
    positions = {explain("run", step=5, rank=0, row=row, world_size=1).splitlines()[1] for row in range(8)}
    assert {int(re.search(r"position +(\d+)", each)[1]) for each in positions} == set(range(56, 64))
    assert "of epoch 2" in text


def test_a_dataset_of_ones_own_has_items_instead_of_shards(started, monkeypatch):
    monkeypatch.setattr(tiny, "items", lambda: [(None, i) for i in range(20)], raising=False)
    monkeypatch.setenv("DISTDL_TRUST_PLUGINS", "1")
    started(data__train={"dataset": "tiny:items"})

    text = explain("run", step=1, rank=0, row=0, world_size=1)

    assert text.splitlines()[-1] == f"item        {sample_of(text)} of tiny:items"


def test_data_that_has_changed_since_is_not_explained(started, monkeypatch):
    started()
    saved = SimpleNamespace(state={"data": {"identity": "of other shards"}})
    monkeypatch.setattr(checkpoint_load, "newest", lambda *_, **__: saved)

    with pytest.raises(UserError, match="the training data is not what this run was trained on"):
        explain("run", step=1, rank=0, row=0, world_size=1)
