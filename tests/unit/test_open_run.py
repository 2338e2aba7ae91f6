"""Starting a run in its folder, and which config may go on with it."""

import hashlib
import json
from pathlib import Path

import pytest

from distdl.config import dump, load
from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run import tuned
from distdl.run.open import open_run


def config(bucket_mib=25, **train):
    return Config.model_validate(
        {
            "model": {"name": "lenet5"},
            "data": {"train": {"shards": "data/train"}},
            "train": {"global_batch": 8, "steps": 5, **train},
            "optim": {"lr": 0.1},
            "dist": {"bucket_mib": bucket_mib},
        }
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "first"


def begun(path, config=config(), per_node=1):  # noqa: B008  # frozen
    """A run that was started and has a checkpoint."""
    opened = open_run(path, config, resume=False, per_node=per_node)
    opened.lease.close()
    checkpoint = opened.folder.checkpoints / "step-00000002"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    return opened


def test_a_new_run_gets_its_folder_its_config_and_the_lease(path):
    with open_run(path, config(), resume=False).lease:
        assert load(path / "config.yaml").config == config()
        assert (path / "run.json").is_file() and (path / "lease").is_file()


def test_a_run_that_is_there_is_refused_unless_it_is_to_be_resumed(path):
    begun(path)

    with pytest.raises(UserError, match="this run folder exists") as caught:
        open_run(path, config(), resume=False)

    assert "--resume" in caught.value.fix
    open_run(path, config(), resume=True).lease.close()


def test_resume_starts_a_run_that_is_not_there(path):
    with open_run(path, config(), resume=True).lease:
        assert (path / "run.json").is_file()


def test_a_run_keeps_its_identity_when_it_is_resumed(path):
    begun(path)
    identity = (path / "run.json").read_bytes()

    with open_run(path, config(), resume=True).lease:
        assert (path / "run.json").read_bytes() == identity


def test_settings_that_make_it_another_run_are_refused_and_named(path):
    begun(path)

    with pytest.raises(UserError) as caught:
        open_run(path, config(global_batch=16, seed=1), resume=True)

    assert "train.global_batch: 8 -> 16" in str(caught.value) and "train.seed: 0 -> 1" in str(caught.value)
    assert "--name" in caught.value.fix


def test_a_refused_config_is_not_written_and_the_lease_is_free_again(path):
    begun(path)
    with pytest.raises(UserError):
        open_run(path, config(global_batch=16), resume=True)

    with open_run(path, config(), resume=True).lease:
        assert load(path / "config.yaml").config == config()


def test_settings_that_may_change_are_named_and_kept(path):
    begun(path)

    opened = open_run(path, config(steps=50, log_every=1), resume=True)

    with opened.lease:
        assert opened.changes == ["train.steps: 5 -> 50", "train.log_every: 20 -> 1"]
        assert load(path / "config.yaml").config.train.steps == 50


def test_a_run_that_has_no_checkpoint_yet_takes_any_config(path):
    open_run(path, config(), resume=False).lease.close()

    with open_run(path, config(global_batch=16), resume=True).lease:
        assert load(path / "config.yaml").config.train.global_batch == 16


def test_a_second_launch_is_refused_while_the_first_one_runs(path, monkeypatch):
    monkeypatch.setattr("distdl.run.lease.take.__defaults__", (0.1,))

    with open_run(path, config(), resume=False).lease, pytest.raises(UserError, match="another launch is writing here"):
        open_run(path, config(), resume=True)


def test_a_folder_of_something_else_is_left_alone(path):
    path.mkdir(parents=True)
    (path / "thesis.tex").touch()

    with pytest.raises(UserError, match="not a run folder"):
        open_run(path, config(), resume=True)

    assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]


# --- plugins: a run keeps a copy of each, and executes the copy ---

PLUGIN = "import distdl\n@distdl.register_model\ndef my_net(): ...\n"


@pytest.fixture
def own(tmp_path):
    """Loads a config with a plugin of the given text beside it."""

    def make(text=PLUGIN):
        (tmp_path / "my.py").write_text(text)
        (tmp_path / "x.yaml").write_text(
            dump(config()).replace("lenet5", "my_net").replace("plugins: []", "plugins: [my.py]")
        )
        return load(tmp_path / "x.yaml").config

    return make


def test_a_run_keeps_its_plugins_and_their_hashes_and_needs_the_original_no_more(path, own, tmp_path):
    open_run(path, own(), resume=False).lease.close()
    (tmp_path / "my.py").unlink()

    (copy,) = load(path / "config.yaml").config.plugins
    digest = hashlib.sha256(PLUGIN.encode()).hexdigest()

    assert Path(copy) == path / "plugins" / f"my-{digest[:8]}.py"
    assert Path(copy).read_text() == PLUGIN
    assert json.loads((path / "run.json").read_text())["plugins"] == {f"my-{digest[:8]}.py": digest}


def begin(path, configured):
    open_run(path, configured, resume=False).lease.close()
    (path / "checkpoints" / "step-00000002").mkdir()
    (path / "checkpoints" / "step-00000002" / "manifest.json").write_text("{}")


def test_a_run_goes_on_with_the_same_plugin_wherever_it_lies_now(path, own, tmp_path):
    begin(path, own())

    open_run(path, own(), resume=True).lease.close()
    (tmp_path / "my.py").unlink()
    opened = open_run(path, load(path / "config.yaml").config, resume=True)

    opened.lease.close()
    assert opened.changes == [] and len(list((path / "plugins").iterdir())) == 1


def test_a_changed_plugin_makes_it_another_run_and_the_answer_names_the_copy(path, own):
    begin(path, own())
    (copy,) = (path / "plugins").iterdir()

    with pytest.raises(UserError, match=r"plugins: \[plugins/my-\w{8}\.py\] -> \[plugins/my-\w{8}\.py\]") as caught:
        open_run(path, own(PLUGIN + "# mended"), resume=True)

    assert f"'plugins=[{copy}]'" in caught.value.fix and "--name" in caught.value.fix
    assert list((path / "plugins").iterdir()) == [copy]


def test_a_run_without_a_checkpoint_takes_a_changed_plugin(path, own):
    open_run(path, own(), resume=False).lease.close()

    open_run(path, own(PLUGIN + "# mended"), resume=True).lease.close()

    assert Path(load(path / "config.yaml").config.plugins[0]).read_text() == PLUGIN + "# mended"


def test_a_launch_that_never_made_a_step_does_not_stand_in_the_way(path):
    open_run(path, config(), resume=False).lease.close()

    with open_run(path, config(global_batch=16), resume=False).lease:
        assert load(path / "config.yaml").config == config(global_batch=16)


def test_the_size_of_buckets_is_what_was_measured_for_as_many_workers_and_stays_that_of_the_run(path, monkeypatch):
    monkeypatch.setattr(tuned, "bucket_mib", lambda *group: {(1, 4, "auto"): 8.0}.get(group))
    begun(path, config("auto"), per_node=4)
    assert load(path / "config.yaml").config.dist.bucket_mib == 8

    with open_run(path, config("auto"), resume=True, per_node=2).lease:
        assert load(path / "config.yaml").config.dist.bucket_mib == 8


def test_without_a_measurement_it_is_the_default_and_a_number_is_kept(path):
    with open_run(path, config("auto"), resume=False).lease:
        assert load(path / "config.yaml").config.dist.bucket_mib == 25
    with open_run(path.with_name("other"), config(bucket_mib=3), resume=False).lease:
        assert load(path.with_name("other") / "config.yaml").config.dist.bucket_mib == 3
