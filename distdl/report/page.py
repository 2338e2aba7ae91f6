"""The page of one run or several, which needs nothing else, neither a network nor a server.

    records -> sections of HTML, and the curves as JSON that report.js draws -> the page as text

Static parts are HTML from here on; only what a reader can turn is drawn by the script. The page's own policy forbids it
to fetch anything, and any script but report.js to run.
"""

import base64
import hashlib
import statistics
import time
from collections.abc import Callable
from importlib import resources

from distdl import __version__
from distdl.report import curves, head, settings, timing
from distdl.report.markup import Html, details, element, join, json_block, table
from distdl.report.record import Record, number
from distdl.track.console import duration, rate_text


def render(records: list[Record], step: str | None, n_samples: int, warn: Callable[[str], None]) -> str:
    """The whole page; the arguments are those of write_report."""
    title = records[0].label if len(records) == 1 else f"{len(records)} runs: {', '.join(r.label for r in records)}"
    sections = {}
    if any(record.failures for record in records):
        sections["Failures"] = _of_each(records, settings.render_failures)
    sections |= {
        "Curves": _curves(records),
        "Time": _time(records),
        **_pictures(records, step, n_samples, warn),
        "Config": settings.render_configs(records),
        "Environment": _of_each(records, settings.render_environment),
    }
    links = (element("a", name, href=f"#{_anchor(name)}") for name in sections)
    badge = head.state_badge(records[0].state) if len(records) == 1 else None
    script = _resource("report.js")
    body = [
        element("header", element("h1", title, badge), element("nav", *links, aria_label="sections")),
        element(
            "main",
            head.render(records),
            *(element("section", element("h2", name), content, id=_anchor(name)) for name, content in sections.items()),
        ),
        element("footer", f"Made by distdl {__version__} on {time.strftime('%Y-%m-%d %H:%M')}."),
        json_block("data", _curve_data(records)),
        element("script", Html(script)),
    ]
    header = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("title", f"{title} - distdl"),
        element("style", Html(_resource("report.css"))),
    ]
    return "<!doctype html>\n" + element("html", element("head", *header), element("body", *body), lang="en") + "\n"


# --- sections ---


def _curves(records: list[Record]) -> Html:
    if not any(record.rows for record in records):
        return element("p", "metrics.jsonl has no rows yet.", class_="soft")
    are_thinned = any(len(record.of_kind("train")) > curves.MOST_POINTS for record in records)
    # Of a long run the raw curve is a band, in which the course of the mean is hard to see.
    parts = [_toolbar(smoothing=0.9 if are_thinned else 0), element("div", class_="panels", data_part="curves")]
    if any(record.of_kind("system") for record in records):
        parts.append(details("System", element("div", class_="panels", data_part="system")))
    noted = [
        [f"{row['step']:,}", record.label, str(row.get("event", "")), str(row.get("message") or "")]
        for record in records
        for row in record.of_kind("event")[: curves.MOST_EVENTS]
    ]
    if noted:
        parts.append(details(f"Events: {len(noted)}", table(["step", "run", "event", "message"], noted)))
    if are_thinned:
        thinned = (
            f"Long curves are thinned to {curves.MOST_POINTS:,} points: the smallest and the largest value of each of "
            f"{curves.MOST_POINTS // 2:,} stretches."
        )
        parts.append(element("p", thinned, class_="soft"))
    return join(parts)


def _toolbar(smoothing: float) -> Html:
    axes = []
    for axis in ("step", "epoch", "time"):
        axes.append(element("input", type="radio", name="axis", id=axis, value=axis, checked=axis == "step"))
        axes.append(element("label", axis, for_=axis))
    slider = element("input", type="range", id="smoothing", min=0, max=0.99, step=0.01, value=smoothing)
    shown = element("output", id="smoothing-value", for_="smoothing")
    log = element("label", element("input", type="checkbox", id="log"), "log scale", class_="control")
    return join(
        [
            element("noscript", element("p", "The curves are drawn by a script; the rest of this page needs none.")),
            element(
                "div",
                element("fieldset", element("legend", "x axis"), *axes),
                element("label", "smoothing", slider, shown, class_="control"),
                log,
                element("button", "whole range", id="whole", type="button", disabled=True),
                element("div", id="chips"),
                class_="toolbar",
            ),
            element(
                "p",
                "Drag across a curve to zoom, double-click for the whole; smoothing is for training.",
                class_="soft",
            ),
        ]
    )


