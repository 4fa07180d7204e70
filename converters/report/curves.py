"""Curves as an SVG element of a page: no script, no library, colours of the page."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from caffeio.converters.report.model import short_float
from caffeio.visible import escaped

_WIDE, _HIGH = 720, 220
_LEFT, _TOP, _BOTTOM, _RIGHT = 64, 24, 28, 12
_MOST = 360  # points that a curve is drawn with, at least; more cannot be seen


def svg(title: str, curves: Sequence[tuple[str, Sequence[float], str]]) -> str:
    """A picture of curves, each with a name, its values and a class that colours it."""
    finite = [v for _, values, _ in curves for v in values if math.isfinite(v)]
    if not finite:
        return ""
    longest = max(len(values) for _, values, _ in curves)
    low, high = min(0.0, *finite), max(*finite, 0.0)
    high = high if high > low else low + 1.0
    out = [
        f'<svg class="curves" role="img" aria-label="{escaped(title)}" viewBox="0 0 {_WIDE} '
        + f'{_HIGH}" width="{_WIDE}" height="{_HIGH}">'
    ]
    out += _axes(longest, low, high)
    for i, (name, values, kind) in enumerate(curves):
        for part in _lines(values, longest, low, high):
            out.append(f'<polyline class="{kind}" fill="none" stroke="currentColor" '
                       f'stroke-width="1.5" points="{part}"/>')  # fmt: skip
        out.append(f'<text class="{kind}" x="{_LEFT + i * 320}" y="14">{escaped(name)}</text>')
    return "".join([*out, "</svg>"])


def _x(i: float, longest: int) -> float:
    return _LEFT + (_WIDE - _LEFT - _RIGHT) * i / max(longest - 1, 1)


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (_HIGH - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))


def _axes(longest: int, low: float, high: float) -> list[str]:
    out = []
    for value in ticks(low, high):
        y = _y(value, low, high)
        out.append(f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                   'stroke="currentColor" stroke-opacity=".15"/>')  # fmt: skip
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                   f"{short_float(float(f'{value:.3g}'))}</text>")  # fmt: skip
    for at in map(round, ticks(0, max(longest - 1, 1), least=1)):
        anchor = "start" if at == 0 else "end" if at == longest - 1 else "middle"
        out.append(f'<text x="{_x(at, longest):.1f}" y="{_HIGH - 8}" text-anchor="{anchor}">'
                   f"{at:,}</text>")  # fmt: skip
    return out


def ticks(low: float, high: float, *, least: float = 0.0) -> list[float]:
    """Two to six round numbers from `low` to `high`: multiples of 1, 2 or 5 x 10^n.

    `least`: the smallest distance between two of them.
    """
    rough = max(high / 5 - low / 5, least, sys.float_info.min)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * i for i in (1, 2, 5, 10) if power * i >= rough * 0.999999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _lines(values: Sequence[float], longest: int, low: float, high: float) -> list[str]:
    """The points of a curve, in pieces between values that are not finite.

    Of a long curve the lowest and the highest value of each stretch are drawn, so no jump is lost.
    """
    step = max(len(values) // _MOST, 1)
    parts: list[list[str]] = [[]]
    for start in range(0, len(values), step):
        stretch = range(start, min(start + step, len(values)))
        known = [i for i in stretch if math.isfinite(values[i])]
        if len(known) < len(stretch):
            parts.append([])
        chosen = {known[0], known[-1], min(known, key=values.__getitem__),
                  max(known, key=values.__getitem__)} if known else set()  # fmt: skip
        parts[-1] += [
            f"{_x(i, longest):.1f},{_y(values[i], low, high):.1f}" for i in sorted(chosen)
        ]
    return [" ".join(part) for part in parts if part]
