"""The page at the end of a training: curves, scores, confusions, worst mistakes, machine."""

from __future__ import annotations

import base64
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caffeio import __version__
from caffeio.converters.report import html
from caffeio.converters.report.curves import svg
from caffeio.converters.report.model import Report, count, share
from caffeio.converters.run_plot import is_loss, losses_of, smoothed
from caffeio.log.runs import Run, Series
from caffeio.visible import escaped

if TYPE_CHECKING:
    from caffeio.tools.predictions import Predictions

_GRID = 40  # classes that a confusion matrix is drawn for
_NUMBERS = 12  # classes whose cells show their numbers
_STYLE = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.sheet figure { margin: 0; font-size: .8rem; line-height: 1.3; }
.sheet img { width: 100%; image-rendering: pixelated; border-radius: 3px; background: #8882; }
.matrix { max-width: 100%; height: auto; } .matrix text { fill: currentColor; font-size: 11px; }
svg.curves .raw { stroke-opacity: .25; }
"""


@dataclass
class RunFacts:
    """What a training tells beside its curves."""

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def render(run: Run, facts: RunFacts, predictions: Predictions | None) -> str:
    """The whole page; nothing in it is loaded from elsewhere."""
    report = Report(facts.title)
    for text in facts.warnings:
        report.add_paragraph(text, tone="warn")
    _facts(report, run, facts)
    parts = [html.body(report), _curves(run)]
    if predictions is not None and predictions.images:
        parts += [_confusions(predictions), _sheet(predictions)]
    machine = Report("")
    table = machine.section("Machine and versions").table("", "", heads=False)
    for name, text in machine_facts().items():
        table.add(name, text)
    parts.append(html.body(machine))
    return html.page(facts.title, "\n".join(parts), style=_STYLE)


def _facts(report: Report, run: Run, facts: RunFacts) -> None:
    table = report.section("Result").table("", "", heads=False)
    for name, text in facts.facts.items():
        table.add(name, text)
    scores = report.section("Scores").table("output", "last", "at", "lowest", "at", "highest", "at",
                                            right=range(1, 7))  # fmt: skip
    series = {"training loss": run.loss, **{f"test {n}": s for n, s in run.test.items()}}
    for name, one in series.items():
        iterations, values = one.arrays()
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            continue
        low, high = known[values[known].argmin()], known[values[known].argmax()]
        cells = [name]
        for at in (known[-1], low, high):
            cells += [f"{values[at]:.5g}", f"{iterations[at]:,}"]
        scores.add(*cells)


def _curves(run: Run) -> str:
    out = ["<section><h2>Loss</h2>"]
    loss = Series(run.loss.iterations, smooth(run.loss))
    curves = [("training loss (smoothed)", along(loss, run.length), "left")]
    curves += [(name, along(one, run.length), "right") for name, one in losses_of(run).items()]
    out.append(svg("loss", curves))
    scores = [
        (f"test {name}", along(one, run.length), ("left", "right")[i % 2])
        for i, (name, one) in enumerate((n, s) for n, s in run.test.items() if not is_loss(n))
    ]
    if scores:
        out += ["</section><section><h2>Scores</h2>", svg("scores", scores[:4])]
    rates = [("rate", along(run.rate, run.length), "right")]
    out += ["</section><section><h2>Learning rate</h2>", svg("learning rate", rates), "</section>"]
    if len(run.phases) > 1:
        named = ", ".join(f"{name} from {start:,}" for start, name in run.phases)
        out.append(f"<p class=dim>Phases: {escaped(named)}.</p>")
    return "".join(out)


def smooth(series: Series) -> list[float]:
    """The mean of the last hundredth of all values, at each of them."""
    _, values = series.arrays()
    return list(map(float, smoothed(values, max(len(values) // 100, 1))))


def along(series: Series, length: int) -> list[float]:
    """Values at few iterations, drawn over all of them: straight lines between."""
    iterations, values = series.arrays()
    if not len(values):
        return []
    if len(values) == length:
        return list(map(float, values))
    every = np.interp(np.arange(length), iterations, values, left=np.nan, right=np.nan)
    return list(map(float, every))


def _confusions(predictions: Predictions) -> str:
    matrix = predictions.confusion
    words = (f"{predictions.right:,} of {predictions.images:,} pictures of the test net are right "
             f"({share(predictions.right, predictions.images)}).")  # fmt: skip
    out = [f"<section><h2>Confusions</h2><p>{words}</p>"]
    if len(matrix) <= _GRID:
        out.append(_matrix(matrix))
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:10]
    report = Report("")
    heads = ("label", "predicted", "pictures", "of the label's")
    table = report.section("").table(*heads, right=range(4))
    for at in order:
        label, predicted = divmod(int(at), len(matrix))
        if wrong[label, predicted]:
            table.add(str(label), str(predicted), f"{wrong[label, predicted]:,}",
                      share(wrong[label, predicted], matrix[label].sum()))  # fmt: skip
    out.append(html.body(report))
    return "".join([*out, "</section>"])


def _matrix(matrix: NDArray[np.int64]) -> str:
    """The confusion matrix, a row for each label; darker cells are larger shares of their row."""
    count = len(matrix)
    cell = 34 if count <= _NUMBERS else max(10, 480 // count)
    size = 30 + cell * count
    out = [
        f'<svg class="matrix" role="img" aria-label="confusion matrix" viewBox="0 0 {size} {size}"'
        + f' width="{size}" height="{size}">'
    ]
    rows = matrix.sum(1)
    for label in range(count):
        for predicted in range(count):
            number = int(matrix[label, predicted])
            part = number / rows[label] if rows[label] else 0.0
            x, y = 30 + predicted * cell, 20 + label * cell
            colour = "var(--right)" if label == predicted else "var(--left)"
            out.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill="{colour}" fill-opacity="{0.04 + 0.9 * math.sqrt(part):.2f}"><title>'
                f"label {label}, predicted {predicted}: {number}</title></rect>"
            )
            if count <= _NUMBERS and number:
                out.append(f'<text x="{x + cell / 2:.0f}" y="{y + cell / 2 + 4:.0f}" '
                           f'text-anchor="middle">{number}</text>')  # fmt: skip
        if count <= _NUMBERS or label % 5 == 0:
            middle = label * cell + cell / 2
            out.append(f'<text x="26" y="{20 + middle + 4:.0f}" text-anchor="end">{label}</text>')
            out.append(f'<text x="{30 + middle:.0f}" y="14" text-anchor="middle">{label}</text>')
    return "".join([*out, "</svg><p class=dim>Rows: labels; columns: what the net predicted.</p>"])


def _sheet(predictions: Predictions) -> str:
    shown = [mistake for mistake in predictions.mistakes if mistake.image is not None]
    if not shown:
        return ""
    words = "As the net sees them (cropped, scaled), the least probable labels first."
    out = [f"<section><h2>Worst mistakes</h2><p>{words}</p><div class=sheet>"]
    for mistake in shown:
        assert mistake.image is not None
        out.append(
            f'<figure><img alt="test picture {mistake.number}" src="{png(mistake.image)}">'
            f"<figcaption>label <b>{mistake.label}</b>: {100 * mistake.probability:.1f}&nbsp;"
            f"%<br>predicted <b>{mistake.predicted}</b>: {100 * mistake.sure:.1f}&nbsp;"
            "%</figcaption></figure>"
        )
    return "".join([*out, "</div></section>"])


def png(image: NDArray[np.uint8]) -> str:
    """A picture [H, W, 3] RGB as a data URI; larger ones are made smaller."""
    import cv2

    longest = max(image.shape[:2])
    if longest > 160:
        scale = 160 / longest
        size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"


def machine_facts() -> Mapping[str, str]:
    """Processor, memory, GPU, and the versions of what the numbers depend on."""
    import torch

    facts = {
        "caffeio": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": f"{_processor()}, {count(os.cpu_count() or 1, 'core')}, "
        f"{count(torch.get_num_threads(), 'thread')}",
    }
    for i in range(torch.cuda.device_count()):
        facts[f"GPU {i}"] = torch.cuda.get_device_name(i)
    return facts


def _processor() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
