"""What is checked before a commit is what `make check` checks."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def commands_of(target: str) -> list[str]:
    """The commands of a Makefile's target, without the environment's folder."""
    _, _, recipe = (ROOT / "Makefile").read_text().partition(f"\n{target}:")
    lines = recipe.split("\n\n")[0].splitlines()[1:]
    return [line.strip().removeprefix("$(BIN)/") for line in lines]


def test_the_hooks_are_make_check_without_the_tests():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    expected = [command for command in commands_of("check") if "PARALLEL" not in command]
    assert [hook["entry"] for hook in repository["hooks"]] == expected


def test_the_hooks_use_the_environments_tools_and_look_at_the_whole_project():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
