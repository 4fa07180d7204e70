"""The upper rows of a JPEG, with the pixels that decoding all of it gives.

A decoder that is told a smaller height stops there. Left to the full decoder are files where that
would not be the same: progressive and arithmetic ones, several scans, restart markers, a missing
end. Format: ITU T.81, annex B.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

simplejpeg: Any
try:
    simplejpeg = import_module("simplejpeg")
except ImportError:  # pragma: no cover - a speed-up, not a need
    simplejpeg = None

Buffer = bytes | bytearray | memoryview
_HEAD = 1 << 16  # bytes; a longer head is left to the full decoder
_SAVED = 24  # rows; fewer are not worth the copy of the file
# Arithmetic and progressive frames, DNL, and markers that have no size.
_OTHERS = {0x01, 0xCC, 0xDC, 0xDE, 0xDF, *range(0xC2, 0xDA)} - {0xC4}
_LEFT_OVER = "extraneous bytes before marker"  # what follows the rows that were decoded


class Frame(NamedTuple):
    """The head of a plain JPEG: Huffman-coded, sequential, one scan, no restarts."""

    at: int  # where its marker stands
    height: int
    width: int
    channels: int  # 1 or 3
    unit: int  # rows that are coded together
    colours: str = ""  # "Gray" or "YCbCr"; empty: the decoder must tell


def plain_frame(data: Buffer) -> Frame | None:
    """The frame of a JPEG whose upper rows can be decoded alone; None for all others."""
    if simplejpeg is None or bytes(data[:2]) != b"\xff\xd8" or bytes(data[-2:]) != b"\xff\xd9":
        return None
    try:
        return _walk(bytes(data[:_HEAD]))
    except IndexError:
        return None


def _walk(head: bytes) -> Frame | None:
    """Walk the markers up to the one scan, which has all channels."""
    frame, at, jfif = None, 2, False
    while head[at] == 0xFF:
        marker, size = head[at + 1], head[at + 2] << 8 | head[at + 3]
        if marker == 0xDA:
            if frame is None or head[at + 4] != frame.channels:
                return None
            colours = "Gray" if frame.channels == 1 else "YCbCr" if jfif else ""
            return frame._replace(colours=colours)
        # whatever an Adobe marker says: libjpeg's jdapimin.c, default_decompress_parms
        jfif = jfif or (marker == 0xE0 and size >= 16 and head[at + 4 : at + 9] == b"JFIF\0")
        restarts = marker == 0xDD and head[at + 4 : at + 6] != b"\0\0"
        if restarts or marker in _OTHERS or size < 2:
            return None
        if marker in (0xC0, 0xC1):
            frame = _frame(head, at) if frame is None else None
            if frame is None:
                return None
        at += 2 + size
    return None


def _frame(head: bytes, at: int) -> Frame | None:
    height, width = head[at + 5] << 8 | head[at + 6], head[at + 7] << 8 | head[at + 8]
    channels = head[at + 9]
    if head[at + 4] != 8 or channels not in (1, 3) or not height or not width:
        return None
    tall = max(head[at + 11 + 3 * i] & 15 for i in range(channels))
    return Frame(at, height, width, channels, 8 * tall)


def decode_top(data: Buffer, frame: Frame, rows: int, colorspace: str) -> NDArray[np.uint8] | None:
    """Decode `rows` rows or some more, (rows, W, C); None where all must be decoded.

    colorspace: "BGR" or "GRAY".
    """
    # one row more: the last one's colours are mixed with those of the next unit
    height = -(-(rows + 1) // frame.unit) * frame.unit
    if frame.height - height < _SAVED:
        return None
    cut = bytearray(data)
    cut[frame.at + 5 : frame.at + 7] = height.to_bytes(2, "big")
    out = np.empty((height, frame.width, 1 if colorspace == "GRAY" else 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(cut, colorspace=colorspace, buffer=out)
    except ValueError as error:  # the first warning; this one comes behind the last row
        if _LEFT_OVER not in str(error):
            return None
    return out
