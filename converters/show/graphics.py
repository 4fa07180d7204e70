"""A net drawn: as an SVG of our own layout, or as Graphviz's DOT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from caffeio.converters.report.model import scaled
from caffeio.converters.show.layout import Drawing, layout
from caffeio.converters.show.view import LayerRow, View, shape_words
from caffeio.layers.registry import family_of, reads_shape_only_last
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
    ".edge{fill:none;stroke:#9aa0a6;stroke-width:1.3}.label{stroke-dasharray:3 4;opacity:.7}"
)


def label(row: LayerRow) -> list[str]:
    """The lines of a box: name, types, words, shape and size."""
    lines = [row.name, row.type_name]
    if row.summary:
        lines.append(row.summary if len(row.summary) <= 40 else row.summary[:37] + "...")
    facts = [shape_words(row.tops)] if row.tops else []
    if row.parameters:
        facts.append(scaled(row.parameters))
    if facts:
        lines.append(" · ".join(facts))
    return lines


def svg(view: View, *, standalone: bool = True) -> str:
    """The net as an SVG drawing; boxes have the ids `node-<row>`.

    standalone: for a file of its own, one layer below the other. Else for a page: deep nets go on
    in further columns. Edges that only carry labels (and sizes) have the class `label`.
    """
    labels = [label(row) for row in view.rows]
    sizes = [
        (max(map(len, lines)) * _CHAR + 2 * _PAD, len(lines) * _LINE + 2 * _PAD) for lines in labels
    ]
    edges = [(source, row.index) for row in view.rows for source in row.sources]
    aside = {edge for edge in edges if _is_label(view, *edge)}
    drawing = layout(sizes, [e for e in edges if e not in aside], columns=not standalone)
    left = 12
    above = bottom = 12.0
    if drawing.turns:
        lows = [turn[:2] for at in drawing.turns.values() for turn in at.values()]
        bottom += max(0.0, max(low for low, _ in lows) - drawing.height)
        above += -min(0.0, *(top for _, top in lows))
    width, height = drawing.width + left + 12, drawing.height + above + bottom
    space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    out = [
        (
            f'<svg{space} width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="{-left} {-above:.0f} {width:.0f} {height:.0f}" role="img">'
        ),
        f"<title>{escaped(view.graph.name)}</title><style>{STYLE}</style>",
    ]
    out += [_edge(drawing, edge) for edge in drawing.routes]
    out += [_aside(drawing, edge) for edge in edges if edge in aside]
    out += [_box(drawing, row, lines) for row, lines in zip(view.rows, labels, strict=True)]
    return "\n".join([*out, "</svg>"])


def _is_label(view: View, start: int, end: int) -> bool:
    """Whether an edge from a data layer only brings labels to a loss, or the size of the input."""
    source, reader = view.rows[start], view.rows[end]
    if source.sources or len(reader.sources) < 2:
        return False
    return family_of(reader.node.type) == "loss" or (
        reads_shape_only_last(reader.node.type) and reader.sources[-1] == start
    )


def _edge(drawing: Drawing, edge: tuple[int, int]) -> str:
    """Straight down through the ranks, in curves between them."""
    pieces = drawing.routes[edge]
    x, top, bottom = pieces[0]
    path = [f"M{x:.1f} {top:.1f}V{bottom:.1f}"]
    turns = drawing.turns.get(edge, {})
    for i, ((x0, _, y0), (x1, y1, end)) in enumerate(pairwise(pieces)):
        if i in turns:
            low, high, x = turns[i]
            path.append(_corners([(x0, y0), (x0, low), (x, low), (x, high), (x1, high), (x1, y1)]))
        else:
            middle = (y0 + y1) / 2
            path.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
        path.append(f"V{end:.1f}")
    return f'<path class="edge" d="{"".join(path)}"/>'


def _corners(points: Sequence[tuple[float, float]], radius: float = 5.0) -> str:
    """Straight pieces from the first point on, with round corners."""
    out = []
    for (x0, y0), (x, y), (x1, y1) in zip(points, points[1:], points[2:], strict=False):
        before, behind = abs(x - x0) + abs(y - y0), abs(x1 - x) + abs(y1 - y)
        r = min(radius, before / 2, behind / 2)
        ax, ay = x + r * _sign(x0 - x), y + r * _sign(y0 - y)
        bx, by = x + r * _sign(x1 - x), y + r * _sign(y1 - y)
        out.append(f"L{ax:.1f} {ay:.1f}Q{x:.1f} {y:.1f} {bx:.1f} {by:.1f}")
    return "".join([*out, f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _aside(drawing: Drawing, edge: tuple[int, int]) -> str:
    """An edge that takes no part in the layout: from side to side, in a curve."""
    a, b = drawing.boxes[edge[0]], drawing.boxes[edge[1]]
    x0, x1 = a.x + a.width / 2, b.x + b.width / 2
    out = max(x0, x1) + 14
    return (
        f'<g class="label"><path class="edge" d="M{x0:.1f} {a.y:.1f}C{out:.1f} {a.y:.1f} '
        f'{out:.1f} {b.y:.1f} {x1:.1f} {b.y:.1f}"/></g>'
    )


def _box(drawing: Drawing, row: LayerRow, lines: list[str]) -> str:
    box = drawing.boxes[row.index]
    x, y = box.x - box.width / 2, box.y - box.height / 2
    colour = COLOURS[family_of(row.node.type)]
    place = f'x="{x:.1f}" y="{y:.1f}" height="{box.height:.1f}"'
    out = [
        f'<g class="box" id="node-{row.index}"><title>{escaped(row.name)}</title>',
        (
            f'<rect {place} width="{box.width:.1f}" rx="5" stroke="{colour}" '
            f'style="--family:{colour}"/>'
        ),
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


def _made_by(row: LayerRow, blob: str) -> bool:
    return len(row.node.tops) > 1 and blob in row.node.tops


def _quoted(text: str) -> str:
    text = visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
