"""A data set that can be learned and needs no download: rendered letters as JPEGs in an LMDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum

CLASSES = "ABCDEFGHJKLMNPRSTUXY"
SIZE = 40  # pixels a side
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)  # fmt: skip


def render(label: int, rng: np.random.Generator, letters: str = CLASSES) -> np.ndarray:
    """One letter (class `label` of `letters`), bright on a dark and noisy ground.

    Font, place, angle and colours are random. Returns uint8 (SIZE, SIZE, 3), BGR.
    """
    ground = rng.integers(0, 110, 3)
    ink = rng.integers(130, 256, 3)
    image = np.broadcast_to(ground, (SIZE, SIZE, 3)).astype(np.uint8, order="C")
    font = _FONTS[rng.integers(len(_FONTS))]
    scale = float(rng.uniform(0.8, 1.15))
    thickness = int(rng.integers(1, 4))
    (width, height), _ = cv2.getTextSize(letters[label], font, scale, thickness)
    corner = (int((SIZE - width) / 2), int((SIZE + height) / 2))
    colour = tuple(int(c) for c in ink)
    cv2.putText(image, letters[label], corner, font, scale, colour, thickness, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), float(rng.uniform(-20, 20)), 1)
    turn[:, 2] = turn[:, 2] + rng.uniform(-4, 4, 2)
    turned = cv2.warpAffine(image, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    noise = rng.normal(0, rng.uniform(5, 30), turned.shape)
    pixels: np.ndarray = np.clip(turned + noise, 0, 255)
    return pixels.astype(np.uint8)


def make_lmdb(path: Path, count: int, seed: int) -> None:
    """Write `count` JPEG records with equally many of each class, in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))

    def records() -> Iterator[tuple[bytes, bytes]]:
        for i, label in enumerate(labels):
            jpeg = cv2.imencode(".jpg", render(int(label), rng))[1].tobytes()
            yield f"{i:08d}".encode(), encode_datum(data=jpeg, label=int(label), encoded=True)

    write_lmdb(path, records())
