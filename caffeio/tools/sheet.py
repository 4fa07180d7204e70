"""A sheet of samples: pictures side by side with their labels, one row a class if there are few."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from caffeio.data.records.annotated_datum import AnnotatedBox
from caffeio.data.records.datum import Datum
from caffeio.data.transform.image import decode
from caffeio.tools.db_stats import CLASSES, DbStats, read_sample
from caffeio.tools.tiles import PAPER, Picture, to_bgr

CELL, GAP, TEXT = 96, 6, 16  # pixels
_COLOURS = ((40, 160, 40), (40, 40, 220), (220, 120, 30), (30, 150, 220), (160, 60, 160))


def sheet_of(found: DbStats, names: Sequence[str] = (), columns: int = 12) -> Picture:
    """The kept records of a database as one picture; `names` are those of the labels, from 0 on."""
    labels = sorted(found.samples)
    rows: list[tuple[str, list[tuple[str, bytes]]]] = []
    if len(labels) <= CLASSES:
        for label in labels:
            cells = [("", record) for record in found.samples[label][:columns]]
            rows.append((_name(label, names), cells))
    else:
        every = [(_name(label, names), found.samples[label][0]) for label in labels]
        rows = [("", every[i : i + columns]) for i in range(0, len(every), columns)]
    return grid([
        (title, [(text, _drawn(record, found.annotated)) for text, record in cells])
        for title, cells in rows
    ])  # fmt: skip


def grid(rows: Sequence[tuple[str, Sequence[tuple[str, Picture]]]]) -> Picture:
    """Pictures of any size in cells of one size: rows of (title, (caption, picture)...)."""
    columns = max((len(cells) for _, cells in rows), default=0)
    titled = max((_width(title) for title, _ in rows), default=0)
    left = titled + 2 * GAP if titled else GAP
    captions = any(text for _, cells in rows for text, _ in cells)
    height = CELL + GAP + (TEXT if captions else 0)
    out = np.full((GAP + len(rows) * height, left + columns * (CELL + GAP), 3), PAPER, np.uint8)
    for i, (title, cells) in enumerate(rows):
        top = GAP + i * height
        _write_picture(out, title, GAP, top + CELL // 2 + 4)
        for j, (text, picture) in enumerate(cells):
            x = left + j * (CELL + GAP)
            _put(out, picture, x, top)
            _write_picture(out, _cut(text), x, top + CELL + 12)
    return out


def draw_boxes(
    picture: Picture, boxes: Sequence[AnnotatedBox], texts: Sequence[str] = ()
) -> Picture:
    """A copy with boxes (corners in units of the picture's size), each with its text, if any."""
    out = picture.copy()
    height, width = out.shape[:2]
    thick = max(1, round(min(height, width) / 150))
    for i, box in enumerate(boxes):
        colour = _COLOURS[box.group_label % len(_COLOURS)]
        corners = np.clip(np.nan_to_num((box.xmin, box.ymin, box.xmax, box.ymax)), -1, 2)
        x0, y0, x1, y1 = np.rint(corners * (width, height, width, height)).astype(int).tolist()
        cv2.rectangle(out, (x0, y0), (x1, y1), colour, thick, cv2.LINE_AA)
        if i < len(texts):
            _tag(out, texts[i], x0, y0, colour)
    return out


def _tag(out: Picture, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """White text on the box's colour, above its corner or, at the upper edge, inside."""
    x, y = max(x, 0), y if y >= 15 else y + 15
    cv2.rectangle(out, (x, y - 15), (x + _width(text) + 6, y), colour, -1)
    _write_picture(out, text, x + 3, y - 4, (255, 255, 255))


def headed(
    pictures: Sequence[Picture], bars: Sequence[tuple[str, float]], below: Picture, side: int
) -> Picture:
    """Pictures of `side` pixels and bars of (text, share) above a sheet."""
    bar_width = 220
    wide = GAP + len(pictures) * (side + GAP) + (330 + bar_width if bars else 0)
    tallest = max((side * p.shape[0] // max(p.shape[:2]) for p in pictures), default=0)
    height = max(tallest, 24 * len(bars)) + 2 * GAP
    head = np.full((height, max(wide, below.shape[1]), 3), PAPER, np.uint8)
    for i, picture in enumerate(pictures):
        above = (side - side * picture.shape[0] // max(picture.shape[:2])) // 2
        frame = np.full((side, side, 3), PAPER, np.uint8)
        _put(frame, picture, 0, 0, side)
        shown = frame[above : above + height - 2 * GAP]
        left = GAP + i * (side + GAP)
        head[GAP : GAP + shown.shape[0], left : left + side] = shown
    x = 3 * GAP + len(pictures) * (side + GAP)
    for i, (text, share) in enumerate(bars):
        y = GAP + 20 + i * 24
        length = max(1, round(bar_width * min(max(share, 0.0), 1.0)))
        cv2.rectangle(head, (x, y - 11), (x + length, y + 3), _COLOURS[i > 0 and 2], -1)
        _write_picture(head, f"{share:.3f}  {text}", x + bar_width + GAP, y)
    width = max(head.shape[1], below.shape[1])
    parts = [_widened(part, width) for part in (head, below)]
    return np.concatenate(parts)


def _widened(picture: Picture, width: int) -> Picture:
    out = np.full((picture.shape[0], width, 3), PAPER, np.uint8)
    out[:, : picture.shape[1]] = picture
    return out


def _drawn(record: bytes, annotated: bool) -> Picture:
    datum, boxes = read_sample(record, annotated)[:2]
    return draw_boxes(picture_of(datum), boxes)


def picture_of(datum: Datum) -> Picture:
    """A Datum's values as a picture. Raises DataError."""
    if not datum.encoded:
        return to_bgr(datum.pixels())
    image = decode(datum.data)
    return to_bgr(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))


def _put(out: Picture, picture: Picture, x: int, y: int, cell: int = CELL) -> None:
    height, width = picture.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_NEAREST if scale >= 2 else cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, size, interpolation=how)
    x += (cell - size[0]) // 2
    y += (cell - size[1]) // 2
    out[y : y + size[1], x : x + size[0]] = small


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else str(label) if label >= 0 else "none"


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # the fonts of OpenCV have no more


def _width(text: str) -> int:
    if not text:
        return 0
    return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0])


def _cut(text: str) -> str:
    while text and _width(text) > CELL + GAP - 2:
        text = text[:-1]
    return text


def _write_picture(
    out: Picture, text: str, x: int, y: int, ink: tuple[int, int, int] = (40, 40, 40)
) -> None:
    if text:
        cv2.putText(out, _ascii(text), (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, ink, 1, cv2.LINE_AA)
