"""Random resizing of NVIDIA's fork, as its code does it: what is drawn, and to what size.

Source: NVIDIA src/caffe/data_transformer.cpp (image_random_resize). Arithmetic is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from caffeio.data.transform.augment import Cut, pick
from caffeio.data.transform.image import INTERPOLATION, check_size
from caffeio.proto import caffe_pb2 as pb

Word = Callable[[], int]
_F = np.float32


def nvidia_resizes(param: pb.TransformationParameter) -> bool:
    """Whether any field of NVIDIA's random resizing is used."""
    fields = (
        "rand_resize_ratio_lower", "rand_resize_ratio_upper", "vertical_stretch_lower",
        "vertical_stretch_upper", "horizontal_stretch_lower", "horizontal_stretch_upper",
    )  # fmt: skip
    sizes = param.img_rand_resize_lower or param.img_rand_resize_upper
    return bool(sizes) or any(param.HasField(field) for field in fields)


def _between(next_word: Word, a: float, b: float) -> np.float32:
    """A float32 in [a, b]; no draw if they are equal."""
    if a == b:
        return _F(a)
    low, high = min(a, b), max(a, b)
    return _F(low + (high - low) * next_word() / 4294967295.0)


def nvidia_size(
    height: int, width: int, p: pb.TransformationParameter, next_word: Word
) -> tuple[int, int]:
    """Height and width to which NVIDIA's image_random_resize brings an image."""
    size = min(height, width)
    if p.img_rand_resize_lower and p.img_rand_resize_upper:
        steps = p.img_rand_resize_upper - p.img_rand_resize_lower + 1
        size = p.img_rand_resize_lower + pick(next_word, steps)
    scale = _F(size) / _F(min(height, width))
    new_h, new_w = scale * _F(height), scale * _F(width)
    if p.rand_resize_ratio_lower >= 1 and p.rand_resize_ratio_upper > 1:
        factor = _between(next_word, p.rand_resize_ratio_lower, p.rand_resize_ratio_upper)
        if new_w > new_h or (new_w == new_h and next_word() % 2):
            new_w = new_h * factor
        else:
            new_h = new_w * factor
    if p.vertical_stretch_lower > 0 and p.vertical_stretch_upper > 0:
        new_h = new_h * _between(next_word, p.vertical_stretch_lower, p.vertical_stretch_upper)
    if p.horizontal_stretch_lower > 0 and p.horizontal_stretch_upper > 0:
        new_w = new_w * _between(next_word, p.horizontal_stretch_lower, p.horizontal_stretch_upper)
    rows = max(p.crop_size, math.floor(float(new_h) + 0.5))
    cols = max(p.crop_size, math.floor(float(new_w) + 0.5))
    if not p.allow_upscale:
        rows, cols = min(rows, height), min(cols, width)
    return rows, cols


def nvidia_resize(height: int, width: int, p: pb.TransformationParameter, next_word: Word) -> Cut:
    """Plan NVIDIA's resize: shorter side, aspect ratio, stretches; never beneath crop_size."""
    rows, cols = nvidia_size(height, width, p, next_word)
    down = rows <= height and cols <= width
    algorithm = p.interpolation_algo_down if down else p.interpolation_algo_up
    name = pb.TransformationParameter.InterpolationAlgo.Name(algorithm).removeprefix("INTER_")
    check_size(cols, rows)
    return Cut(0, 0, width, height, (cols, rows), INTERPOLATION[name])
