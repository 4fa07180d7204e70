"""A net as one self-contained HTML page: drawing, searchable layers, histograms of weights."""

from __future__ import annotations

from collections.abc import Sequence

from caffeio.converters.diff.messages import flatten
from caffeio.converters.diff.weights_diff import blob_name
from caffeio.converters.report import html
from caffeio.converters.report.model import Report, scaled, size
from caffeio.converters.show import graphics
from caffeio.converters.show.nets import ShownNet
from caffeio.converters.show.stats import Stats
from caffeio.converters.show.view import Part, Row, shape_words
from caffeio.net.shapes import format_shape
from caffeio.visible import escaped

STYLE = (
    graphics.STYLE
    + """
body { max-width: none; margin: 1rem; }
main { display: grid; grid-template-columns: minmax(20rem, 1fr) minmax(24rem, 1fr); gap: 1rem; }
@media (max-width: 60rem) { main { grid-template-columns: 1fr; } }
#graph, #layers { height: calc(100vh - 12rem); min-height: 24rem; overflow: auto;
  border: 1px solid var(--edge); border-radius: 6px; }
#graph { background: #fafafa; } #graph svg { transform-origin: 0 0; }
#layers { padding: 0 .5rem; }
.tools { display: flex; gap: .5rem; align-items: center; padding: .4rem 0; flex-wrap: wrap; }
.tools input { flex: 1; min-width: 10rem; padding: .3rem .5rem; font: inherit; }
.tools button { font: inherit; padding: .2rem .6rem; cursor: pointer; }
details { border-bottom: 1px solid var(--edge); padding: .25rem 0; }
summary { cursor: pointer; } summary b { margin-right: .5rem; }
summary .facts { color: var(--dim); font-size: .85rem; }
details.hit > summary, .box.hit rect:first-of-type { background: #ffe9a8; fill: #ffe9a8; }
.box { cursor: pointer; } .box.off { opacity: .2; }
.part { margin: .4rem 0 .6rem 1rem; } .part table { margin: .2rem 0; }
.histogram { display: inline-flex; align-items: flex-end; height: 3rem; gap: 1px; }
.histogram i { width: 4px; background: #e08a3c; min-height: 1px; }
[hidden] { display: none; }
"""
)

SCRIPT = """
"use strict";
const rows = [...document.querySelectorAll("#layers > details")];
const box = i => document.getElementById("node-" + i);
const search = document.getElementById("search");
const found = document.getElementById("found");
function filter() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const match = words.every(word => row.dataset.text.includes(word));
    row.hidden = !match;
    shown += match;
    box(row.dataset.row)?.classList.toggle("off", !match);
  }
  found.textContent = words.length ? shown + " of " + rows.length : rows.length + " layers";
}
function pick(i, scroll) {
  document.querySelectorAll(".hit").forEach(e => e.classList.remove("hit"));
  const row = document.getElementById("layer-" + i);
  row.hidden = false;
  row.classList.add("hit");
  box(i)?.classList.add("hit");
  if (scroll) { row.open = true; row.scrollIntoView({ block: "center" }); }
  else box(i)?.scrollIntoView({ block: "center", inline: "center" });
}
search.addEventListener("input", filter);
document.getElementById("open").onclick = () => rows.forEach(r => r.open = !r.hidden);
document.getElementById("close").onclick = () => rows.forEach(r => r.open = false);
for (const row of rows)
  row.querySelector("summary").addEventListener("click", () => pick(row.dataset.row, false));
document.querySelectorAll(".box").forEach(b =>
  b.addEventListener("click", () => pick(b.id.slice(5), true)));
const drawing = document.querySelector("#graph svg");
let zoom = 1;
function scale(factor) {
  if (!drawing) return;
  zoom = Math.min(Math.max(zoom * factor, 0.05), 4);
  const view = drawing.viewBox.baseVal;
  drawing.setAttribute("width", view.width * zoom);
  drawing.setAttribute("height", view.height * zoom);
}
document.getElementById("larger").onclick = () => scale(1.25);
document.getElementById("smaller").onclick = () => scale(0.8);
document.getElementById("fit").onclick = () => {
  const view = drawing.viewBox.baseVal, frame = document.getElementById("graph");
  scale(Math.min(frame.clientWidth / view.width, 1) / zoom);
};
filter();
document.documentElement.dataset.ready = "yes";
"""


