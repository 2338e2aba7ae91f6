"""Configs: what a good one becomes, and what is said of a bad one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_config import SMALLEST

from distdl import registry
from distdl.config import Loaded, load
from distdl.config import keys as schema_keys
from distdl.errors import UserError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that errors name x.yaml, not a long path


def write(text: str, name: str = "x.yaml") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def loaded(text: str, *overrides: str) -> Loaded:
    return load(write(text), overrides)


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        loaded(text, *overrides)
    return str(caught.value).splitlines()


# --- a good config ---


def test_what_is_not_given_has_the_default_of_the_schema() -> None:
    config = loaded(SMALLEST).config

    assert (config.model.name, config.train.global_batch, config.optim.lr) == ("lenet5", 128, 0.1)
    assert (config.optim.momentum, config.checkpoint.keep.last, config.data.eval) == (0.9, 3, None)


def test_the_file_of_a_site_is_below_every_config(monkeypatch: pytest.MonkeyPatch) -> None:
    site = "slurm: {setup: [module load cuda], sbatch: {account: a, partition: p}}\ntrack: {wandb: {entity: us}}\n"
    monkeypatch.setenv("DISTDL_SITE", write(site, "site.yaml"))

    found = loaded(SMALLEST + "slurm: {sbatch: {partition: mine}}\n")

    assert found.config.slurm.setup == ["module load cuda"]
    assert found.config.slurm.sbatch == {"account": "a", "partition": "mine"}
    assert found.config.track.wandb.entity == "us"
    assert found.sources["slurm", "setup"] == "site.yaml:1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {lr: 3}", "site.yaml:1: the file of a site has these sections alone: paths, slurm, track"),
        ("slurm: {sbatch: [1]}", "site.yaml:1: slurm.sbatch: should be a mapping of options"),
        ("slurm: [", "site.yaml:1: not valid YAML"),
        (None, "DISTDL_SITE: site.yaml: there is no such file"),
    ],
)
def test_a_mistake_in_the_file_of_a_site_is_told(monkeypatch: pytest.MonkeyPatch, text: str | None, said: str) -> None:
    monkeypatch.setenv("DISTDL_SITE", write(text, "site.yaml") if text else "site.yaml")

    assert any(said in line for line in errors(SMALLEST)), errors(SMALLEST)


def test_an_override_wins_over_the_file_and_is_read_as_yaml() -> None:
    config = loaded(
        SMALLEST,
        "optim.lr=1e-3",
        "data.train.transforms=[flip,{pad: 2}]",
        "model.args.classes=7",
        "track.wandb={mode: offline}",
        "optim.betas=[0.8, 1.0e-1]",
        "train.epochs=null",
        "train.steps=10",
        "optim.lr=2e-3",
    ).config

    assert config.optim.lr == 2e-3  # the last one given
    assert config.data.train.transforms == [{"flip": {}}, {"pad": 2}]
    assert config.model.args == {"classes": 7}
    assert (config.track.wandb.mode, config.track.wandb.project) == ("offline", "distdl")
    assert config.optim.betas == (0.8, 0.1)
    assert (config.train.epochs, config.train.steps) == (None, 10)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("5.0e-4", 0.0005),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("12", 12),
        ("1_000", 1000),
        ("0x1f", 31),
        ("true", True),
        ("~", None),
        ("off", "off"),
        ("yes", "yes"),
        ("007", "007"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("v1.2.3", "v1.2.3"),
        ("'1e-3'", "1e-3"),
        ("!!str 3", "3"),
        ("<<", "<<"),
    ],
)
def test_words_mean_what_they_look_like_also_in_free_arguments(written: str, value: Any) -> None:
    args = loaded(SMALLEST, f"model.args={{x: {written}}}").config.model.args

    assert args == {"x": value}
    assert type(args["x"]) is type(value)


def test_keys_are_text_even_where_they_look_like_something_else() -> None:
    assert loaded(SMALLEST, "model.args={on: 1, 30: 2, null: 3}").config.model.args == {"on": 1, "30": 2, "null": 3}


def test_anchors_aliases_and_merge_keys_work() -> None:
    text = SMALLEST.replace("data: {train: {shards: data/train}}\n", "") + (
        "data:\n"
        "  train: &split {shards: data/train, transforms: [flip]}\n"
        "  eval: {dev: {<<: *split, shards: data/dev}, test: *split}\n"
    )

    eval_sets = loaded(text).config.data.eval_sets

    assert {name: split.shards for name, split in eval_sets.items()} == {"dev": "data/dev", "test": "data/train"}
    assert eval_sets["dev"].transforms == [{"flip": {}}]


def test_every_given_key_has_a_source() -> None:
    write("optim: {lr: 0.1,\n  weight_decay: 1e-4}\n", "bases/sgd.yaml")
    text = "base: bases/sgd.yaml\n" + SMALLEST.replace("optim: {lr: 0.1}", "optim:\n  lr: 0.3")

    sources = loaded(text, "data.train.transforms=[flip]").sources

    assert sources["model", "name"] == "x.yaml:2"
    assert sources["optim",] == "x.yaml:5"
    assert sources["optim", "lr"] == "x.yaml:6"
    assert sources["optim", "weight_decay"] == "bases/sgd.yaml:2"
    assert sources["data",] == "x.yaml:3"  # one key of it was overridden, the section is where it was
    assert sources["data", "train", "transforms"] == "command line 'data.train.transforms=[flip]'"
    assert ("base",) not in sources
    assert ("optim", "momentum") not in sources


# --- base ---


def test_mappings_merge_over_the_base_and_lists_replace() -> None:
    write(
        "model: {name: resnet18, args: {classes: 10, width: 2}}\n"
        "data: {train: {shards: a, transforms: [flip, {pad: 2}]}}\n"
        "optim: {lr: 0.1, momentum: 0.8}\n",
        "a.yaml",
    )
    write("base: ../a.yaml\ntrain: {global_batch: 64, epochs: 1}\noptim: {lr: 0.2}\n", "deep/b.yaml")

    config = loaded(
        "base: deep/b.yaml\nmodel: {args: {classes: 5}}\ndata: {train: {transforms: [flip]}}\n", "optim.lr=0.3"
    ).config

    assert config.model.args == {"classes": 5, "width": 2}
    assert config.data.train.transforms == [{"flip": {}}]
    assert config.train.global_batch == 64
    assert (config.optim.lr, config.optim.momentum) == (0.3, 0.8)


@pytest.mark.parametrize(
    ("below", "above", "names"),
    [
        ("{shards: a, label: txt}", "{dev: {shards: b}, test: {shards: c}}", ["dev", "test"]),
        ("{dev: {shards: b}, test: {shards: c}}", "{shards: a}", ["eval"]),
        ("{dev: {shards: b}, test: {shards: c}}", "{test: {label: txt}}", ["dev", "test"]),
        ("{shards: a}", "{label: txt}", ["eval"]),
        ("{shards: a}", "null", []),
    ],
)
def test_evaluation_splits_of_one_form_merge_and_of_two_forms_replace(below: str, above: str, names: list[str]) -> None:
    write(SMALLEST.replace("data/train}", f"data/train}}, eval: {below}"), "base.yaml")

    config = loaded(f"base: base.yaml\ndata: {{eval: {above}}}\n").config

    assert list(config.data.eval_sets) == names


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("gone.yaml", "x.yaml:1: base: gone.yaml: there is no such file"),
        ("bases", "x.yaml:1: base: bases: this is a folder, not a YAML file"),
        ("3", "x.yaml:1: base: should be the path of another config, relative to this file"),
        ("x.yaml", "x.yaml:1: base: these files are each other's base: x.yaml -> x.yaml"),
        ("bases/b.yaml", "bases/b.yaml:2: base: these files are each other's base: x.yaml -> bases/b.yaml -> x.yaml"),
    ],
)
def test_a_base_that_can_not_be_used_is_named_with_its_line(base: str, problem: str) -> None:
    write("# a comment\nbase: ../x.yaml\n", "bases/b.yaml")

    assert errors(f"base: {base}\n" + SMALLEST) == [problem]


def test_a_mistake_in_a_base_is_told_with_its_file_after_those_of_the_config() -> None:
    write(SMALLEST.replace("lr: 0.1", "lr: -1"), "base.yaml")

    assert errors("base: base.yaml\ntrain: {seed: -1}\n") == [
        "x.yaml:2: train.seed: should be greater than or equal to 0 (got -1)",
        "base.yaml:4: optim.lr: should be greater than 0 (got -1)",
    ]


# --- mistakes: all at once, in the reader's words ---


def test_six_mistakes_are_told_at_once_in_the_order_of_the_file_and_then_of_the_command_line() -> None:
    text = (
        "model: {name: resnet50}\n"
        "data:\n"
        "  batch_szie: 256\n"
        "  train: {shards: data/train}\n"
        "optim: {lr: -3,\n"
        "  name: adm}\n"
        "train: {global_batch: 256}\n"
    )

    assert errors(text, "data.lr=3", "train.epochs=ninety", "train.precison=bf16") == [
        "x.yaml:3: unknown key 'data.batch_szie' - did you mean train.global_batch?",
        "x.yaml:5: optim.lr: should be greater than 0 (got -3)",
        "x.yaml:6: optim.name: unknown optimiser 'adm' - did you mean adam? "
        f"(known: {', '.join(registry.OPTIMISERS)}, or package.module:attribute)",
        "command line 'data.lr=3': unknown key 'data.lr' - did you mean optim.lr?",
        "command line 'train.epochs=ninety': train.epochs: should be a number (got 'ninety')",
        "command line 'train.precison=bf16': unknown key 'train.precison' - did you mean train.precision?",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.precision=bf61", "should be 'fp32', 'bf16' or 'fp16' (got 'bf61') - did you mean bf16?"),
        ("train.micro_batch=aut", "should be a whole number or 'auto' (got 'aut') - did you mean auto?"),
        ("train.seed=true", "should be a whole number (got true)"),
        ("train.seed='3'", "should be a whole number (got '3')"),
        ("train.seed=1.5", "should be a whole number (got 1.5)"),
        ("optim.lr=true", "should be a number (got true)"),
        ("optim.lr=null", "should be a number (got null)"),
        ("train.channels_last=off", "should be true or false (got 'off')"),
        ("train.channels_last=1", "should be true or false (got 1)"),
        ("data.train.label=3", "should be text (got 3)"),
        ("data.train.transforms=flip", "should be a list (got 'flip')"),
        ("optim.momentum=1.5", "should be less than 1 (got 1.5)"),
        ("optim.betas=[1,2,3]", "should have at most 2 items after validation, not 3 (got [1, 2, 3])"),
        ("train.log_every=sometimes", "'sometimes' is not a period: write steps (200), '1 epoch' or '30 min'"),
        ("train.log_every=0", "a period is greater than 0 (got 0)"),
        ("model=3", "should be a mapping of keys (got 3)"),
        ("data.eval=[a, b]", "should be a mapping of keys (got [a, b])"),
        ("track=null", "should be a mapping of keys (got null)"),
    ],
)
def test_a_wrong_value_is_told_with_what_it_should_be_and_what_was_given(override: str, problem: str) -> None:
    assert errors(SMALLEST, override) == [f"command line '{override}': {override.partition('=')[0]}: {problem}"]


def test_an_item_of_a_list_is_told_with_its_number_and_its_own_line() -> None:
    text = SMALLEST.replace(
        "{train: {shards: data/train}}", "\n  train:\n    shards: a\n    transforms:\n    - flip\n    - flop"
    )

    (problem,) = errors(text)

    assert problem.startswith("x.yaml:7: data.train.transforms[1]: unknown transform 'flop' - did you mean flip?")


def test_a_missing_key_is_told_with_its_meaning_also_where_its_whole_section_is_missing() -> None:
    assert errors("data: {eval: {dev: {label: txt}}}\n") == [
        "x.yaml: missing key 'model.name' (network: a name from `distdl zoo`, or package.module:attribute)",
        "x.yaml: missing key 'data.train.shards' (tars: folder, tar, address, list; or folder, manifest, dataset)",
        "x.yaml: missing key 'data.eval.dev.shards' (tars: folder, tar, address, list; or folder, manifest, dataset)",
        "x.yaml: missing key 'train.global_batch' (samples per optimiser step, over all workers)",
        "x.yaml: missing key 'optim.lr' (learning rate at the schedule's peak)",
    ]


def test_a_required_key_or_section_with_a_typo_is_one_mistake_not_two() -> None:
    text = SMALLEST.replace("model:", "modle:").replace("global_batch:", "global_bach:")

    assert errors(text) == [
        "x.yaml:1: unknown key 'modle' - did you mean model?",
        "x.yaml:3: unknown key 'train.global_bach' - did you mean train.global_batch?",
    ]


def test_a_mistake_that_spans_a_section_points_at_the_section() -> None:
    text = SMALLEST.replace(", epochs: 5", "")

    problem = "x.yaml:3: train: give the length of the run either in epochs or in steps (and the other as null)"
    assert errors(text) == [problem]
    assert errors(text, "train.seed=1") == [problem]


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("train.epoch", "train.epochs"),  # a word like it in the same section
        ("data.eval.shrads", "data.eval.shards"),
        ("data.eval.dev.shrads", "data.eval.dev.shards"),
        ("data.lr", "optim.lr"),  # the word in another section
        ("lr", "optim.lr"),
        ("wandb", "track.wandb"),
        ("data.shards", "data.train.shards or data.eval.shards"),
        ("optim.learning_rate", "optim.lr"),  # another framework's word
        ("batch_size", "train.global_batch"),
        ("optim.warmup_step", "schedule.warmup_steps"),  # a word like it in another section
        ("modle", "model"),
        ("optimizer", "optim"),
        ("model.classes", "model.args.classes"),  # the component's own argument
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(unknown: str, meant: str) -> None:
    assert " or ".join(schema_keys.suggestions(tuple(unknown.split(".")))) == meant


def test_an_unknown_key_like_no_other_is_answered_with_the_keys_there_are() -> None:
    (problem,) = errors(SMALLEST, "dist.quux=1")

    assert problem == (
        "command line 'dist.quux=1': unknown key 'dist.quux' "
        "('dist' has: backend, engine, reduction, leaves, hierarchical, bucket_mib, stall_s, bind)"
    )


def test_every_suggestion_for_another_frameworks_word_is_a_key() -> None:
    for meant in schema_keys.NAMES_ELSEWHERE.values():
        section, name = meant.split(".")
        assert name in schema_keys.fields_at((section,))


# --- mistakes: overrides ---


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("optim.lr", "an override is key=value, such as optim.lr=0.1 (to unset a key: key=null)"),
        ("optim.lr=", "an override is key=value, such as optim.lr=0.1 (to unset a key: key=null)"),
        ("=3", "'' is not a key: keys are written with single dots, such as data.train.shards"),
        ("optim..lr=3", "'optim..lr' is not a key: keys are written with single dots, such as data.train.shards"),
        ("optim.lr=[1", "not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)"),
        ("optim.lr=# 3", "empty: nothing but blank lines and comments"),
        ("base=y.yaml", "base belongs at the top of a file"),
        ("data.train.shards.x=3", "'data.train.shards' is not a mapping of keys (x.yaml:2)"),
        ("model.args={a: 1, a: 2}", "duplicate key 'a'"),
    ],
)
def test_an_override_that_can_not_be_applied_says_why(override: str, problem: str) -> None:
    assert errors(SMALLEST, override) == [f"command line '{override}': {problem}"]


def test_an_override_that_is_not_text_is_told_in_characters_that_can_be_printed() -> None:
    assert errors(SMALLEST, "data.train.shards=\udcff") == [
        r"command line 'data.train.shards=\udcff': not valid YAML: a character that can't be printed"
    ]


@pytest.mark.parametrize(("value", "kind"), [("3", "not a mapping of keys"), ("[1]", "a list; give the whole of it")])
def test_an_override_inside_something_that_is_not_a_mapping_is_a_mistake_of_its_own(value: str, kind: str) -> None:
    text = SMALLEST.replace("{train: {shards: data/train}}", value)

    assert errors(text, "data.train.shards=x") == [
        f"x.yaml:2: data: should be a mapping of keys (got {value})",
        f"command line 'data.train.shards=x': 'data' is {kind} (x.yaml:2)",
    ]


def test_an_override_may_go_into_a_section_that_is_empty_or_null() -> None:
    text = SMALLEST + "track:\ncheckpoint: null\n"

    config = loaded(text, "track.tensorboard=true", "checkpoint.keep=1").config

    assert (config.track.tensorboard, config.checkpoint.keep.last) == (True, 1)


# --- mistakes: the file itself ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.yaml:1: empty: nothing but blank lines and comments"),
        ("# only a comment\n", "x.yaml:1: empty: nothing but blank lines and comments"),
        ("- a\n- b\n", "x.yaml:1: a config is a mapping of sections: model, data, train, optim, ..."),
        ("lenet5\n", "x.yaml:1: a config is a mapping of sections: model, data, train, optim, ..."),
        ("model:\n\tname: lenet5\n", "x.yaml:2: not valid YAML: a tab; indent with spaces"),
        ("model: {name: a\noptim: 3\n", "x.yaml:2: not valid YAML: expected ',' or '}', but got ':' (while"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: not valid YAML: but found another document (expected a single document"),
        ("model: *gone\n", "x.yaml:1: not valid YAML: found undefined alias 'gone'"),
        ("model: a\x00b\n", "x.yaml:1: not valid YAML: a character that can't be printed"),
        ("model: " + "[" * 3000, "x.yaml:1: nested too deeply"),
        (SMALLEST + "dist: " + "[" * 100 + "]" * 100, "x.yaml:5: dist[0][0]: nested too deeply"),
        (SMALLEST + "dist: &a [*a]\n", "x.yaml:5: dist[0]: an alias that contains itself"),
        (SMALLEST + "? [a]\n: 1\n", "x.yaml:5: a key is a word, not a list or a mapping"),
        (SMALLEST + "dist: {<<: 3}\n", "x.yaml:5: dist: << takes a mapping or a list of mappings"),
        (
            SMALLEST + "dist: {bucket_mib: !!python/name:os.system x}\n",
            "x.yaml:5: dist.bucket_mib: the tag !!python/name:os.system is not supported",
        ),
        (SMALLEST + "dist: {bucket_mib: !!int abc}\n", "x.yaml:5: dist.bucket_mib: 'abc' can't be read as int"),
        (SMALLEST + "dist: {bucket_mib: 1e999}\n", "x.yaml:5: dist.bucket_mib: '1e999' can't be read as float"),
        (SMALLEST + "optim: {lr: 1}\n", "x.yaml:5: duplicate key 'optim' (it is in line 4 already)"),
    ],
)
def test_a_file_that_is_not_a_config_is_told_with_the_line(text: str, problem: str) -> None:
    assert errors(text)[0].startswith(problem)


def test_a_file_that_is_not_utf8_is_told_with_the_line() -> None:
    Path("x.yaml").write_bytes(SMALLEST.encode() + "track: {wandb: {project: für}}\n".encode("latin-1"))

    with pytest.raises(UserError, match=r"^x\.yaml:5: not UTF-8 text$"):
        load("x.yaml")


def test_a_byte_order_mark_is_no_mistake() -> None:
    Path("x.yaml").write_text(SMALLEST, encoding="utf-8-sig")

    assert load("x.yaml").config.model.name == "lenet5"


def test_a_missing_file_and_a_folder_are_told_as_such() -> None:
    write(SMALLEST, "configs/mnist.yaml")

    with pytest.raises(UserError, match=r"^configs/minst.yaml: there is no such file - did you mean mnist.yaml\?$"):
        load("configs/minst.yaml")
    with pytest.raises(UserError, match=r"^configs: this is a folder, not a YAML file$"):
        load(Path("configs"))


def test_overrides_are_still_checked_when_the_file_can_not_be_read() -> None:
    assert errors("", "optim.lr") == [
        "x.yaml:1: empty: nothing but blank lines and comments",
        "command line 'optim.lr': an override is key=value, such as optim.lr=0.1 (to unset a key: key=null)",
    ]


# --- the package ---


def test_importing_the_config_package_does_not_import_torch() -> None:
    code = "import sys, distdl.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
