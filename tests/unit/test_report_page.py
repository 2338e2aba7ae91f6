"""The page of a report: escaped, self-contained, complete whatever a run lacks, and legible."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources

import pytest
import tiny

from distdl import config as configs
from distdl.errors import UserError
from distdl.report import markup, write_report
from distdl.run.folder import create_or_reopen, write_json

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


class Page(HTMLParser):
    """What a browser would find: the tags with their attributes, the text outside of scripts, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", {}
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[self.tags[-1][1].get("id", "code")] = data
        elif self._inside != "style":
            self.text += data


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the report of several runs is written

    def make(name="run", rows=(), overrides=None, **files):
        folder = create_or_reopen(tmp_path / name, resume=False)
        folder.config.write_text(configs.dump(tiny.config(tmp_path / "corpus", overrides)))
        folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for file, value in files.items():
            write_json(folder.path / f"{file}.json", value)
        return str(folder.path)

    return make


def report(*runs) -> Page:
    return Page(write_report(runs, n_samples=0).read_text())


def train_row(step, **values):
    return {"kind": "train", "step": step, "epoch": step / 10, "samples": 8 * step, "time_s": step / 2, **values}


# --- escaping ---


def test_nothing_that_comes_from_a_run_becomes_markup(make_run, tmp_path):
    rows = [
        train_row(1, loss=1.0, **{HOSTILE: 2.0}),
        {**train_row(1), "kind": "event", "event": HOSTILE, "message": HOSTILE},
        {**train_row(1), "kind": "eval", "set": HOSTILE, "top1": 0.5},
    ]
    run = make_run(
        HOSTILE.replace("/", "|"),
        rows,
        {"data.train": {"shards": HOSTILE}},
        environment={
            "command": HOSTILE,
            "git": HOSTILE,
            "packages": {HOSTILE: HOSTILE},
            "workers": [{"host": HOSTILE}],
        },
        final={"best": {"metric": HOSTILE, "value": 1.0, "step": HOSTILE}},
    )
    write_json(tmp_path / HOSTILE.replace("/", "|") / "failures" / "rank-0.json", {"message": HOSTILE, "rank": HOSTILE})
    harmless = make_run("harmless", [train_row(1, loss=1.0)])
    (tmp_path / HOSTILE.replace("/", "|") / "git.diff").write_text(HOSTILE)

    page = report(run, harmless)

    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 8
    assert json.loads(page.scripts["data"])["runs"][0]["events"][0]["message"] == HOSTILE


@pytest.mark.parametrize("text", ["</script>", "<!-- <script>", "\u2028", "]]>", '"'])
def test_data_can_not_end_its_script_element(text):
    block = markup.json_block("data", {"text": text})

    assert block.count("<") == 2
    assert json.loads(re.fullmatch("<[^>]*>(.*)</script>", block)[1]) == {"text": text}


def test_only_what_element_made_is_markup():
    inside = markup.element("b", "<i>")

    assert markup.element("p", inside, "<i>", title='"<') == '<p title="&quot;&lt;"><b>&lt;i&gt;</b>&lt;i&gt;</p>'


# --- alone ---


