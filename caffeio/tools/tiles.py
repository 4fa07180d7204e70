"""Arrays as pictures, side by side, and as PNG files; no OpenCV, which takes long to load."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3), BGR
PAPER = 250
GAP = 8  # pixels between pictures: less cannot be told from white pixels in them


def filter_sheet(values: NDArray[Any]) -> Picture:
    """Filters (N, C, H, W) side by side, each stretched to its own range, in a square."""
    return tiles([to_bgr(np.asarray(one, np.float32)) for one in values])


def tiles(pictures: Sequence[Picture], *, side: int = 0, width: int = 560) -> Picture:
    """Pictures of one size in rows, enlarged by whole numbers so that the whole is `width` wide.

    side: how many stand in a row; by default as many as there are rows.
    """
    side = side or max(1, round(len(pictures) ** 0.5 + 0.49))
    height, wide = pictures[0].shape[:2]
    scale = max(1, (width // side - GAP) // wide)
    rows = -(-len(pictures) // side)
    cell_h, cell_w = height * scale + GAP, wide * scale + GAP
    out = np.full((rows * cell_h - GAP, side * cell_w - GAP, 3), PAPER, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // side * cell_h, i % side * cell_w
        large = picture.repeat(scale, 0).repeat(scale, 1)
        out[y : y + large.shape[0], x : x + large.shape[1]] = large
    return out


def to_bgr(values: NDArray[Any]) -> Picture:
    """Values (C, H, W) of any type as a picture: floats are stretched, odd channels averaged."""
    image = values.transpose(1, 2, 0)
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float64))
        low, high = float(image.min()), float(image.max())
        image = np.rint((image - low) * (255 / (high - low or 1))).astype(np.uint8)
    if image.shape[2] not in (3, 4):
        flat = image.mean(2) if image.shape[2] > 1 else image[:, :, 0]
        return np.ascontiguousarray(np.repeat(flat.astype(np.uint8)[:, :, None], 3, 2))
    return np.ascontiguousarray(image[:, :, :3])


def png(picture: Picture) -> bytes:
    """A picture as the bytes of a PNG file (PNG 1.2: RGB, no filters)."""
    height, width = picture.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter's number
    rows[:, 1:] = picture[:, :, ::-1].reshape(height, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        out += (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )
    return out
