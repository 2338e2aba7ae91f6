"""Whose code a run folder holds: one's own runs again without a word, a stranger's does not."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from distdl.config import load
from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run import trust
from distdl.run.folder import RunFolder
from distdl.run.open import open_run

PLUGIN = "import distdl\n@distdl.register_model\ndef my_net(): ...\n"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def config(model, plugins=()):
    Path("my.py").write_text(PLUGIN)
    Path("x.yaml").write_text(
        f"model: {{name: '{model}'}}\ndata: {{train: {{shards: a}}}}\noptim: {{lr: 1}}\n"
        f"train: {{global_batch: 8, steps: 5}}\nplugins: [{', '.join(plugins)}]\n"
    )
    return load("x.yaml").config


def started(model="my_net", plugins=("my.py",), name="first") -> RunFolder:
    opened = open_run(Path("runs") / name, config(model, plugins), resume=False)
    opened.lease.close()
    return opened.folder


def check(folder, **options):
    trust.check(folder, load(folder.config).config, **options)


@pytest.mark.parametrize(("model", "plugins"), [("my_net", ("my.py",)), ("os:system", ()), ("lenet5", ("my.py",))])
def test_a_run_that_was_started_here_is_trusted_and_elsewhere_it_is_not(model, plugins, state):
    folder = started(model, plugins)
    check(folder)

    shutil.rmtree(state)  # another user, or another machine

    with pytest.raises(UserError, match="runs/first: this run was not started by you") as caught:
        check(folder)
    assert (plugins[0][:2] if plugins else model) in caught.value.what
    assert "--trust-plugins" in caught.value.fix


def test_a_run_of_built_in_parts_never_asks_and_leaves_no_trace(state):
    check(started("lenet5", ()))

    assert not state.exists()


def test_ones_own_run_may_be_moved_but_not_changed_by_somebody():
    folder = started()
    shutil.copytree(folder.path, "elsewhere")
    check(RunFolder(Path("elsewhere")))

    (copy,) = Path("elsewhere/plugins").iterdir()
    copy.write_text(PLUGIN + "import os\n")

    with pytest.raises(UserError, match="changed since"):
        check(RunFolder(Path("elsewhere")))


def test_a_changed_config_of_ones_own_run_is_a_strangers():
    folder = started("math:cos", ())
    folder.config.write_text(folder.config.read_text().replace("math:cos", "os:system"))

    with pytest.raises(UserError, match="would execute os:system"):
        check(folder)


def test_the_readers_word_is_enough(monkeypatch, state):
    folder = started()
    shutil.rmtree(state)

    check(folder, trusted=True)
    monkeypatch.setenv("DISTDL_TRUST_PLUGINS", "1")
    check(folder)


def test_without_a_home_that_can_be_written_runs_start_and_are_trusted_by_word_only(monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", "file/below")

    folder = started()

    with pytest.raises(UserError, match="--trust-plugins"):
        check(folder)


def test_a_config_by_its_path_is_asked_about_only_inside_a_run_folder(state):
    folder = started()
    shutil.rmtree(state)

    trust.check_file(Path("x.yaml"), load("x.yaml").config)
    with pytest.raises(UserError, match="not started by you"):
        trust.check_file(folder.config, load(folder.config).config)


def parts(annotation):
    """A type annotation and all inside it: sections, validators, ..."""
    yield annotation
    for part in get_args(annotation):
        yield from parts(part)


def keys_of_names(section, path=()):
    """The keys of the schema that hold the name of a component, by how they are checked."""
    for name, field in section.model_fields.items():
        inside = [*field.metadata, *parts(field.annotation)]
        if any(word in repr(part) for part in inside for word in ("function name_in", "function _one_transform")):
            yield ".".join((*path, name))
        for part in inside:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from keys_of_names(part, (*path, name))


KEYS = list(dict.fromkeys(keys_of_names(Config)))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_that_can_name_code_is_asked_about(key):
    value = "[{'os:system': ls}]" if key.endswith("transforms") else "os:system"
    Path("y.yaml").write_text("base: x.yaml\n")
    config("lenet5")

    overrides = [f"{key.replace('mixture', 'mixture.one')}={value}"]
    overrides += ["data.train.shards=null"] * (key.startswith("data.train") and key.endswith("dataset"))
    overrides += ["data.eval.shards=a"] * (key == "data.eval.transforms")

    assert list(trust.code_in(load("y.yaml", overrides).config)) == ["os:system"]


def test_the_keys_that_can_name_code_are_found_in_the_schema():
    of_data = {"data.train.dataset", "data.train.mixture.dataset", "data.eval.dataset", "data.eval.transforms"}

    assert {"model.name", "optim.name", *of_data} <= set(KEYS)
