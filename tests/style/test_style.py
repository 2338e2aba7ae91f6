"""What keeps the code a pleasure to read, as far as a machine can tell: layers, sizes, configs, the README's tree."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "distdl"

# Low to high: a module imports from its own layer and from those before it.
LAYERS = [
    "errors",
    "catalogue",
    "registry",
    "plugins",
    "net",
    "config",
    "run",
    "watch",
    "launch",
    "comm",
    "models",
    "track",
    "data",
    "speech",
    "tasks",
    "checkpoint",
    "trainer",
    "inference",
    "bench",
    "doctor",
    "report",
    "api",
    "cli",
    "__main__",
]
FREE_OF_TORCH = ("errors", "registry", "plugins", "net", "config", "run", "watch", "launch", "cli", "__main__")
MOST_LINES = {"distdl": 500, "benchmarks": 500, "tests": 600}


def modules(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer(path: Path) -> str:
    """distdl/config/schema.py -> config, distdl/cli.py -> cli."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> list[str]:
    """What a module imports, also inside of functions: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: imports are written in full"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def within(imported: str, module: str) -> bool:
    return imported == module or imported.startswith(f"{module}.")


# --- imports ---


@pytest.mark.parametrize("path", modules(), ids=name)
def test_imports_only_go_down(path):
    if path == PACKAGE / "__init__.py":
        return  # names what is offered, and imports it when it is asked for: see the next test
    allowed = LAYERS[: LAYERS.index(layer(path)) + 1]
    for imported in imports(path):
        if within(imported, "distdl") and imported not in ("distdl", "distdl.__version__"):
            assert imported.split(".")[1] in allowed, f"{name(path)} imports {imported}, which is higher up"


def test_to_import_the_package_imports_nothing_else():
    source = "import sys, distdl; sys.exit(any(m.startswith(('distdl.', 'torch')) for m in sys.modules))"

    assert subprocess.run([sys.executable, "-c", source]).returncode == 0


@pytest.mark.parametrize("path", [path for path in modules() if layer(path) != "comm"], ids=name)
def test_only_comm_calls_torch_distributed(path):
    forbidden = [
        each for each in imports(path) if within(each, "torch.distributed") or within(each, "torch.nn.parallel")
    ]
    if path == PACKAGE / "trainer" / "engines.py":
        forbidden.remove("torch.nn.parallel.DistributedDataParallel")  # the one exception: the engine made of it

    assert not forbidden
    assert "torch.distributed" not in path.read_text()


@pytest.mark.parametrize("path", [path for path in modules() if layer(path) in FREE_OF_TORCH], ids=name)
def test_what_starts_workers_and_reads_configs_does_not_import_torch(path):
    assert not [each for each in imports(path) if within(each, "torch")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["no-such-command"],
        ["config", "show", "configs/mnist/lenet5.yaml"],
        ["config", "show", "configs/mnist/lenet5.yaml", "--diff", "train.precison=bf16"],
        ["train", "configs/mnist/lenet5.yaml", "optim.name=adamm", "model.name=lenet"],
        ["train", "configs/mnist/lenet.yaml", "--nproc", "2"],
        ["runs"],
        ["bench", "comm", "--ops", "all_redcue", "--nproc", "2"],
        ["doctor", "--hosts", "a,,b"],
    ],
    ids=" ".join,
)
def test_help_mistakes_and_looking_around_are_answered_without_torch(arguments):
    source = """
import sys
from distdl.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
    ended = subprocess.run([sys.executable, "-c", source, *arguments], cwd=ROOT, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout or ended.stderr


# --- files ---


@pytest.mark.parametrize("folder", MOST_LINES)
def test_every_module_says_what_it_is_and_is_short_enough_to_be_read(folder):
    for path in modules(ROOT / folder):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{name(path)} has no docstring"
        assert text.count("\n") <= MOST_LINES[folder], f"{name(path)} is too long: one idea a file"


# --- the README ---


def paths_in_tree(text: str) -> list[str]:
    """Paths named by a tree like `distdl/`, below it `  comm/   what it is`: two more spaces are one level deeper."""
    paths: list[str] = []
    above: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [line.split()[0]]
        paths.append("".join(above))
    return paths


@pytest.fixture
def tree() -> list[str]:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")
    block = re.search(r"^```tree\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    assert block, "README.md has a block ```tree that names what is where"
    return paths_in_tree(block[1])


def test_a_tree_is_read_level_by_level():
    tree = "a/\n  b.py     text\n  c/       text\n    d.py   text\ne/\n"

    assert paths_in_tree(tree) == ["a/", "a/b.py", "a/c/", "a/c/d.py", "e/"]


def test_what_the_readmes_tree_names_is_there(tree):
    assert [path for path in tree if not (ROOT / path).exists()] == []
    assert [path for path in tree if (ROOT / path).is_dir() != path.endswith("/")] == []


def test_the_readmes_tree_names_every_folder(tree):
    packages = {f"distdl/{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    at_top = {f"{path.partition('/')[0]}/" for path in tracked.stdout.splitlines() if "/" in path}

    assert packages | {folder for folder in at_top if not folder.startswith(".")} <= set(tree)
