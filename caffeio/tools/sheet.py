"""A sheet of samples: pictures side by side with their labels, one row a class if there are few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from caffeio.data.records.annotated_datum import Box
from caffeio.data.records.datum import Datum
from caffeio.data.transform.image import decode
from caffeio.tools.db_stats import CLASSES, DbStats, read_sample
from caffeio.tools.tiles import PAPER, Picture, to_bgr

CELL, GAP, TEXT = 96, 6, 16  # pixels
_INK = (40, 40, 40)
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
        _write(out, title, GAP, top + CELL // 2 + 4)
        for j, (text, picture) in enumerate(cells):
            x = left + j * (CELL + GAP)
            _put(out, picture, x, top)
            _write(out, _cut(text), x, top + CELL + 12)
    return out


def draw_boxes(picture: Picture, boxes: Sequence[Box], names: Mapping[int, str]) -> Picture:
    """A copy with boxes (corners in units of the picture's size) and their labels' names."""
    out = picture.copy()
    height, width = out.shape[:2]
    thick = max(1, round(min(height, width) / 150))
    for box in boxes:
        colour = _COLOURS[box.group_label % len(_COLOURS)]
        corners = np.clip((box.xmin, box.ymin, box.xmax, box.ymax), -1, 2)
        x0, y0, x1, y1 = np.rint(corners * (width, height, width, height)).astype(int).tolist()
        cv2.rectangle(out, (x0, y0), (x1, y1), colour, thick, cv2.LINE_AA)
        if names.get(box.group_label):
            place = (max(x0 + thick, 2), max(y0 - 3, 11))
            cv2.putText(out, _ascii(names[box.group_label]), place, cv2.FONT_HERSHEY_SIMPLEX,
                        0.4, colour, 1, cv2.LINE_AA)  # fmt: skip
    return out


def _drawn(record: bytes, annotated: bool) -> Picture:
    datum, boxes = read_sample(record, annotated)[:2]
    return draw_boxes(picture_of(datum), boxes, {})


def picture_of(datum: Datum) -> Picture:
    """A Datum's values as a picture. Raises DataError."""
    if not datum.encoded:
        return to_bgr(datum.pixels())
    image = decode(datum.data)
    return to_bgr(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))


def _put(out: Picture, picture: Picture, x: int, y: int) -> None:
    height, width = picture.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_NEAREST if scale >= 2 else cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, size, interpolation=how)
    x += (CELL - size[0]) // 2
    y += (CELL - size[1]) // 2
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


def _write(out: Picture, text: str, x: int, y: int) -> None:
    if text:
        cv2.putText(out, _ascii(text), (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
