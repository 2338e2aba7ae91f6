"""Names in a config: ours or package.module:attribute, and what is said of the wrong ones."""

import sys

import pytest

from distdl import registry
from distdl.errors import UserError

TABLE = {"square": "operator:mul", "square_root": "math:sqrt"}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a user's own module `mine` with the given source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source):
        (tmp_path / "mine.py").write_text(source)

    yield make
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    "table",
    [registry.MODELS, registry.TASKS, registry.OPTIMISERS, registry.SCHEDULES, registry.TRANSFORMS, registry.ENGINES],
)
def test_every_name_in_the_tables_leads_to_code(table):
    for name in table:
        assert callable(registry.resolve(name, table, "thing"))


def test_a_known_name_and_one_of_ones_own_resolve():
    import math

    assert registry.resolve("square_root", TABLE, "function") is math.sqrt
    assert registry.resolve("math:cos", TABLE, "function") is math.cos


def test_an_unknown_name_is_answered_with_the_nearest_one_and_all_known_ones():
    with pytest.raises(ValueError, match=r"unknown function 'squar' - did you mean square\? \(known: square, square_r"):
        registry.check_name("squar", TABLE, "function")


@pytest.mark.parametrize("name", [":", "math:", ":cos", "math"])
def test_half_a_path_is_not_a_name(name):
    with pytest.raises(ValueError, match=r"package\.module:attribute"):
        registry.check_name(name, TABLE, "function")


def test_a_name_that_is_wrong_when_it_is_used_is_the_users_mistake():
    with pytest.raises(UserError, match="unknown function 'cube'"):
        registry.resolve("cube", TABLE, "function")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no module named 'nowhere'") as caught:
        registry.resolve("nowhere:cos", TABLE, "function")

    assert "PYTHONPATH" in caught.value.fix


def test_a_dependency_that_the_users_module_lacks_is_named_and_not_the_module(module):
    module("import nowhere")

    with pytest.raises(UserError, match="no module named 'nowhere'"):
        registry.resolve("mine:net", TABLE, "model")


def test_an_attribute_that_the_module_lacks_is_named():
    with pytest.raises(UserError, match="module 'math' has no attribute 'cosine'"):
        registry.resolve("math:cosine", TABLE, "function")


@pytest.mark.parametrize("bug", ["int('x')", "object().missing"])
def test_a_bug_in_the_users_module_keeps_its_traceback(module, bug):
    module(bug)

    with pytest.raises((ValueError, AttributeError)) as caught:
        registry.resolve("mine:net", TABLE, "model")

    assert not isinstance(caught.value, UserError)


def network(*, classes, width=8):
    return classes, width


def test_arguments_of_a_config_are_passed_on():
    assert registry.call_with_args(network, {"classes": 3, "width": 5}, "model 'net'") == (3, 5)
    assert registry.call_with_args(network, {"width": 5}, "model 'net'", classes=3) == (3, 5)


def test_a_misspelt_argument_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"model 'net' takes no argument 'widht' - did you mean width\?") as caught:
        registry.call_with_args(network, {"widht": 5}, "model 'net'")

    assert caught.value.fix == "It takes: classes, width."


def test_a_missing_argument_is_named():
    with pytest.raises(UserError, match="model 'net' needs the argument 'classes'"):
        registry.call_with_args(network, {}, "model 'net'")


def test_an_argument_that_the_caller_gives_can_not_be_given_by_the_config():
    with pytest.raises(UserError, match="takes no argument 'classes'"):
        registry.call_with_args(network, {"classes": 3}, "model 'net'", classes=3)


def test_a_function_that_takes_any_argument_gets_all_of_them():
    assert registry.call_with_args(lambda **args: args, {"a": 1}, "model 'net'", b=2) == {"a": 1, "b": 2}


def test_a_function_of_ones_own_that_lacks_what_it_is_called_with_is_the_users_mistake():
    with pytest.raises(UserError, match="task 'mine:Task' has to take the argument 'label_smoothing'"):
        registry.call_with_args(lambda: None, {}, "task 'mine:Task'", label_smoothing=0.1)
