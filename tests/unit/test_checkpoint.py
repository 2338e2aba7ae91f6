"""Checkpoints on disk: what goes in comes out, and nothing damaged is ever used."""

import json
import random
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from watched import hand

from distdl.checkpoint import format, load, save
from distdl.checkpoint.format import CheckpointDamaged
from distdl.checkpoint.save import Checkpoints
from distdl.config.schema import KeepConfig
from distdl.errors import UserError
from distdl.run.folder import create_or_reopen
from distdl.watch import pulse


@pytest.fixture
def folder(tmp_path):
    return create_or_reopen(tmp_path / "run", resume=False)


def some_state(value=1.0):
    """Of a run that is at position 10 times `value`."""
    weight = torch.full((4, 3, 2, 2), value).to(memory_format=torch.channels_last)
    tensors = {
        "model/conv.weight": weight,
        "model/tied.weight": weight,
        "model/bn.num_batches": torch.tensor(7),
        "optim/conv.weight/momentum_buffer": weight * 2,
        "ema/half": torch.full((5,), value, dtype=torch.bfloat16),
    }
    return tensors, {"train_state": {"step": 4, "position": round(10 * value), "best": None}, "lr": 0.1}


def checkpoints_of(folder, warn=lambda topic, message: None, still_ours=lambda: True, **keep):
    return Checkpoints(folder, keep=KeepConfig(**keep), epoch_length=100, warn=warn, still_ours=still_ours)


def save_steps(folder, steps, best_steps=(), **keep):
    checkpoints = checkpoints_of(folder, **keep)
    for step in steps:
        checkpoints.save(lambda step=step: some_state(step), step, best_steps=best_steps, wait=True)


def steps_of(folder):
    return [step for step, _ in load.committed(folder)]


def flip_a_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_what_is_saved_is_loaded(folder):
    save_steps(folder, [4])

    checkpoint = load.newest(folder, warn=pytest.fail)

    expected, state = some_state(4)
    assert checkpoint.step == 4
    assert checkpoint.state == state
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor)
        assert checkpoint.tensors[name].dtype == tensor.dtype


def test_a_tied_tensor_is_stored_once_and_loaded_under_both_names(folder):
    save_steps(folder, [4])

    manifest = format.read_manifest(folder.checkpoints / "step-00000004")
    tensors = load.newest(folder, warn=pytest.fail).tensors

    assert manifest["aliases"] == {"model/tied.weight": "model/conv.weight"}
    assert tensors["model/tied.weight"] is tensors["model/conv.weight"]


def test_the_files_are_plain_safetensors(folder):
    save_steps(folder, [4])

    weights = safetensors.torch.load_file(folder.checkpoints / "step-00000004" / "model.safetensors")

    assert torch.equal(weights["conv.weight"], some_state(4)[0]["model/conv.weight"])


def test_one_flipped_bit_anywhere_is_detected_and_its_file_named(folder):
    save_steps(folder, [4])
    path = folder.checkpoints / "step-00000004"
    files = sorted(path.iterdir())
    draw = random.Random(0)
    for _ in range(200):
        file = draw.choice(files)
        bit = draw.randrange(file.stat().st_size * 8)
        flip_a_bit(file, bit)
        with pytest.raises(CheckpointDamaged, match=file.name):
            load.load(folder, 4, path)
        flip_a_bit(file, bit)
    load.load(folder, 4, path)


@pytest.mark.parametrize("damage", ["truncated", "missing", "foreign", "other step"])
def test_a_bad_checkpoint_is_refused_by_name_and_the_one_before_is_used(folder, tmp_path, damage):
    save_steps(folder, [2, 4])
    newest = folder.checkpoints / "step-00000004"
    weights = newest / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "missing":
        weights.unlink()
    elif damage == "foreign":
        stranger = create_or_reopen(tmp_path / "stranger", resume=False)
        save_steps(stranger, [4])
        for file in newest.iterdir():
            file.write_bytes((stranger.checkpoints / newest.name / file.name).read_bytes())
    else:
        newest.rename(newest.with_name("step-00000005"))
    refusals = []

    checkpoint = load.newest(folder, warn=refusals.append)

    assert checkpoint.step == 2
    assert len(refusals) == 1 and str(folder.checkpoints) in refusals[0]


