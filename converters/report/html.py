"""Reports as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib

from caffeio.converters.report.model import Cell, Line, Picture, Report, Table
from caffeio.visible import escaped

STYLE = """
:root { color-scheme: light dark; --dim: #777; --left: #b42318; --right: #087443; --warn: #a15c07;
  --edge: #8884; --head: #8881; }
@media (prefers-color-scheme: dark) {
  :root { --left: #ff8a80; --right: #69db9a; --warn: #ffc46b; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .2rem .9rem .2rem 0;
  border-bottom: 1px solid var(--edge); }
td, .mono { font-family: ui-monospace, monospace; font-size: .88rem; overflow-wrap: anywhere; }
td:first-child { overflow-wrap: normal; } td.num { white-space: nowrap; }
@media (max-width: 40rem) { td { overflow-wrap: normal; }  /* the table scrolls */
  td:last-child:not(.num) { min-width: 12rem; } }
th { font-weight: 600; color: var(--dim); } .num { text-align: right; }
.left, .bad { color: var(--left); } .right, .good { color: var(--right); }
svg.curves { max-width: 100%; height: auto; color: inherit; }
svg.curves .left { stroke: var(--left); } svg.curves .right { stroke: var(--right); }
svg.curves text { fill: currentColor; font-size: 12px; }
svg.curves text.left { fill: var(--left); stroke: none; }
svg.curves text.right { fill: var(--right); stroke: none; }
.warn { color: var(--warn); } .dim { color: var(--dim); } .strong, .bad { font-weight: 600; }
"""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page; nothing in it is loaded from elsewhere."""
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    policy += f"style-src 'unsafe-inline'; script-src {_allowed(script)}"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escaped(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}{style}</style>\n<body>\n{body}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _allowed(script: str) -> str:
    """What a policy calls this script, so that no other one runs."""
    if not script:
        return "'none'"
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def render(report: Report) -> str:
    """The report as a page."""
    return page(report.title, body(report))


def body(report: Report) -> str:
    """The report as HTML elements; no heading where a title is empty."""
    out = [f"<h1>{escaped(report.title)}</h1>"] if report.title else []
    out += [_line(paragraph) for paragraph in report.headline]
    for section in report.sections:
        heading = f"<h2>{escaped(section.title)}</h2>" if section.title else ""
        out.append(f"<section>{heading}")
        for block in section.blocks:
            out.append(_block(block))
        out.append("</section>")
    return "\n".join(out)


def _block(block: Line | Table | Picture) -> str:
    if isinstance(block, Picture):
        from caffeio.converters.report.curves import svg

        return svg(block.title, block.curves)
    return _table(block) if isinstance(block, Table) else _line(block)


def _line(paragraph: Line) -> str:
    return f"<p>{''.join(map(_cell, paragraph.parts))}</p>"


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    return f'<span class="{cell.tone}">{text}</span>' if cell.tone else text


def _table(table: Table) -> str:
    numbers = [' class="num"' if i in table.right else "" for i in range(len(table.columns))]
    out = ["<table>"]
    if table.heads and any(table.columns):
        heads = zip(numbers, table.columns, strict=True)
        out.append(f"<tr>{''.join(f'<th{n}>{escaped(head)}</th>' for n, head in heads)}</tr>")
    for i, row in enumerate(table.rows):
        if i in table.text_only:
            continue
        cells = zip(numbers, row, strict=False)
        out.append(f"<tr>{''.join(f'<td{n}>{_cell(cell)}</td>' for n, cell in cells)}</tr>")
    return "\n".join([*out, "</table>"])
