"""A terminal session as an SVG: commands are run, their output appears line by line.

Usage: cast.py OUT.svg COMMAND... (each as one argument). Colours are those of the terminal; nothing
in the file is loaded from elsewhere, and it moves by CSS alone. A reader who wants no motion gets
the last picture.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from rich.text import Text

COLUMNS, CHAR, LINE, PAD, TOP = 100, 7.3, 17, 14, 34
COLOURS = {
    "red": "#ff7b72", "green": "#7ee787", "yellow": "#e3b341", "blue": "#79c0ff",
    "magenta": "#d2a8ff", "cyan": "#76e3ea", "bright_black": "#8b949e",
}  # fmt: skip
INK, DIM = "#e6edf3", "#8b949e"
MOST = 22  # lines of one command
TYPING, PAUSE, EACH = 0.5, 0.9, 0.03  # seconds: for a command, behind its output, for a line


def output(command: str) -> list[Text]:
    """The lines that a command prints on a terminal of COLUMNS columns."""
    env = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        shlex.split(command), env=env, capture_output=True, text=True, timeout=300, check=False
    )
    lines = list(Text.from_ansi(done.stdout.rstrip() or done.stderr.rstrip()).split("\n"))
    return lines if len(lines) <= MOST else [*lines[:MOST], Text("...", "dim")]


def spans(line: Text) -> str:
    """One line as tspans."""
    out, plain = [], line.plain.rstrip()
    styles: list[str] = [""] * len(plain)
    for span in line.spans:
        for i in range(span.start, min(span.end, len(plain))):
            styles[i] = str(span.style)
    start = 0
    for i in range(1, len(plain) + 1):
        if i == len(plain) or styles[i] != styles[start]:
            out.append(f"<tspan{attributes(styles[start])}>{escape(plain[start:i])}</tspan>")
            start = i
    return "".join(out)


def attributes(style: str) -> str:
    """Fill and weight of a rich style."""
    words = style.split()
    fill = next((COLOURS[word] for word in words if word in COLOURS), DIM if "dim" in words else "")
    text = f' fill="{fill}"' if fill else ""
    return text + (' font-weight="bold"' if "bold" in words else "")


def render(session: list[tuple[str, list[Text]]]) -> str:
    """The whole session as an SVG."""
    rows: list[tuple[float, str]] = []  # when, what
    now = 0.4
    for command, lines in session:
        prompt = f'<tspan fill="{COLOURS["green"]}">$</tspan> '
        rows.append((now, prompt + escape(command)))
        now += TYPING
        for line in lines:
            rows.append((now, spans(line)))
            now += EACH
        rows.append((now, ""))
        now += PAUSE
    width, height = COLUMNS * CHAR + 2 * PAD, TOP + len(rows) * LINE + PAD
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        "<title>A session with caffeio</title><style>",
        f"text{{font:12px ui-monospace,Menlo,Consolas,monospace;fill:{INK};white-space:pre}}",
        "@media (prefers-reduced-motion:no-preference){.r{opacity:0;animation:s 1ms forwards}}",
        "@keyframes s{to{opacity:1}}</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="9" fill="#0d1117"/>',
    ]
    out += [
        f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="{colour}"/>'
        for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    ]
    out += [
        f'<text class="r" style="animation-delay:{when:.2f}s" x="{PAD}" '
        f'y="{TOP + LINE * (i + 0.8):.0f}" xml:space="preserve">{text}</text>'
        for i, (when, text) in enumerate(rows)
        if text
    ]
    return "\n".join([*out, "</svg>"]) + "\n"


def main(target: str, *commands: str) -> None:
    """Run the commands and write the picture."""
    Path(target).write_text(render([(c, output(c)) for c in commands]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
