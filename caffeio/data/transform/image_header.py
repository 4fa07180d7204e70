"""The size of a picture by its header, and the limit on it: checked before memory is taken.

A file of 100 bytes can claim 65500 x 65500 pixels, which are 12 GB. Formats: ITU T.81 (JPEG),
PNG 1.2, GIF89a, the WebP container, Netpbm, TIFF 6.0, Windows bitmaps.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from caffeio.errors import DataError

Buffer = bytes | bytearray | memoryview

MAX_PIXELS = 178_956_970  # where Pillow refuses (twice its MAX_IMAGE_PIXELS); see set_max_pixels
_NETPBM = re.compile(rb"P[1-7]\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s")
_HEAD = 1 << 20  # bytes; metadata before a JPEG's size is rarely longer

_limit = MAX_PIXELS


def set_max_pixels(limit: int) -> int:
    """Let pictures have as many pixels (width x height) in this process; returns the old limit."""
    global _limit
    before, _limit = _limit, limit
    return before


def within_limit(height: int, width: int) -> bool:
    """Whether a picture of this size is not too large."""
    return height * width <= _limit


def check_pixels(data: Buffer) -> None:
    """Raise DataError for a picture that claims more pixels than the limit."""
    size = picture_size(data)
    if size is not None and not within_limit(*size):
        raise DataError(
            f"the picture claims {size[1]} x {size[0]} pixels (width, height); "
            f"{_limit:,} pixels are the limit (--max-pixels)"
        )


def picture_size(data: Buffer) -> tuple[int, int] | None:
    """(height, width) that the header of an image file tells; None if that is not known."""
    head = memoryview(data)[:_HEAD]
    start = bytes(head[:4])
    for magic, read in _READERS:
        if start.startswith(magic):
            try:
                return read(head)
            except (struct.error, IndexError):
                return None
    return None


def header_shape(data: Buffer, color: bool | None) -> tuple[int, int, int] | None:
    """(C, H, W) of an image file as OpenCV decodes it; None where only decoding tells.

    `color`: it is decoded in colour (True), in gray (False), or as it is (None).
    """
    size, head = picture_size(data), bytes(data[: 1 << 16])
    jpeg, png = head[:2] == b"\xff\xd8", head[:8] == b"\x89PNG\r\n\x1a\n"
    if (
        size is None
        or not (jpeg or png)
        or (color is not None and (b"Exif" in head or b"eXIf" in head))
    ):
        return None  # EXIF may turn it
    if color is not None:
        return (3 if color else 1, *size)
    if png:
        depth, kind = head[24], head[25]
        channels = {0: 1, 2: 3, 6: 4}.get(kind) if depth == 8 and b"tRNS" not in head else None
    else:
        channels = {1: 1, 3: 3}.get(_jpeg_components(memoryview(data)[:_HEAD]))
    return (channels, *size) if channels else None


def _jpeg_components(head: memoryview) -> int:
    at = _jpeg_frame(head)
    return head[at + 9] if at is not None else 0


def _png(head: memoryview) -> tuple[int, int] | None:
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def _jpeg(head: memoryview) -> tuple[int, int] | None:
    at = _jpeg_frame(head)
    if at is None:
        return None
    height, width = struct.unpack(">HH", head[at + 5 : at + 9])
    return height, width


def _jpeg_frame(head: memoryview) -> int | None:
    """Walk the markers up to the frame header."""
    at = 2
    while at + 9 < len(head):
        marker = head[at + 1]
        if head[at] != 0xFF:
            at += 1  # decoders skip what stands between markers
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return at
        elif marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _gif(head: memoryview) -> tuple[int, int] | None:
    width, height = struct.unpack("<HH", head[6:10])
    return height, width


def _bmp(head: memoryview) -> tuple[int, int] | None:
    if head[14] == 12:  # OS/2
        width, height = struct.unpack("<HH", head[18:22])
    else:
        width, height = struct.unpack("<ii", head[18:26])
    return abs(height), abs(width)


def _webp(head: memoryview) -> tuple[int, int] | None:
    kind = bytes(head[12:16]) if len(head) >= 30 else b""
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(head[i : i + 3], "little") for i in (27, 24))  # type: ignore[return-value]
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _netpbm(head: memoryview) -> tuple[int, int] | None:
    found = _NETPBM.match(bytes(head[:4096]))
    return (int(found[2]), int(found[1])) if found else None


def _tiff(head: memoryview) -> tuple[int, int] | None:
    """The first directory's ImageWidth (256) and ImageLength (257)."""
    order = "<" if head[0] == 0x49 else ">"
    at = struct.unpack(order + "I", head[4:8])[0]
    sizes = {}
    for i in range(struct.unpack(order + "H", head[at : at + 2])[0]):
        entry = at + 2 + 12 * i
        tag, kind = struct.unpack(order + "HH", head[entry : entry + 4])
        if tag in (256, 257):
            form = order + ("H" if kind == 3 else "I")
            sizes[tag] = struct.unpack_from(form, head, entry + 8)[0]
    return (sizes[257], sizes[256]) if len(sizes) == 2 else None


_READERS: tuple[tuple[bytes, Callable[[memoryview], tuple[int, int] | None]], ...] = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG", _png),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"P", _netpbm),
)
