"""Predictions and training batches as HTML: a confusion matrix, thumbnails, a scatter plot. Images are data URIs."""

import base64
import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import cv2
import numpy as np

from distdl.data.pictures.image import Pixels
from distdl.errors import UserError
from distdl.report import batches, predictions
from distdl.report.calibration import N_BINS, Calibration
from distdl.report.markup import Html, element, join
from distdl.report.predictions import Classified, Confused, Example, Regressed, Shown
from distdl.report.record import Record
from distdl.report.utterances import Transcribed, as_html, player
from distdl.trainer.trained import Trained

_LARGEST_SIDE = 128  # pixels of a thumbnail
_LARGEST_PNG = 48  # below this a PNG is about as small as a JPEG, and exact
_MOST_OF_BEST = 5
_DENSE_FROM = 21  # classes from which the cells of a matrix have no room for numbers


def render(record: Record, step: str | None, n_samples: int, warn: Callable[[str], None]) -> tuple[Html, Html]:
    """(predictions, training images); or instead a line that says why not, where the checkpoint or data are missing."""
    try:
        trained = predictions.load(str(record.folder.path), step, warn)
    except UserError as error:
        return _none(error), _none(error)
    return _or_why_not(lambda: _predictions(trained, n_samples)), _or_why_not(lambda: _batches(trained))


def _or_why_not(render_it: Callable[[], Html]) -> Html:
    try:
        return render_it()
    except UserError as error:
        return _none(error)


def _none(error: UserError) -> Html:
    return element("p", f"None: {error}", class_="soft")


def _predictions(trained: Trained, n_samples: int) -> Html:
    found = predictions.look(trained, n_samples)
    weights = "the averaged weights of step" if found.averaged_weights else "step"
    part = "all" if found.n_looked_at == found.n_in_set else f"{found.n_looked_at:,} evenly spaced of the"
    source = f"Made with {weights} {found.step} on {part} {found.n_in_set:,} samples of {_set_name(found.set_name)}."
    return join([element("p", source, class_="soft"), render_findings(found.what)])


def _batches(trained: Trained) -> Html:
    if trained.config.data.sound:
        return element("p", "None: they are sounds.", class_="soft")
    seen = batches.first_batch(trained)
    rows = [
        element(
            "div",
            *(
                element("figure", picture(each.images[epoch], f"sample {each.sample_id} in epoch {epoch}"))
                for each in seen
            ),
            class_="pictures card",
        )
        for epoch in (0, 1)
    ]
    return join(part for epoch, row in enumerate(rows) for part in (element("h4", f"Epoch {epoch}"), row))


def picture(image: Pixels, alt: str) -> Html:
    """An image of at most 128 pixels a side, in the page itself; few pixels are drawn as squares."""
    height, width = image.shape[:2]
    shrink = _LARGEST_SIDE / max(height, width)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1).astype(np.uint8)
    image = image[:, :, ::-1] if image.shape[2] == 3 else image[:, :, :1]  # OpenCV's order is BGR
    kind = "png" if max(height, width) <= _LARGEST_PNG else "jpeg"
    _, encoded = cv2.imencode(f".{kind}", np.ascontiguousarray(image))
    source = f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
    return element("img", src=source, alt=alt, class_="pixels" if max(height, width) <= _LARGEST_SIDE else None)


def _set_name(name: str) -> str:
    return "the evaluation set" if name == "eval" else f"the evaluation set {name}"


@singledispatch
def render_findings(what: Any) -> Html:
    raise TypeError(f"{type(what).__name__} can't be shown")


# --- classes ---


@render_findings.register
def _(what: Classified) -> Html:
    right = f"{100 * what.n_right / what.n_samples:.2f} % are right: {what.n_right:,} of {what.n_samples:,}."
    if len(what.classes) > _MOST_OF_BEST:
        right += f" Of {100 * what.n_in_best_five / what.n_samples:.2f} % the class is among the best five."
    parts = [element("p", right)]
    if what.matrix is not None:
        parts += [element("h4", "Confusion matrix"), _matrix(what)]
    else:
        parts += [element("h4", "The hardest classes"), _hardest(what)]
    parts += [element("h4", "As sure as it should be?"), _calibration(what.calibration)]
    if what.pairs:
        pairs = element("div", *map(_pair, what.pairs), class_="pairs")
        parts += [element("h4", "What is most often taken for what"), pairs]
        parts += [element("h4", "Wrong, the most confident first"), _examples(what.wrong)]
    if what.right:
        parts += [element("h4", "Right"), _examples(what.right)]
    return join(parts)


def _hardest(what: Classified) -> Html:
    head = element("tr", element("th", "class"), element("th", "right"), element("th", "of"))
    rows = [
        element(
            "tr",
            element("th", each.name, scope="row"),
            element("td", f"{100 * each.n_right / each.n_samples:.1f} %"),
            element("td", f"{each.n_samples:,}"),
        )
        for each in what.hardest
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="card scroll")


