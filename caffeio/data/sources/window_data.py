"""The WindowData layer of R-CNN: windows of images, foreground and background.

Source: src/caffe/layers/window_data_layer.cpp; arithmetic in float32 as there. `scale` is that of
window_data_param; mean, crop_size and mirror are transform_param's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.boost_random import CaffeRng
from caffeio.data.base import SourceContext, batch_of
from caffeio.data.batch import Result, SampleTask, Slot
from caffeio.data.draws import NO_DRAWS, LayerSeeds, SampleRandom
from caffeio.data.loader import LoaderSource
from caffeio.data.transform.image import COLOR, Pixels, decode, read_image, resize
from caffeio.data.transform.normalize import Image
from caffeio.errors import DataError
from caffeio.proto.io.regular import read_regular

_F = np.float32


class Box(NamedTuple):
    """A window: the image's index, its class (0: background), corners, both ends included."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int


@dataclass
class Windows:
    """What a window file lists."""

    paths: list[str]
    channels: int
    foreground: list[Box]
    background: list[Box]
    heads: list[tuple[int, str, tuple[int, int, int], int]]  # images: index, path, C H W, windows


def parse_windows(text: str, fg_threshold: float, bg_threshold: float) -> Windows:
    """Read blocks of `# index, path, channels, height, width, count`, then the windows.

    A window is `class overlap x1 y1 x2 y2`: foreground if overlap >= fg_threshold, background if
    it is < bg_threshold, else not used. Raises DataError.
    """
    words = _Words(text)
    out = Windows([], 0, [], [], [])
    blank = ""
    try:
        for hashtag in words:
            if hashtag != "#":
                raise DataError(f"window file, line {words.line}: expected '#', found {hashtag!r}")
            index = int(next(words))
            out.paths.append(next(words))
            blank = "; paths with blanks cannot be read (Caffe splits at blanks)"
            out.channels = int(next(words))
            height, width = int(next(words)), int(next(words))
            count, blank = int(next(words)), ""
            sizes = (out.channels, height, width)
            out.heads.append((index, out.paths[-1], sizes, count))
            for _ in range(count):
                _add_window(out, index, words, _F(fg_threshold), _F(bg_threshold))
    except StopIteration:
        raise DataError("window file: it ends within a block") from None
    except ValueError:
        raise DataError(
            f"window file, line {words.line}: expected a number, found {words.word!r}{blank}"
        ) from None
    if not out.paths:
        raise DataError("window file is empty")
    for box in (*out.foreground, *out.background):
        if not 0 <= box.image < len(out.paths):
            raise DataError(f"window file: a window of image {box.image}, but images are numbered "
                            f"0 to {len(out.paths) - 1}")  # fmt: skip
    return out


class _Words:
    """The words of a text, and the line that the last one stands in."""

    def __init__(self, text: str) -> None:
        self.line, self.word = 0, ""
        self._words = self._split(text)

    def _split(self, text: str) -> Iterator[str]:
        for number, line in enumerate(text.split("\n"), 1):
            for word in line.split():
                self.line, self.word = number, word
                yield word

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._words)


def _add_window(
    out: Windows, index: int, words: Iterator[str], foreground: np.float32, background: np.float32
) -> None:
    label, overlap = int(next(words)), _F(next(words))
    corners = [int(next(words)) for _ in range(4)]
    if overlap >= foreground:
        if label <= 0:
            raise DataError(f"window file: a foreground window of class {label}, which must be > 0")
        out.foreground.append(Box(index, label, *corners))
    elif overlap < background:
        out.background.append(Box(index, 0, *corners))


class Warp(NamedTuple):
    """A part of an image (corners included), the size it is warped to, and where it is put."""

    x1: int
    y1: int
    x2: int
    y2: int
    width: int
    height: int
    left: int
    top: int


