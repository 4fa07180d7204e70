"""Photometric distortion of SSD: brightness, contrast, saturation, hue, order of channels.

Source: sara-nl and SSD src/caffe/util/im_transforms.cpp (ApplyDistort). Draws, in order: which of
two orders of the steps, then for each step whether, and if so how much.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from caffeio.data.transform.augment import uniform
from caffeio.data.transform.image import Pixels
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Word = Callable[[], int]
_F = np.float32


def linear(image: Pixels, factor: float, offset: float) -> Pixels:
    """Pixels times factor plus offset, rounded half to even and cut to 0..255 (cv::convertTo)."""
    values = np.arange(256, dtype=_F) * _F(factor) + _F(offset)
    table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table))


def _in_hsv(image: Pixels, channel: int, factor: float, offset: float) -> Pixels:
    planes = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)))
    planes[channel] = linear(np.asarray(planes[channel]), factor, offset)
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR))


def _happens(thread_rng: Word, probability: float) -> bool:
    return bool(uniform(thread_rng, 0, 1) < _F(probability))


def _brightness(image: Pixels, p: pb.DistortionParameter, thread_rng: Word) -> Pixels:
    if not _happens(thread_rng, p.brightness_prob):
        return image
    delta = uniform(thread_rng, -p.brightness_delta, p.brightness_delta)
    return linear(image, 1, float(delta)) if delta else image


def _contrast(image: Pixels, p: pb.DistortionParameter, thread_rng: Word) -> Pixels:
    if not _happens(thread_rng, p.contrast_prob):
        return image
    factor = uniform(thread_rng, p.contrast_lower, p.contrast_upper)
    return linear(image, float(factor), 0) if abs(factor - _F(1)) > 1e-3 else image


def _saturation(image: Pixels, p: pb.DistortionParameter, thread_rng: Word) -> Pixels:
    if not _happens(thread_rng, p.saturation_prob):
        return image
    factor = uniform(thread_rng, p.saturation_lower, p.saturation_upper)
    return _in_hsv(image, 1, float(factor), 0)


def _hue(image: Pixels, p: pb.DistortionParameter, thread_rng: Word) -> Pixels:
    if not _happens(thread_rng, p.hue_prob):
        return image
    delta = uniform(thread_rng, -p.hue_delta, p.hue_delta)
    return _in_hsv(image, 0, 1, float(delta)) if delta else image


def _order(image: Pixels, p: pb.DistortionParameter, thread_rng: Word, own: Word) -> Pixels:
    """Permute the channels; real Caffe takes these numbers from libc's rand()."""
    if not _happens(thread_rng, p.random_order_prob):
        return image
    order = [0, 1, 2]
    for i in (1, 2):
        j = own() % (i + 1)
        order[i], order[j] = order[j], order[i]
    return np.ascontiguousarray(image[:, :, order])


def check_distort(p: pb.DistortionParameter) -> None:
    """Raise DataError for bounds that Caffe refuses."""
    for low, high in (("contrast_lower", "contrast_upper"),
                      ("saturation_lower", "saturation_upper")):  # fmt: skip
        if not 0 <= getattr(p, low) <= getattr(p, high):
            raise DataError(f"needs 0 <= {low} <= {high}")
    if p.brightness_delta < 0 or p.hue_delta < 0:
        raise DataError("brightness_delta and hue_delta must not be negative")


def distort(image: Pixels, p: pb.DistortionParameter, thread_rng: Word, own: Word) -> Pixels:
    """Distort a BGR image by draws of `thread_rng`; `own` draws the order of the channels."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError("distort_param needs images of three channels")
    steps = [_brightness, _contrast, _saturation, _hue]
    if not uniform(thread_rng, 0, 1) > 0.5:
        steps = [_brightness, _saturation, _hue, _contrast]
    for step in steps:
        image = step(image, p, thread_rng)
    return _order(image, p, thread_rng, own)