def render(shown: ShownNet, report: Report) -> str:
    """The page of a net."""
    head = Report(report.title, report.headline, report.sections[:1])
    parts = [html.body(head)]
    if shown.view is not None:
        drawing = graphics.svg(shown.view, standalone=False)
        layers = "\n".join(_row(row, shown) for row in shown.view.rows)
        parts.append(_TOOLS)
        parts.append(f'<main><div id="graph">{drawing}</div><div id="layers">{layers}</div></main>')
        return html.page(report.title, "\n".join(parts), style=STYLE, script=SCRIPT)
    if shown.stats:
        blocks = [_blobs(name, blobs, shown) for name, blobs in shown.stats.items()]
        parts += [f"<h2>{escaped(n)}</h2>{b}" for n, b in zip(shown.stats, blocks, strict=True)]
    return html.page(report.title, "\n".join(parts), style=STYLE)


_TOOLS = (
    '<div class="tools"><input id="search" type="search" placeholder="Search layers: name, type, '
    'field" aria-label="Search layers"><span id="found"></span>'
    '<button id="open">Unfold</button><button id="close">Fold</button>'
    '<button id="smaller" aria-label="Smaller">-</button>'
    '<button id="larger" aria-label="Larger">+</button><button id="fit">Fit</button></div>'
)


def _row(row: Row, shown: ShownNet) -> str:
    facts = [row.kind, row.words, shape_words(row.tops)]
    facts.append(scaled(row.parameters) + " parameters" if row.parameters else "")
    facts.append(scaled(row.macs) + " MACs" if row.macs else "")
    facts.append(size(row.bytes) if row.bytes else "")
    text = " ".join([row.kind, row.words, *(_text(part) for part in row.parts)]).lower()
    parts = "".join(_part(part, shown) for part in row.parts)
    return (
        f'<details id="layer-{row.index}" data-row="{row.index}" data-text="{escaped(text)}">'
        f'<summary><b>{escaped(row.name)}</b><span class="facts">'
        f"{escaped(' · '.join(filter(None, facts)))}</span></summary>{parts}</details>"
    )


def _text(part: Part) -> str:
    return " ".join([part.node.name, *part.bottoms, *part.node.tops])


def _part(part: Part, shown: ShownNet) -> str:
    node = part.node
    rows = {"bottom": ", ".join(part.bottoms), "top": ", ".join(node.tops)}
    rows["shape"] = shape_words(part.shapes.tops)
    rows["where"] = node.where
    skip = frozenset({"name", "type", "bottom", "top", "blobs"})
    rows.update(flatten(node.param, skip=skip))
    cells = "".join(
        f"<tr><th>{escaped(k)}</th><td>{escaped(v)}</td></tr>" for k, v in rows.items() if v
    )
    blobs = _blobs(node.name, shown.stats.get(node.name, []), shown)
    if not shown.stats and part.shapes.blobs:
        shapes = ", ".join(map(format_shape, part.shapes.blobs))
        cells += f"<tr><th>blobs</th><td>{escaped(shapes)}</td></tr>"
    title = f"<b>{escaped(node.name)}</b> {escaped(node.type)}"
    return f'<div class="part">{title}<table>{cells}</table>{blobs}</div>'


def _blobs(layer: str, blobs: Sequence[Stats], shown: ShownNet) -> str:
    if not blobs:
        return ""
    out = []
    for index, stats in enumerate(blobs):
        name = blob_name(shown.blob_types.get(layer, ""), index)
        figures = f"{stats.low:.3g} to {stats.high:.3g}, mean {stats.mean:.3g}, std {stats.std:.3g}"
        bad = f' <span class="bad">{stats.not_finite} not finite</span>' if stats.not_finite else ""
        out.append(
            f"<tr><th>{escaped(name)}</th><td>{format_shape(stats.shape)}</td>"
            f"<td>{figures}{bad}</td><td>{_histogram(stats.histogram)}</td></tr>"
        )
    return f"<table>{''.join(out)}</table>"


def _histogram(counts: Sequence[int]) -> str:
    top = max(counts, default=0) or 1
    bars = "".join(f'<i style="height:{100 * n / top:.0f}%"></i>' for n in counts)
    return f'<span class="histogram" role="img" aria-label="histogram">{bars}</span>'