def _calibration(found: Calibration) -> Html:
    """What is right over how sure the network was; points on the diagonal are as sure as they should be."""
    side, edge = 400, 40

    def at(share: float) -> float:
        return round(edge + (side - 2 * edge) * share, 1)

    most = max(each.n_samples for each in found.bins)
    dots = [
        element(
            "circle",
            element(
                "title", f"{each.n_samples:,} samples: {100 * each.confidence:.0f} % sure, {each.accuracy:.0%} right"
            ),
            cx=at(each.confidence),
            cy=side - at(each.accuracy),
            r=round(3 + 9 * math.sqrt(each.n_samples / most), 1),
        )
        for each in found.bins
    ]
    graph = element(
        "svg",
        element("line", x1=edge, y1=side - edge, x2=side - edge, y2=edge),
        *dots,
        element("text", "how sure, 0 to 100 % →", x=edge, y=side - 12),
        element("text", "right →", transform=f"translate(18 {side - edge}) rotate(-90)"),
        viewBox=f"0 0 {side} {side}",
        role="img",
        aria_label=f"share that is right over confidence, {len(dots)} points",
        class_="scatter",
    )
    text = f"It is off by {100 * found.error:.1f} % on average (expected calibration error over {N_BINS} bins)."
    return join([element("p", text), element("div", graph, class_="card")])


def _matrix(what: Classified) -> Html:
    """Rows are the truth. Colour is the share of the row, by its square root: a few mistakes are still to be seen."""
    assert what.matrix is not None
    columns = [element("th", element("span", name), scope="col") for name in what.classes]
    rows = []
    for truth, (name, counts) in enumerate(zip(what.classes, what.matrix.tolist())):
        total = sum(counts)
        cells = [_cell(what.classes, truth, prediction, n, total) for prediction, n in enumerate(counts)]
        recall = f"{100 * counts[truth] / total:.1f} %" if total else "–"
        rows.append(element("tr", element("th", name, scope="row"), *cells, element("td", recall, class_="total")))
    head = element("tr", element("th", "truth ↓ prediction →"), *columns, element("th", "right", scope="col"))
    dense = " dense" if len(what.classes) >= _DENSE_FROM else ""
    matrix = element("table", element("thead", head), element("tbody", *rows), class_=f"matrix{dense}")
    return element("div", matrix, class_="card scroll", tabindex=0)


def _cell(classes: Sequence[str], truth: int, prediction: int, count: int, total: int) -> Html:
    share = math.sqrt(count / total) if total else 0.0
    marks = ["right"] * (truth == prediction) + ["none"] * (count == 0)
    text = f"{classes[truth]}, taken for {classes[prediction]}: {count:,} of {total:,}"
    return element(
        "td", f"{count}", class_=" ".join(marks) or None, style=f"--share:{share:.2f}", title=text if count else None
    )


def _pair(pair: Confused) -> Html:
    share = 100 * pair.count / pair.n_of_truth
    text = element(
        "p",
        element("strong", f"{pair.truth} → {pair.prediction}"),
        element("br"),
        f"{pair.count:,} of {pair.n_of_truth:,} ({share:.1f} %)",
    )
    images = (element("figure", picture(each.image, _alt(each)), title=_alt(each)) for each in pair.examples)
    return element("div", text, element("div", *images), class_="pair card")


def _examples(examples: Sequence[Example]) -> Html:
    return element("div", *map(_example, examples), class_="pictures card")


def _example(each: Example) -> Html:
    confidence = f"{100 * each.confidence:.1f} %"
    if each.truth == each.prediction:
        caption = element("figcaption", each.truth, element("small", confidence))
    else:
        caption = element("figcaption", each.prediction, element("small", f"{confidence}; is {each.truth}"))
    return element("figure", picture(each.image, _alt(each)), player(each.heard) if each.heard else None, caption)


def _alt(each: Example) -> str:
    verdict = "rightly" if each.truth == each.prediction else f"taken for {each.prediction}"
    return f"{each.truth}, {verdict}, {100 * each.confidence:.1f} %"


# --- other tasks ---


@render_findings.register
def _(what: Transcribed) -> Html:
    return as_html(what)


@render_findings.register
def _(what: Regressed) -> Html:
    figures = f"Mean absolute error {what.mean_absolute_error:.4g}, R² {what.r2:.4f}."
    return join([element("p", figures), element("div", _scatter(what), class_="card")])


def _scatter(what: Regressed) -> Html:
    """Prediction over truth, both on the same scale; points on the diagonal are right."""
    both = np.concatenate([what.truth, what.prediction])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    side, edge, span = 400, 40, high - low or 1.0

    def at(value: float) -> float:
        return round(edge + (side - 2 * edge) * (value - low) / span, 1)

    dots = [
        element("circle", cx=at(truth), cy=side - at(prediction), r=2.5)
        for truth, prediction in zip(what.truth.tolist(), what.prediction.tolist())
        if math.isfinite(truth) and math.isfinite(prediction)
    ]
    return element(
        "svg",
        element("line", x1=edge, y1=side - edge, x2=side - edge, y2=edge),
        *dots,
        element("text", f"truth, {low:.4g} to {high:.4g} →", x=edge, y=side - 12),
        element("text", "prediction →", transform=f"translate(18 {side - edge}) rotate(-90)"),
        viewBox=f"0 0 {side} {side}",
        role="img",
        aria_label=f"prediction over truth, {len(dots)} points",
        class_="scatter",
    )


@render_findings.register
def _(what: Shown) -> Html:
    def row(images: Sequence[Pixels], name: str) -> Html:
        figures = (element("figure", picture(image, f"{name} {i}")) for i, image in enumerate(images))
        return element("div", *figures, class_="pictures card")

    parts = [element("h4", "Inputs"), row(what.inputs, "input")]
    if what.outputs:
        parts += [element("h4", "Outputs"), row(what.outputs, "output")]
    return join(parts)