def test_the_page_names_nothing_that_would_be_fetched(make_run):
    page = report(make_run(rows=[train_row(1, loss=1.0)]))

    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    style = resources.files("distdl.report").joinpath("report.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_the_pages_policy_lets_its_own_script_run_and_no_other(make_run):
    page = report(make_run())

    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(page.scripts["code"].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_a_report_without_predictions_does_not_import_torch(make_run, tmp_path):
    run = make_run(rows=[train_row(1, loss=1.0)])
    source = "import sys; from distdl.report import write_report; write_report(sys.argv[1:], n_samples=0)"

    subprocess.run([sys.executable, "-c", f"{source}; assert 'torch' not in sys.modules", run], check=True)

    assert (tmp_path / "run" / "report.html").exists()


# --- what it says ---


def test_one_report_lies_in_the_runs_folder_and_one_of_several_here(make_run, tmp_path):
    a, b = make_run("a"), make_run("b")

    assert write_report([a], n_samples=0) == tmp_path / "a" / "report.html"
    assert write_report([a, b], n_samples=0).resolve() == tmp_path / "report.html"
    assert write_report([a, b, a], tmp_path / "c.html", n_samples=0).read_text().count("<h3>") == 4  # two runs, twice


def test_a_run_that_is_not_there_and_a_file_that_can_not_be_written(make_run, tmp_path):
    with pytest.raises(UserError, match="no run 'nowhere'"):
        write_report(["nowhere"], n_samples=0)
    with pytest.raises(UserError, match="can't write the report"):
        write_report([make_run()], tmp_path / "no" / "such" / "folder.html", n_samples=0)


def test_a_run_of_which_hardly_anything_is_left_still_has_a_report(make_run, tmp_path):
    run = make_run(final=["not", "a", "mapping"], environment={"workers": 3, "packages": None, "earlier": "x"})
    (tmp_path / "run" / "config.yaml").write_text("model: {")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(
        b'{"kind": "eval", "step": 1}\n{"kind": "train", "loss": nul\n[1]\n\xff\n'
    )
    (tmp_path / "run" / "failures" / "rank-0.json").write_text("[]")

    page = report(run)

    assert "metrics.jsonl has no rows yet" in page.text
    assert "The config can't be read" in page.text


def test_one_run_shows_what_differs_from_the_defaults(make_run):
    page = report(make_run(overrides={"optim.momentum": 0.5}))

    assert "momentum: 0.5" in page.text and "weight_decay" not in page.text


def test_several_runs_show_the_keys_that_differ(make_run):
    a = make_run("a", overrides={"optim.lr": 0.125, "model.args": {"classes": 7}})
    b = make_run("b", overrides={"optim.lr": 0.25})

    html = write_report([a, b], n_samples=0).read_text()

    cells = '<tr><th scope="row">{}</th><td><code>{}</code></td><td><code>{}</code></td></tr>'
    assert cells.format("optim.lr", 0.125, 0.25) in html
    assert cells.format("model.args.classes", 7, "–") in html
    assert 'scope="row">optim.momentum' not in html


def test_configs_of_another_version_are_compared_as_they_are_written(make_run, tmp_path):
    runs = [make_run(name, overrides={"optim.lr": lr}) for name, lr in (("a", 0.125), ("b", 0.25))]
    config = tmp_path / "b" / "config.yaml"
    config.write_text(config.read_text() + "gone: {since: 2}\n")

    page = report(*runs)

    assert "unknown key 'gone'" in page.text
    assert "optim.lr0.1250.25" in page.text and "gone.since–2" in page.text


def test_failures_come_first_and_say_who_and_why(make_run, tmp_path):
    run = make_run(rows=[train_row(1, loss=1.0)])
    for rank, time_s in ((0, 2.0), (1, 1.0)):
        record = {"rank": rank, "host": "node-a", "step": 412, "time": time_s, "message": "out of memory\nhere"}
        write_json(tmp_path / "run" / "failures" / f"rank-{rank}.json", {**record, "traceback": "Traceback ..."})

    text = report(run).text

    first, second = (f"rank {rank} on node-a, step 412: out of memoryTraceback ..." for rank in (1, 0))
    assert text.index("Failures") < text.index(first) < text.index(second) < text.index("x axis")


def test_runs_of_the_same_name_are_told_apart_by_their_paths(make_run, tmp_path):
    for group in ("x", "y"):
        (tmp_path / group).mkdir()

    page = report(make_run("x/run"), make_run("y/run"))

    assert "2 runs: x/run, y/run" in page.text


# --- colours ---


def themes() -> dict[str, dict[str, str]]:
    style = resources.files("distdl.report").joinpath("report.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return {
        name: dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for name, block in (("light", light), ("dark", dark))
    }


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio" and "relative luminance"."""

    def luminance(colour: str) -> float:
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", themes())
def test_text_and_curves_stand_out_from_what_is_behind_them(theme):
    colours = themes()[theme]

    for text in ("ink", "soft", "accent", "good", "fair", "bad"):
        for behind in ("page", "card"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for name, colour in colours.items():
        if name.startswith(("series-", "part-")):
            assert contrast(colour, colours["card"]) >= 3, name