def _time(records: list[Record]) -> Html:
    parts = [_of_each(records, _spent)]
    if any(record.of_kind("train") for record in records):
        parts += [element("h3", "Seconds per step, over the run"), element("div", class_="panels", data_part="time")]
    return join(parts)


def _spent(record: Record) -> Html:
    seconds = timing.total_seconds(record)
    whole = sum(seconds.values())
    if not whole:
        return element("p", "No step was timed.", class_="soft")
    train = record.of_kind("train")
    facts = []
    if (rate := timing.samples_per_second(record)) is not None:
        facts.append(f"{rate_text(rate)} in training")
    if mfu := [value for row in train if (value := number(row.get("mfu"))) is not None]:
        facts.append(f"model FLOPs utilisation {100 * statistics.median(mfu):.1f} %")
    if memory := [value for row in train if (value := number(row.get("peak_memory_bytes"))) is not None]:
        facts.append(f"peak memory of rank 0 {max(memory) / 2**30:.2f} GiB")
    shares = {part: (f"--part-{timing.ALL_PARTS.index(part)}", 100 * each / whole) for part, each in seconds.items()}
    bar = [element("i", style=f"width:{share:.3f}%;background:var({colour})") for colour, share in shares.values()]
    legend = [
        element(
            "li",
            element("i", style=f"background:var({colour})"),
            part,
            element("b", f"{share:.1f} %"),
            element("small", f"{seconds[part]:.3g} s" if seconds[part] < 60 else duration(seconds[part])),
        )
        for part, (colour, share) in shares.items()
    ]
    text = element("p", " · ".join(facts))
    return element(
        "div", text, element("div", *bar, class_="bar"), element("ul", *legend, class_="legend"), class_="card"
    )


def _pictures(records: list[Record], step: str | None, n_samples: int, warn: Callable[[str], None]) -> dict[str, Html]:
    if not n_samples:
        return {"Predictions": element("p", "None were asked for.", class_="soft")}
    from distdl.report import pictures  # imports torch

    predicted: dict[str, Html] = {}
    trained_on: dict[Html, list[str]] = {}  # runs that see the same images share them
    for record in records:
        predicted[record.label], batches = pictures.render(record, step, n_samples, warn)
        trained_on.setdefault(batches, []).append(record.label)
    text = "The first training batch after the transforms, before normalisation: the same samples in two epochs."
    images = _by_name({", ".join(labels): batches for batches, labels in trained_on.items()})
    return {
        "Predictions": _by_name(predicted),
        "Training images": join([element("p", text, class_="soft"), images]),
    }


def _of_each(records: list[Record], render_one: Callable[[Record], Html]) -> Html:
    return _by_name({record.label: render_one(record) for record in records})


def _by_name(parts: dict[str, Html]) -> Html:
    """A section's content of one run as it is; of several each under its name."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return join(part for label, content in parts.items() for part in (element("h3", label), content))


# --- the script and its data ---


def _curve_data(records: list[Record]) -> dict[str, object]:
    groups = [curves.groups(record) for record in records]
    over_time = [timing.over_the_run(record) for record in records]
    stacks = [
        {"metric": "", "title": record.label if len(records) > 1 else "a step", "unit": "seconds", "stack": place}
        for place, (record, spent) in enumerate(zip(records, over_time))
        if spent
    ]
    return {
        "runs": [
            {"name": record.label, "groups": of_run, "time": spent, "events": curves.events(record)}
            for record, of_run, spent in zip(records, groups, over_time)
        ],
        "panels": [*curves.panels(groups), *stacks],
        "parts": timing.ALL_PARTS,
    }


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