def test_if_all_are_bad_it_stops_instead_of_starting_from_nothing(folder):
    save_steps(folder, [2, 4])
    for manifest in folder.checkpoints.glob("*/manifest.json"):
        manifest.write_text("{}")

    with pytest.raises(UserError, match="every checkpoint of this run is damaged"):
        load.newest(folder, warn=lambda message: None)


def test_a_run_without_checkpoints_has_none(folder):
    assert load.newest(folder, warn=pytest.fail) is None


def test_what_no_rule_keeps_is_pruned_also_after_a_restart(folder):
    save_steps(folder, [5, 10, 15], best_steps=[5], last=1, every="1 epoch")  # epochs end at steps 10, 20, ...
    assert steps_of(folder) == [5, 10, 15]

    save_steps(folder, [20, 25, 30, 35], best_steps=[25], last=1, every="1 epoch")

    assert steps_of(folder) == [10, 20, 25, 30, 35]


def test_where_a_checkpoint_stands_is_read_once_from_its_manifest(folder, monkeypatch):
    save_steps(folder, [10, 20])
    read = []
    real = format.read_manifest
    monkeypatch.setattr(format, "read_manifest", lambda path: read.append(path.name) or real(path))

    save_steps(folder, [30, 40, 50], last=1, every="1 epoch")

    assert sorted(read) == ["step-00000010", "step-00000020"]
    assert steps_of(folder) == [10, 20, 30, 40, 50]


def test_a_checkpoint_whose_manifest_is_unreadable_is_not_pruned_for_it(folder):
    save_steps(folder, [10])
    (folder.checkpoints / "step-00000010" / "manifest.json").write_text("{}")

    save_steps(folder, [11, 12], last=1, every="1 epoch")

    assert steps_of(folder) == [10, 11, 12]


@pytest.fixture
def slow_disk(monkeypatch):
    """Holds back every write until it is set."""
    allowed, real = threading.Event(), format.write
    monkeypatch.setattr(format, "write", lambda *args, **options: allowed.wait(10) and real(*args, **options))
    return allowed


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(folder, slow_disk):
    checkpoints = checkpoints_of(folder)
    tensors, state = some_state(1.0)

    checkpoints.save(lambda: (tensors, state), 1, best_steps=(), wait=False)
    tensors["model/conv.weight"].fill_(2.0)
    assert steps_of(folder) == []
    slow_disk.set()
    checkpoints.close()

    assert load.newest(folder, warn=pytest.fail).tensors["model/conv.weight"].eq(1.0).all()


def test_a_save_that_is_due_too_early_waits_for_the_one_before_and_says_so(folder, slow_disk, monkeypatch):
    warnings = []
    checkpoints = checkpoints_of(folder, warn=lambda topic, message: warnings.append(message))
    monkeypatch.setattr(save, "_LONG_WAIT_S", 0.1)
    threading.Timer(0.2, slow_disk.set).start()

    for step in (1, 2, 3):
        checkpoints.save(lambda step=step: some_state(step), step, best_steps=(), wait=False)
    checkpoints.close()

    assert [load.at_step(folder, step).tensors["ema/half"][0].item() for step in steps_of(folder)] == [1, 2, 3]
    (warning,) = warnings
    assert "the save at step 2 waited 0." in warning


def test_a_save_that_waited_for_the_one_before_has_its_whole_time_left(folder, slow_disk, monkeypatch):
    """Who watches this worker would take two slow saves for one that hangs."""
    board = pulse.Board(1)
    pulse.prepare(board.slot(0))
    monkeypatch.setattr(pulse, "mine", hand(board.descriptor))
    checkpoints = checkpoints_of(folder)
    threading.Timer(0.3, slow_disk.set).start()

    with pulse.mine.phase("save"):
        for step in (1, 2):
            checkpoints.save(some_state, step, best_steps=(), wait=False)
        state = pulse.read(board.slot(0))
    checkpoints.close()
    board.close()

    assert state.phase_age_s > 0.25
    assert state.beat_age_s < state.phase_age_s / 2


