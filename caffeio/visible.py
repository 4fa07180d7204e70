"""Text of unknown files made harmless to show: what is invisible or steers a terminal is escaped.

Names in nets and folders are data. An escape sequence in one could clear the screen, rename the
window or hide a line; a bidirectional control could show `evil.txt` as `txt.live`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

# C0 and C1 controls and DEL; bidirectional controls; separators that break lines; characters
# without a width; tags; lone surrogates (bytes that were no UTF-8); characters that XML forbids.
_CONTROLS = "\x00-\x1f"
_HIDDEN = (
    "\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\uffff\ud800-\udfff\U000e0000-\U000e01ef"
)
_CONTROLS_IN_LINES = "\x00-\x08\x0b-\x1f"
_NAMES = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def visible(text: str) -> str:
    """The text with escapes in place of hidden characters, line breaks too: for one line."""
    return _hidden(_CONTROLS).sub(_escape, text)


def visible_lines(text: str) -> str:
    """As `visible`, but line breaks and tabs stay."""
    return _hidden(_CONTROLS_IN_LINES).sub(_escape, text)


@cache
def _hidden(controls: str) -> re.Pattern[str]:
    """Match one hidden character; compiled when a text is first shown."""
    return re.compile(f"[{controls}{_HIDDEN}]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in _NAMES:
        return _NAMES[character]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escaped(text: str) -> str:
    """Text for HTML and SVG: nothing hidden, no markup."""
    import html

    return html.escape(visible_lines(text))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that reads back as the same value, without a hidden character in it."""
    import json

    from caffeio._json import to_json

    text = to_json(value, indent=indent)
    return _hidden(_CONTROLS_IN_LINES).sub(lambda match: json.dumps(match[0])[1:-1], text)