def _round(value: float | np.float32) -> int:
    """C's round: halves away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def warp_of(
    box: Box, shape: tuple[int, int], crop: int, pad: int, square: bool, mirror: bool
) -> Warp:
    """Where a window with context lies in an image of this (height, width), and in the crop."""
    x1, y1, x2, y2 = box[2:]
    if pad <= 0 and not square:
        return Warp(x1, y1, x2, y2, crop, crop, 0, 0)
    scale = _F(crop) / _F(crop - 2 * pad)
    half_height, half_width = _F((y2 - y1 + 1) / 2.0), _F((x2 - x1 + 1) / 2.0)
    center_x, center_y = _F(x1) + half_width, _F(y1) + half_height
    if square:
        half_width = half_height = max(half_width, half_height)
    x1, x2 = _round(center_x - half_width * scale), _round(center_x + half_width * scale)
    y1, y2 = _round(center_y - half_height * scale), _round(center_y + half_height * scale)
    scale_x, scale_y = _F(crop) / _F(x2 - x1 + 1), _F(crop) / _F(y2 - y1 + 1)
    over = [max(0, -x1), max(0, -y1), max(0, x2 - shape[1] + 1), max(0, y2 - shape[0] + 1)]
    x1, y1, x2, y2 = x1 + over[0], y1 + over[1], x2 - over[2], y2 - over[3]
    width = _round(_F(x2 - x1 + 1) * scale_x)
    height = _round(_F(y2 - y1 + 1) * scale_y)
    left = _round(_F(over[2 if mirror else 0]) * scale_x)
    top = _round(_F(over[1]) * scale_y)
    return Warp(x1, y1, x2, y2, min(width, crop - left), min(height, crop - top), left, top)


class WindowSource(LoaderSource):
    """Batches of warped windows (N, C, crop, crop) and their classes (N,).

    Of every batch the last int(batch_size * fg_fraction) are foreground; drawn with replacement.
    """

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        p = self.param = layer.param.window_data_param
        self.batch_size = batch_of(layer, p.batch_size, "window_data_param")
        self.transformer = layer.transformer()
        self.crop = self.transformer.crop
        path = layer.find(p.source, "window_data_param.source")
        try:
            text = layer.read_text(path, "window_data_param.source")
            self.windows = parse_windows(text, p.fg_threshold, p.bg_threshold)
        except DataError as error:
            raise layer.error(f"{path!r}: {error.message}", "window_data_param.source") from None
        for kind in ("foreground", "background"):
            layer.check(getattr(self.windows, kind), f"{path!r} lists no {kind} window")
        self.scale = _F(p.scale)
        self._cache: dict[int, bytes] = {}
        self._number = 0
        self._exact: CaffeRng | None = None
        self.random = SampleRandom(2, self.key)
        self.item_shape = (self.windows.channels, self.crop, self.crop)
        self.start()
        self.delivery.bare = False  # what lies outside of the image is 0 after the mean

    def use_seeds(self, draws: LayerSeeds, thread: CaffeRng) -> None:
        """Repeat real Caffe's choice of windows."""
        self.layer.check(self._number == 0, "cannot be seeded after its first batch")
        if draws.windows is not None:
            self._exact = CaffeRng(draws.windows)

    def plan(self) -> list[SampleTask]:
        """Choose the windows of the next batch."""
        o = self.layer.options
        foreground = int(_F(self.batch_size) * _F(self.param.fg_fraction))
        numbers = [(self._number + i) * o.world + o.rank for i in range(self.batch_size)]
        streams = [] if self._exact else self.random.batch(numbers)
        jobs = []
        for i, number in enumerate(numbers):
            word = self._exact.raw if self._exact else streams[i].next_word
            kind = self.windows.foreground
            if i < self.batch_size - foreground:
                kind = self.windows.background
            box = kind[word() % len(kind)]
            mirror = self.transformer.mirror and word() % 2 != 0
            name = self.windows.paths[box.image]
            jobs.append(SampleTask((box, mirror), NO_DRAWS, name, number, box.label))
        self._number += self.batch_size
        return jobs

    def image(self, job: SampleTask) -> tuple[Image, float]:
        """The whole image, in colour."""
        index = job.record[0].image
        path = self.layer.join(self.param.root_folder, self.windows.paths[index])
        if not self.param.cache_images:
            return Image(read_image(path, color=True), False), job.label
        if index not in self._cache:
            if not os.path.exists(path):
                raise DataError(f"could not load {path!r}")
            self._cache[index] = read_regular(path)
        return Image(decode(self._cache[index], COLOR), False), job.label

    def load(self, job: SampleTask, slot: Slot, index: int) -> Result:
        """Warp the window into row `index`; what lies outside of the image is 0."""
        image, slot.label_rows[index] = self.image(job)
        box, mirror = job.record
        pixels = image.pixels
        square = self.param.crop_mode == "square"
        warp = warp_of(
            box,
            (pixels.shape[0], pixels.shape[1]),
            self.crop,
            self.param.context_pad,
            square,
            mirror,
        )
        x1, y1, x2, y2 = warp[:4]
        if not (0 <= x1 <= x2 < pixels.shape[1] and 0 <= y1 <= y2 < pixels.shape[0]):
            raise DataError(f"window {tuple(box[2:])} does not lie in an image of "
                            f"{pixels.shape[1]} x {pixels.shape[0]}")  # fmt: skip
        part = resize(pixels[y1 : y2 + 1, x1 : x2 + 1], warp.width, warp.height)
        part = np.asarray(cv2.flip(part, 1)) if mirror else part
        out = slot.rows[index].transpose(2, 0, 1) if slot.last else slot.rows[index]
        out.fill(0)
        rows = slice(warp.top, warp.top + warp.height)
        cols = slice(warp.left, warp.left + warp.width)
        out[:, rows, cols] = self._normalize(part, rows, cols)
        return Result(slot.item)

    def _normalize(self, part: Pixels, rows: slice, cols: slice) -> NDArray[np.float32]:
        values = part.transpose(2, 0, 1).astype(_F)
        mean = self.transformer.mean
        if mean is not None:
            off = (mean.shape[2] - self.crop) // 2  # of rows, too
            r = slice(rows.start + off, rows.stop + off)
            c = slice(cols.start + off, cols.stop + off)
            cut = mean[:, r, c]
            if off < 0 or cut.shape != values.shape:
                raise DataError(f"the mean image {mean.shape} is smaller than the crop {self.crop}")
            values -= cut
        elif len(self.transformer.means):
            values -= self.transformer.means_of(len(values))[:, None, None]
        return values * self.scale

    def describe(self, job: SampleTask) -> str:
        """The image and the window."""
        return f"image {job.name!r}, window {tuple(job.record[0][2:])}"
