"""The pages in docs/ and the README: links lead somewhere, and the commands are ones that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from distdl import cli
from distdl.config.document import document

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchor(heading: str) -> str:
    """As GitHub makes them: lower case, punctuation gone, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text()))
    return [link for link in found if not link.startswith(("https://", "http://"))]


def commands(page: Path) -> list[str]:
    blocks = [text for language, text in _FENCE.findall(page.read_text()) if language == "sh"]
    return [line for text in blocks for line in text.splitlines() if line.startswith("distdl ")]


def test_anchors_are_made_as_github_makes_them():
    assert anchor("Schedules: schedule.name") == "schedules-schedulename"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, section = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert not section or section in anchors(target), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_ones_that_the_command_line_takes(page):
    for line in commands(page):
        try:
            cli.parse(shlex.split(line, comments=True)[1:])
        except SystemExit:
            pytest.fail(f"{name(page)}: {line}")


def test_the_list_of_keys_is_up_to_date():
    assert (ROOT / "docs" / "config-keys.md").read_text() == document(), "run `make docs`"


def test_the_code_that_the_readme_shows_is_that_of_the_example():
    blocks = {text for _, text in _FENCE.findall((ROOT / "README.md").read_text())}
    example = ROOT / "examples" / "own_code"
    config = [line for line in (example / "own_code.yaml").read_text().splitlines(True) if not line.startswith("#")]

    assert (example / "my.py").read_text() in blocks
    assert "".join(config) in blocks
