"""A net as one self-contained HTML page: drawing, searchable layers, histograms of weights."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from caffeio.converters.diff.messages import flatten
from caffeio.converters.report import html
from caffeio.converters.report.model import Report, scaled, size
from caffeio.converters.show import graphics
from caffeio.converters.show.nets import ShownNet
from caffeio.converters.show.stats import Stats
from caffeio.converters.show.view import LayerRow, Part, shape_words
from caffeio.proto.weights.blob_names import blob_name
from caffeio.shape_text import format_shape
from caffeio.visible import escaped

STYLE = """
:root { --box: #fff; --ink: #222; --soft: #767676; --line: #9aa0a6; --pane: #fafafa;
  --mark: #ffe9a8; }
@media (prefers-color-scheme: dark) { :root { --box: #262a30; --ink: #e8e8e8; --soft: #a5a9b0;
  --line: #737a83; --dim: #a0a4aa; --pane: #16181c; --mark: #6b5410; }
  body { background: #1b1d21; } }
body { max-width: none; margin: 0; padding: .8rem 1rem; box-sizing: border-box;
  min-height: 100vh; display: flex; flex-direction: column; }
h1 { margin: 0 0 .3rem; overflow-wrap: anywhere; } body > p { margin: .1rem 0; }
#about > summary { font-weight: 600; padding: .2rem 0; } #about section > h2 { display: none; }
main { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1rem;
  flex: 1 1 auto; min-height: 26rem; height: 0; }
#graph, #layers { overflow: auto; border: 1px solid var(--edge); border-radius: 6px;
  min-height: 0; position: relative; }
@media (max-width: 60rem) { main { grid-template-columns: minmax(0, 1fr); height: auto; }
  #graph { height: 70vh; } }
#graph { background: var(--pane); } #graph.live { overflow: hidden; cursor: grab;
  touch-action: none; user-select: none; } #graph.live.held { cursor: grabbing; }
#graph.live svg { position: absolute; left: 0; top: 0; }
#graph .box rect { fill: var(--box); } #graph .box text { fill: var(--ink); }
#graph .box .dim { fill: var(--soft); } #graph .edge { stroke: var(--line); }
#graph .label { display: none; } #graph.labels .label { display: inline; }
#graph.far .box text { opacity: 0; } #graph.far .box rect { fill: var(--family); }
#graph.far .edge { stroke-width: 4; }
#layers { padding: 0 .5rem; }
.tools { display: flex; gap: .4rem; align-items: center; padding: .4rem 0; flex-wrap: wrap; }
.tools input[type=search] { flex: 1; min-width: 10rem; padding: .3rem .5rem; font: inherit; }
.tools button { font: inherit; padding: .2rem .6rem; cursor: pointer; }
details { border-bottom: 1px solid var(--edge); padding: .25rem 0; }
summary { cursor: pointer; } summary b { margin-right: .5rem; overflow-wrap: anywhere; }
summary .facts { color: var(--dim); font-size: .85rem; }
details.hit > summary { background: var(--mark); }
#graph .box.hit rect:first-of-type { fill: var(--mark); }
.box { cursor: pointer; } .box.off { opacity: .2; }
.part { margin: .4rem 0 .6rem 1rem; } .part table { margin: .2rem 0; display: table; }
.part th { white-space: nowrap; }
.histogram { display: inline-flex; align-items: flex-end; height: 3rem; gap: 1px; }
.histogram i { width: 4px; background: #e08a3c; min-height: 1px; }
figure { margin: .4rem 0; } figure img { max-width: min(100%, 22rem); image-rendering: pixelated; }
figcaption { color: var(--dim); font-size: .85rem; }
[hidden] { display: none; }
"""

SCRIPT = """
"use strict";
const rows = [...document.querySelectorAll("#layers > details")];
const box = i => document.getElementById("node-" + i);
const search = document.getElementById("search");
const found = document.getElementById("found");
const frame = document.getElementById("graph");
const drawing = document.querySelector("#graph svg");
const whole = drawing.viewBox.baseVal;
let zoom = 1, shiftX = 0, shiftY = 0, moved = false;
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
function place() {
  drawing.setAttribute("width", whole.width * zoom);
  drawing.setAttribute("height", whole.height * zoom);
  drawing.style.transform = "translate(" + shiftX + "px," + shiftY + "px)";
  frame.classList.toggle("far", zoom < 0.3);
}
function scale(factor, x = frame.clientWidth / 2, y = frame.clientHeight / 2) {
  const before = zoom;
  zoom = Math.min(Math.max(zoom * factor, 0.02), 6);
  shiftX = x - (x - shiftX) * zoom / before;
  shiftY = y - (y - shiftY) * zoom / before;
  moved = true;
  place();
}
function fit() {
  zoom = Math.min(frame.clientWidth / whole.width, frame.clientHeight / whole.height, 1.25);
  shiftX = (frame.clientWidth - whole.width * zoom) / 2;
  shiftY = (frame.clientHeight - whole.height * zoom) / 2;
  moved = false;
  place();
}
function centre(target) {
  if (zoom < 0.7) scale(1 / zoom);
  const there = target.getBoundingClientRect(), here = frame.getBoundingClientRect();
  shiftX += here.left + here.width / 2 - there.left - there.width / 2;
  shiftY += here.top + here.height / 2 - there.top - there.height / 2;
  moved = true;
  place();
}
function pick(i, scroll) {
  document.querySelectorAll(".hit").forEach(e => e.classList.remove("hit"));
  const row = document.getElementById("layer-" + i);
  row.hidden = false;
  row.classList.add("hit");
  box(i)?.classList.add("hit");
  if (scroll) { row.open = true; row.scrollIntoView({ block: "center" }); }
  else if (box(i)) centre(box(i));
}
search.addEventListener("input", filter);
document.getElementById("open").onclick = () => rows.forEach(r => r.open = !r.hidden);
document.getElementById("close").onclick = () => rows.forEach(r => r.open = false);
for (const row of rows)
  row.querySelector("summary").addEventListener("click", () => pick(row.dataset.row, false));
let dragged = false;
document.querySelectorAll(".box").forEach(b =>
  b.addEventListener("click", () => { if (!dragged) pick(b.id.slice(5), true); }));
document.getElementById("larger").onclick = () => scale(1.25);
document.getElementById("smaller").onclick = () => scale(0.8);
document.getElementById("fit").onclick = fit;
document.getElementById("labels").onclick = event =>
  event.target.setAttribute("aria-pressed", frame.classList.toggle("labels"));
frame.addEventListener("wheel", event => {
  event.preventDefault();
  const here = frame.getBoundingClientRect();
  const steps = Math.max(-3, Math.min(3, event.deltaY / (event.deltaMode ? 3 : 100)));
  scale(Math.pow(0.8, steps), event.clientX - here.left, event.clientY - here.top);
}, { passive: false });
const fingers = new Map();
frame.addEventListener("pointerdown", event => {
  if (event.button) return;
  dragged = false;
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
});
window.addEventListener("pointermove", event => {
  const old = fingers.get(event.pointerId);
  if (!old) return;
  const now = [event.clientX, event.clientY];
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
  if (!dragged && Math.hypot(now[0] - old[0], now[1] - old[1]) < 4) return;
  dragged = moved = true;
  frame.classList.add("held");
  fingers.set(event.pointerId, now);
  if (others.length) {
    const far = at => Math.hypot(at[0] - others[0][0], at[1] - others[0][1]) || 1;
    const here = frame.getBoundingClientRect();
    scale(far(now) / far(old), others[0][0] - here.left, others[0][1] - here.top);
  } else {
    shiftX += now[0] - old[0];
    shiftY += now[1] - old[1];
    place();
  }
});
for (const kind of ["pointerup", "pointercancel"])
  window.addEventListener(kind, event => {
    fingers.delete(event.pointerId);
    frame.classList.remove("held");
  });
frame.addEventListener("keydown", event => {
  const by = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
  const to = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  if (by) scale(by);
  else if (event.key === "0") fit();
  else if (to[event.key]) {
    [shiftX, shiftY] = [shiftX + to[event.key][0], shiftY + to[event.key][1]];
    moved = true;
    place();
  } else return;
  event.preventDefault();
});
function drawn() {
  const copy = drawing.cloneNode(true);
  copy.querySelectorAll(".hit, .off").forEach(e => e.classList.remove("hit", "off"));
  if (!frame.classList.contains("labels"))
    copy.querySelectorAll(".label").forEach(e => e.remove());
  copy.removeAttribute("style");
  copy.setAttribute("width", whole.width);
  copy.setAttribute("height", whole.height);
  return new XMLSerializer().serializeToString(copy);
}
function painted(then) {
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    const size = Math.min(2, 8000 / whole.width, 8000 / whole.height);
    canvas.width = Math.ceil(whole.width * size);
    canvas.height = Math.ceil(whole.height * size);
    const paper = canvas.getContext("2d");
    paper.fillStyle = "#fff";
    paper.fillRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(then, "image/png");
  };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(drawn());
}
function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = frame.dataset.name + ending;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
document.getElementById("svg").onclick = () =>
  save(new Blob([drawn()], { type: "image/svg+xml" }), ".svg");
document.getElementById("png").onclick = () => painted(blob => save(blob, ".png"));
frame.classList.add("live");
new ResizeObserver(() => { if (!moved) fit(); }).observe(frame);
fit();
filter();
document.documentElement.dataset.ready = "yes";
"""


def render(shown: ShownNet, report: Report) -> str:
    """The page of a net."""
    if shown.view is not None:
        return html.page(report.title, _drawn(shown, report), style=STYLE, script=SCRIPT)
    head = Report(report.title, report.headline, report.sections[:1])
    parts = [html.body(head)]
    if shown.stats:
        blocks = [_blobs(name, blobs, shown) for name, blobs in shown.stats.items()]
        parts += [f"<h2>{escaped(n)}</h2>{b}" for n, b in zip(shown.stats, blocks, strict=True)]
    return html.page(report.title, "\n".join(parts), style=STYLE)


def _drawn(shown: ShownNet, report: Report) -> str:
    """Head, tools, drawing and layers."""
    assert shown.view is not None
    facts = html.body(Report("", [], report.sections[:1])).partition("</h1>")[2]
    layers = "\n".join(_row(row, shown) for row in shown.view.rows)
    drawing = graphics.svg(shown.view, standalone=False)
    name = escaped(re.sub(r"\W+", "_", shown.view.graph.name or "net"))
    return "\n".join([
        html.body(Report(report.title, report.headline)),
        f'<details id="about"><summary>About this net</summary>{facts}</details>',
        _TOOLS,
        (f'<main><div id="graph" data-name="{name}" tabindex="0" aria-label="The net, drawn: drag '
        f'to move, wheel or + and - to zoom, 0 to fit">{drawing}</div>'
        f'<div id="layers">{layers}</div></main>'),
    ])  # fmt: skip


_TOOLS = (
    '<div class="tools"><input id="search" type="search" placeholder="Search layers: name, type, '
    'field" aria-label="Search layers"><span id="found"></span>'
    '<button id="open">Unfold</button><button id="close">Fold</button>'
    '<button id="smaller" aria-label="Smaller">-</button>'
    '<button id="larger" aria-label="Larger">+</button><button id="fit">Fit</button>'
    '<button id="labels" aria-pressed="false" title="Edges that only carry labels or sizes">Labels'
    '</button><button id="svg">SVG</button><button id="png">PNG</button></div>'
)


def _row(row: LayerRow, shown: ShownNet) -> str:
    facts = [row.type_name, row.summary, shape_words(row.tops)]
    facts.append(scaled(row.parameters) + " parameters" if row.parameters else "")
    facts.append(scaled(row.macs) + " MACs" if row.macs else "")
    facts.append(size(row.bytes) if row.bytes else "")
    text = " ".join([row.type_name, row.summary, *(_text(part) for part in row.parts)]).lower()
    parts = "".join(_part(part, shown) for part in row.parts)
    names = {part.node.name for part in row.parts}
    first = " open" if shown.filters is not None and shown.filters[0] in names else ""
    return (
        f'<details id="layer-{row.index}"{first} data-row="{row.index}" '
        f'data-text="{escaped(text)}">'
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
    filters = _filters(node.name, shown)
    if not shown.stats and part.shapes.blobs:
        shapes = ", ".join(map(format_shape, part.shapes.blobs))
        cells += f"<tr><th>blobs</th><td>{escaped(shapes)}</td></tr>"
    title = f"<b>{escaped(node.name)}</b> {escaped(node.type)}"
    return f'<div class="part">{title}{filters}<table>{cells}</table>{blobs}</div>'


def _filters(layer: str, shown: ShownNet) -> str:
    """The filters of the layer that reads pictures, drawn."""
    if shown.filters is None or shown.filters[0] != layer:
        return ""
    from caffeio.tools.tiles import filter_sheet, png

    values = shown.filters[1]
    data = base64.b64encode(png(filter_sheet(values))).decode()
    words = f"{len(values)} filters of {layer}, each from its lowest to its highest value"
    if values.shape[1] == 3:
        words += "; the channels as blue, green, red"
    return (
        f'<figure class="filters"><img alt="{escaped(words)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escaped(words)}</figcaption></figure>"
    )


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
