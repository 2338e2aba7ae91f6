"""Files of the user's own code, which give their functions and classes names that a config may write.

    my.py:  @distdl.register_model                  x.yaml:  plugins: [my.py]
            def my_net(*, classes): ...                      model: {name: my_net, args: {classes: 10}}

The names are read off the text of the file (`scan`), so that the command line knows them without running it. The
workers execute it (`load`): not the file itself but the copy that the run keeps, as rank 0 sent it to all of them. For
the copy to run alone, a plugin is one file: it may import what is installed, but not its neighbours.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from distdl import registry
from distdl.errors import UserError, did_you_mean

Source = tuple[str, str]  # path and text of a plugin; a list of the two once it was sent as JSON

loaded: dict[str, str] = {}  # the plugins that this process has executed, which its worker processes will as well
_modules: dict[str, registry.Registered] = {}  # what each module that was executed has registered


# --- the names in a text ---


def scan(text: str) -> tuple[dict[tuple[str, str], int], list[tuple[int, str]]]:
    """The (kind, name) that a plugin registers, each with its line; and what is wrong in it, with the lines."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return {}, [(error.lineno or 1, f"not valid Python: {error.msg}")]
    except ValueError as error:
        return {}, [(1, f"not valid Python: {error}")]
    found: dict[tuple[str, str], int] = {}
    problems: list[tuple[int, str]] = []
    for line, word, name in sorted(_registrations(tree), key=lambda each: each[0]):
        kind, taken = registry.KINDS[word]
        if name is None:
            problem = f"{word}: write the name as text here: it is looked for before this file is run"
        elif ":" in name or not name:
            problem = f"'{name}' can't be the name of a {kind}"
        elif name in taken:
            problem = f"the {kind} '{name}' is built in: choose another name"
        elif (kind, name) in found:
            problem = f"the {kind} '{name}' is in line {found[kind, name]} already"
        else:
            found[kind, name] = line
            continue
        problems.append((line, problem))
    return found, problems + list(_misspelt(tree))


def _misspelt(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Decorators of distdl that there are none of."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or ast.unparse(node.value) != "distdl":
            continue
        if node.attr.startswith("regist") and node.attr not in registry.KINDS:
            yield node.lineno, f"distdl has no '{node.attr}'{did_you_mean(node.attr, registry.KINDS)}"


def _registrations(tree: ast.Module) -> Iterator[tuple[int, str, str | None]]:
    """(line, decorator, name) of each use of a decorator; the name is None where it is computed."""
    own_names: dict[ast.expr, str] = {}  # decorators and the name of what they stand on
    words = {word: word for word in registry.KINDS}  # what the decorators are called in this file
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own_names |= dict.fromkeys(node.decorator_list, node.name)
        elif isinstance(node, ast.ImportFrom):
            words |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in registry.KINDS}

    def word_of(expression: ast.expr) -> str | None:
        if isinstance(expression, ast.Attribute):  # distdl.register_model
            return expression.attr if expression.attr in registry.KINDS else None
        return words.get(expression.id) if isinstance(expression, ast.Name) else None

    for decorator, own_name in own_names.items():
        if word := word_of(decorator):
            yield decorator.lineno, word, own_name
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (word := word_of(node.func)):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if not given:
                yield node.lineno, word, own_names.get(node)
            elif isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
                yield node.lineno, word, given[0].value
            else:
                yield node.lineno, word, None


# --- from a file to a module ---


def read(paths: Sequence[str]) -> list[Source]:
    try:
        return [(path, Path(path).read_text(encoding="utf-8-sig")) for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"a plugin can't be read: {error}", where="plugins") from error


def copy_name(path: str, text: str) -> str:
    """my.py -> my-1a2b3c4d.py, after the SHA-256 of its text; a copy keeps its name as long as it is unchanged."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{Path(path).stem.removesuffix(f'-{digest}')}-{digest}.py"


def load(sources: Sequence[Source]) -> registry.Registered:
    """Executes plugins, each text once in a process, and returns what they register: see registry.using.

    Raises UserError for a module that is not there; any other error in a plugin is its own, with its traceback.
    """
    registered: registry.Registered = {}
    for path, text in sources:
        loaded[path] = text
        name = "distdl_plugin_" + re.sub(r"\W", "_", copy_name(path, text).removesuffix(".py"))
        if name not in _modules:
            _modules[name] = _execute(name, path, text)
        registered |= _modules[name]
    return registered


def _execute(name: str, path: str, text: str) -> registry.Registered:
    registered: registry.Registered = {}
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # where dataclasses, pickle and inspect look for a class's module
    try:
        with registry.using(registered):
            exec(compile(text, path, "exec", dont_inherit=True), module.__dict__)
    except ModuleNotFoundError as error:
        del sys.modules[name]
        raise UserError(
            f"no module named '{error.name}'",
            where=f"plugin {path}",
            fix="A plugin is one file, which can import what is installed in this environment, but not its neighbours.",
        ) from error
    except BaseException:
        del sys.modules[name]
        raise
    return registered
