"""What is checked before a commit is what `make lint` checks."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def commands_of(target: str) -> list[str]:
    """The commands of a Makefile's target, without the environment's folder."""
    _, _, recipe = (ROOT / "Makefile").read_text().partition(f"\n{target}:")
    lines = recipe.split("\n\n")[0].splitlines()[1:]
    return [line.strip().removeprefix("$(BIN)/") for line in lines]


def test_the_hooks_are_make_lint():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert [hook["entry"] for hook in repository["hooks"]] == commands_of("lint")


def test_the_hooks_use_the_environments_tools_and_look_at_the_whole_project():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
