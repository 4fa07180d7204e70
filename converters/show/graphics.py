"""A net drawn: as an SVG of our own layout, or as Graphviz's DOT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from caffeio.converters.report.model import scaled
from caffeio.converters.show.layout import Drawing, layout
from caffeio.converters.show.view import Row, View, shape_words
from caffeio.layers.registry import family_of
from caffeio.visible import escaped, visible

COLOURS = {
    "data": "#5b8def",
    "conv": "#e08a3c",
    "pool": "#4caf7d",
    "norm": "#9b7ed6",
    "join": "#8a8f98",
    "loss": "#d9534f",
    "other": "#b0a05a",
}
_CHAR, _LINE, _PAD = 6.7, 15.0, 7.0

STYLE = (
    ".box rect{fill:#fff;stroke-width:1.5}.box text{font:11px ui-monospace,monospace;fill:#222}"
    ".box .name{font-weight:600}.box .dim{fill:#777}"
    ".edge{fill:none;stroke:#9aa0a6;stroke-width:1.3}"
)


def label(row: Row) -> list[str]:
    """The lines of a box: name, types, words, shape and size."""
    lines = [row.name, row.kind]
    if row.words:
        lines.append(row.words if len(row.words) <= 40 else row.words[:37] + "...")
    facts = [shape_words(row.tops)] if row.tops else []
    if row.parameters:
        facts.append(scaled(row.parameters))
    if facts:
        lines.append(" · ".join(facts))
    return lines


def svg(view: View, *, standalone: bool = True) -> str:
    """The net as an SVG drawing; boxes have the ids `node-<row>`."""
    labels = [label(row) for row in view.rows]
    sizes = [
        (max(map(len, lines)) * _CHAR + 2 * _PAD, len(lines) * _LINE + 2 * _PAD) for lines in labels
    ]
    edges = [(source, row.index) for row in view.rows for source in row.sources]
    drawing = layout(sizes, edges)
    margin = 12
    width, height = drawing.width + 2 * margin, drawing.height + 2 * margin
    space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    head = (
        f'<svg{space} width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-margin} {-margin} {width:.0f} {height:.0f}" role="img">'
    )
    out = [head]
    if standalone:
        out.append(f"<title>{escaped(view.graph.name)}</title><style>{STYLE}</style>")
    out += [_edge(drawing, sizes, edge) for edge in drawing.routes]
    out += [_box(drawing, row, lines) for row, lines in zip(view.rows, labels, strict=True)]
    return "\n".join([*out, "</svg>"])


def _edge(drawing: Drawing, sizes: Sequence[tuple[float, float]], edge: tuple[int, int]) -> str:
    points = list(drawing.routes[edge])
    start, end = points[0], points[-1]
    points[0] = (start[0], start[1] + sizes[edge[0]][1] / 2)
    points[-1] = (end[0], end[1] - sizes[edge[1]][1] / 2)
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return f'<path class="edge" d="{"".join(path)}"/>'


def _box(drawing: Drawing, row: Row, lines: list[str]) -> str:
    box = drawing.boxes[row.index]
    x, y = box.x - box.width / 2, box.y - box.height / 2
    colour = COLOURS[family_of(row.node.type)]
    place = f'x="{x:.1f}" y="{y:.1f}" height="{box.height:.1f}"'
    out = [
        f'<g class="box" id="node-{row.index}"><title>{escaped(row.name)}</title>',
        f'<rect {place} width="{box.width:.1f}" rx="5" stroke="{colour}"/>',
        f'<rect {place} width="4" rx="2" style="fill:{colour}" stroke="none"/>',
    ]
    for i, text in enumerate(lines):
        style = ' class="name"' if i == 0 else ' class="dim"' if i > 1 else ""
        top = y + _PAD + _LINE * (i + 0.75)
        out.append(f'<text x="{x + _PAD + 3:.1f}" y="{top:.1f}"{style}>{escaped(text)}</text>')
    return "".join([*out, "</g>"])


def dot(view: View) -> str:
    """The net in Graphviz's language."""
    out = [
        f"digraph {_quoted(view.graph.name or 'net')} {{",
        '  node [shape=box, style="rounded", fontname="monospace", fontsize=10];',
    ]
    for row, lines in ((row, label(row)) for row in view.rows):
        text = "\\n".join(_quoted(line)[1:-1] for line in lines)
        out.append(f'  n{row.index} [label="{text}", color="{COLOURS[family_of(row.node.type)]}"];')
    for row in view.rows:
        for source in row.sources:
            blobs = [b for b in row.parts[0].bottoms if _made_by(view.rows[source], b)]
            label_ = f" [label={_quoted(', '.join(blobs))}, fontsize=8]" if blobs else ""
            out.append(f"  n{source} -> n{row.index}{label_};")
    return "\n".join([*out, "}"]) + "\n"


def _made_by(row: Row, blob: str) -> bool:
    return len(row.node.tops) > 1 and blob in row.node.tops


def _quoted(text: str) -> str:
    text = visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
