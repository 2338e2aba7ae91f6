"""Files of the user's own code: their names are known without running them, and each runs once under its own name."""

import sys
from pathlib import Path

import pytest

import distdl
from distdl import plugins, registry
from distdl.config import load, show
from distdl.errors import UserError

NET = """\
import distdl

@distdl.register_model
def my_net(*, classes):
    return classes
"""
CONFIG = """\
model: {name: my_net, args: {classes: 10}}
data: {train: {shards: data/train}}
train: {global_batch: 8, epochs: 1}
optim: {lr: 0.1}
plugins: [my.py]
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="my.py"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def errors(config, *overrides):
    with pytest.raises(UserError) as caught:
        load(write(config, "x.yaml"), overrides)
    return str(caught.value).splitlines()


# --- the names in a text ---


@pytest.mark.parametrize(
    "text",
    [
        "import distdl\n\n@distdl.register_model\ndef net(): ...",
        "import distdl as dd\n\n@dd.register_model\nclass net: ...",
        "import distdl\n\n@distdl.register_model()\ndef net(): ...",
        "import distdl\n\n@distdl.register_model('net')\ndef other(): ...",
        "import distdl\n\n@distdl.register_model(name='net')\ndef other(): ...",
        "from distdl import register_model\n\n@register_model\ndef net(): ...",
        "from distdl import register_model as own\n\n@own\ndef net(): ...",
        "import distdl\n\ndistdl.register_model('net')(len)",
        "import distdl\nif True:\n  @distdl.register_model\n  def net(): ...",
    ],
)
def test_a_name_is_found_however_it_is_registered_and_is_the_one_that_running_it_registers(text):
    found, problems = plugins.scan(text)

    assert (list(found), problems) == ([("model", "net")], [])
    assert list(plugins.load([("my.py", text)])) == [("model", "net")]


def test_each_kind_has_its_decorator():
    text = "import distdl\n" + "".join(f"@distdl.{word}\ndef own(): ...\n" for word in registry.KINDS)

    found, problems = plugins.scan(text)

    assert {kind for kind, _ in found} == {"model", "task", "dataset", "stage", "transform", "optimiser", "schedule"}
    assert list(found.values()) == [2, 4, 6, 8, 10, 12, 14] and not problems
    assert all(hasattr(distdl, word) for word in registry.KINDS)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("def f(:\n", 1, "not valid Python: invalid syntax"),
        ("x = 1\n\0", 1, "not valid Python: source code string cannot contain null bytes"),
        (
            "from distdl import register_model\nregister_model('a' + 'b')(len)",
            2,
            "register_model: write the name as text",
        ),
        (
            "from distdl import register_model\n@register_model('lenet5')\ndef f(): ...",
            2,
            "the model 'lenet5' is built in",
        ),
        (
            "from distdl import register_model\n@register_model('a:b')\ndef f(): ...",
            2,
            "'a:b' can't be the name of a model",
        ),
        (f"{NET}\n@distdl.register_model\ndef my_net(): ...", 7, "the model 'my_net' is in line 3 already"),
    ],
)
def test_what_is_wrong_in_a_plugin_is_found_without_running_it(text, line, problem):
    _, ((found_line, found),) = plugins.scan(text)

    assert found_line == line and found.startswith(problem)


# --- a config with plugins ---


def test_a_name_of_a_plugin_goes_wherever_a_name_goes_and_the_plugin_is_not_run():
    words = {word: kind for word, (kind, _) in registry.KINDS.items()}
    write("raise SystemExit\nimport distdl\n" + "".join(f"@distdl.{w}\ndef my_{k}(): ...\n" for w, k in words.items()))
    text = CONFIG.replace("my_net", "my_model").replace("shards: data/train", "dataset: my_dataset")

    config = load(
        write(text, "x.yaml"),
        [
            "task.name=my_task",
            "data.train.transforms=[my_transform]",
            "optim.name=my_optimiser",
            "schedule.name=my_schedule",
        ],
    ).config

    assert (config.model.name, config.data.train.transforms) == ("my_model", [{"my_transform": {}}])


def test_a_misspelt_name_is_answered_with_the_plugins_names_and_the_name_of_another_kind_is_unknown():
    write(NET)

    assert errors(CONFIG.replace("my_net", "my_nett"), "task.name=my_net") == [
        "x.yaml:1: model.name: unknown model 'my_nett' - did you mean my_net? "
        f"(known: my_net, the {len(registry.MODELS)} that `distdl zoo` lists, or package.module:attribute)",
        "command line 'task.name=my_net': task.name: unknown task 'my_net' "
        f"(known: {', '.join(registry.TASKS)}, or package.module:attribute)",
    ]


def test_plugins_are_found_from_the_file_that_names_them_and_on_the_command_line_from_the_working_folder():
    write(NET, "configs/own/net.py")
    write(NET.replace("my_net", "your_net"), "here.py")
    write(CONFIG.replace("my.py", "own/net.py"), "configs/base.yaml")
    write("base: ../configs/base.yaml\n", "runs/x.yaml")

    assert load("runs/x.yaml").config.plugins == [str(Path("configs/own/net.py").absolute())]
    overridden = load("runs/x.yaml", ["plugins=[here.py]", "model.name=your_net"]).config
    assert overridden.plugins == [str(Path("here.py").absolute())]


def test_all_mistakes_in_plugins_are_told_with_their_lines_besides_those_of_the_config():
    write("import distdl\nx = (\n", "broken.py")
    write(NET, "twice.py")
    write(NET)
    Path("latin.py").write_bytes(b"#\n\xff")
    Path("folder.py").mkdir()
    text = CONFIG.replace("lr: 0.1", "lr: -1").replace(
        "[my.py]", "\n  - broken.py\n  - my.py\n  - mine.py\n  - latin.py\n  - folder.py\n  - twice.py\n  - 3"
    )

    assert errors(text) == [
        "x.yaml:4: optim.lr: should be greater than 0 (got -1)",
        "broken.py:2: not valid Python: '(' was never closed",
        "x.yaml:8: plugins: mine.py: there is no such file (the copies that a run keeps are in its plugins/)",
        "latin.py:2: not UTF-8 text",
        "x.yaml:10: plugins: folder.py: this is a folder, not a Python file",
        "twice.py:3: the model 'my_net' is in my.py:3 already",
        "x.yaml:12: plugins[6]: should be text (got 3)",
    ]


def test_a_name_that_may_be_one_of_a_plugin_that_can_not_be_read_is_no_mistake_of_its_own():
    assert errors(CONFIG) == [
        "x.yaml:5: plugins: my.py: there is no such file (the copies that a run keeps are in its plugins/)"
    ]


def test_a_config_with_plugins_is_shown_as_a_config_again():
    write(NET)
    loaded = load(write(CONFIG, "x.yaml"))
    write(show(loaded, diff=True), "elsewhere/y.yaml")

    assert load("elsewhere/y.yaml").config == loaded.config


# --- running them ---


def test_classes_of_a_plugin_have_a_module_in_which_they_are_found():
    text = "import dataclasses, distdl\n@distdl.register_task\n@dataclasses.dataclass\nclass Task:\n    x: 'int' = 3\n"

    task = plugins.load([("/somewhere/my.py", text)])["task", "Task"]

    assert sys.modules[task.__module__].Task is task
    assert task.__module__.startswith("distdl_plugin_my_") and task().x == 3


def test_a_text_is_run_once_in_a_process_wherever_it_lies():
    text = "import distdl\nclasses = []\n@distdl.register_model\ndef once(): ...\n"

    first = plugins.load([("my.py", text)])
    again = plugins.load([(f"runs/a/plugins/{plugins.copy_name('my.py', text)}", text)])

    assert first["model", "once"] is again["model", "once"]


def test_two_versions_of_a_plugin_live_side_by_side_each_while_it_is_used():
    old = plugins.load([("my.py", NET)])
    new = plugins.load([("my.py", NET.replace("return classes", "return -classes"))])

    for registered, result in ((old, 3), (new, -3), (old, 3)):
        with registry.using(registered):
            assert registry.resolve("my_net", registry.MODELS, "model")(classes=3) == result
    with pytest.raises(UserError, match="unknown model 'my_net'"):
        registry.resolve("my_net", registry.MODELS, "model")


def test_what_a_script_registers_itself_is_known_to_it_and_to_its_configs():
    with registry.using({}):

        @distdl.register_model("in_a_script")
        def net():
            return 7

        assert registry.resolve("in_a_script", registry.MODELS, "model") is net
        assert load(write(CONFIG.replace("my_net", "in_a_script").replace("plugins: [my.py]", ""), "x.yaml"))


def test_a_neighbour_that_a_plugin_imports_is_not_there():
    write("", "neighbour.py")

    with pytest.raises(UserError, match=r"plugin my\.py: no module named 'neighbour'") as caught:
        plugins.load([("my.py", "import neighbour")])

    assert "one file" in caught.value.fix


def test_a_bug_in_a_plugin_keeps_its_traceback_and_leaves_no_half_a_module():
    text = write("value = 1\nint('x')\n")

    with pytest.raises(ValueError) as caught:
        plugins.load([(text, Path(text).read_text())])

    assert caught.traceback[-1].lineno == 1 and str(caught.traceback[-1].path).endswith("my.py")
    assert not [
        name for name in sys.modules if name.endswith(plugins.copy_name("my.py", "value = 1\nint('x')\n")[3:-3])
    ]


def test_a_copy_is_named_by_its_text_and_a_copy_of_the_copy_alike():
    name = plugins.copy_name("a/my.py", NET)

    assert name.startswith("my-") and len(name) == len("my-01234567.py")
    assert plugins.copy_name(f"b/{name}", NET) == name
    assert plugins.copy_name(f"b/{name}", NET + "#") != name


def test_a_misspelt_decorator_is_named():
    _, problems = plugins.scan("import distdl\n\n@distdl.register_modl\ndef net(): ...\n")

    assert problems == [(3, "distdl has no 'register_modl' - did you mean register_model?")]