def test_saving_a_step_again_replaces_a_damaged_one(folder):
    save_steps(folder, [4])
    (folder.checkpoints / "step-00000004" / "model.safetensors").write_bytes(b"")

    save_steps(folder, [4])

    assert load.newest(folder, warn=pytest.fail).step == 4


def test_what_a_killed_save_left_is_swept_and_a_replaced_one_is_put_back(folder):
    save_steps(folder, [4])
    (folder.checkpoints / "step-00000004").rename(folder.checkpoints / ".step-00000004.replaced")
    (folder.checkpoints / ".step-00000006.part").mkdir()

    save.sweep(folder)

    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000004"]
    assert load.newest(folder, warn=pytest.fail).step == 4


def test_damaged_newer_checkpoints_are_set_aside(folder):
    save_steps(folder, [2, 4])

    moved = save.set_aside(folder, after_step=2)

    assert moved == ["damaged-step-00000004"]
    assert steps_of(folder) == [2]


def test_a_run_that_lost_its_lease_commits_nothing(folder):
    checkpoints = checkpoints_of(folder, still_ours=lambda: False)

    with pytest.raises(UserError, match="the run folder was deleted"):
        checkpoints.save(some_state, 4, best_steps=(), wait=True)
    folder.lease.write_text("{}")  # somebody else's
    with pytest.raises(UserError, match="another launch has taken over"):
        checkpoints.save(some_state, 4, best_steps=(), wait=True)

    assert list(folder.checkpoints.iterdir()) == []


def test_a_full_disk_is_a_warning_first_and_says_what_to_do_when_it_matters(folder, monkeypatch):
    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(format, "_write_safetensors", no_space)
    warnings = []
    checkpoints = checkpoints_of(folder, warn=lambda topic, message: warnings.append(message))

    checkpoints.save(some_state, 1, best_steps=(), wait=False)
    checkpoints.save(some_state, 2, best_steps=(), wait=False)
    with pytest.raises(UserError, match=r"no space left for a checkpoint .* MiB free"):
        checkpoints.save(some_state, 3, best_steps=(), wait=True)

    assert len(warnings) == 2 and "training goes on" in warnings[0]
    assert list(folder.checkpoints.iterdir()) == []


def test_a_manifest_that_points_outside_its_files_is_refused_before_anything_is_read(folder):
    save_steps(folder, [4])
    path = folder.checkpoints / "step-00000004" / "manifest.json"
    for damage in ({"offset": -1}, {"offset": 10**12}, {"shape": [10**9, 10**9]}, {"file": "../../run.json"}):
        manifest = json.loads(path.read_text())
        del manifest["checksum"]
        manifest["tensors"]["model/conv.weight"]["slices"][0].update(damage)
        sealed = path.with_name("sealed")
        sealed.mkdir()
        (sealed / "manifest.json").write_bytes(format._seal(manifest))
        with pytest.raises(CheckpointDamaged):
            format.read_manifest(sealed)
        (sealed / "manifest.json").unlink()
        sealed.rmdir()


def test_the_hash_covers_weights_and_buffers_and_nothing_else(folder):
    save_steps(folder, [1, 2, 3])
    first, second = load.at_step(folder, 1), load.at_step(folder, "2")

    assert load.weights_hash(first) == load.weights_hash(load.at_step(folder, 1, only="model/"))
    assert load.weights_hash(first) != load.weights_hash(second)


def test_asking_for_a_step_that_is_not_there_lists_those_that_are(folder):
    save_steps(folder, [1, 2])

    with pytest.raises(UserError, match=r"no checkpoint of step 9[\s\S]*1, 2"):
        load.at_step(folder, 9)
