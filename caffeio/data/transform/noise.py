"""noise_param of SSD: blurs, histograms, JPEG artefacts, salt and pepper.

Source: sara-nl and SSD src/caffe/util/im_transforms.cpp (ApplyNoise).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from caffeio.data.transform.image import Pixels
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Word = Callable[[], int]
_F = np.float32


def apply_noise(image: Pixels, param: pb.NoiseParameter, thread_rng: Word) -> Pixels:
    """The image effects of SSD's noise_param, in its order."""
    if param.decolorize:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)  # type: ignore[assignment]
    if param.gauss_blur:
        image = cv2.GaussianBlur(image, (7, 7), 1.5)  # type: ignore[assignment]
    if param.hist_eq:
        image = _on_luma(image, lambda y: np.asarray(cv2.equalizeHist(y), np.uint8))
    if param.clahe:
        image = _on_luma(image, lambda y: np.asarray(cv2.createCLAHE(4).apply(y), np.uint8))
    if param.jpeg > 0:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(param.jpeg)])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    if param.erode:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3), (1, 1))
        image = cv2.erode(image, kernel)  # type: ignore[assignment]
    if param.posterize:
        levels = np.arange(256) // 64 * 64 + 32
        image = cv2.LUT(image, levels.astype(np.uint8))  # type: ignore[assignment]
    if param.inverse:
        image = cv2.bitwise_not(image)  # type: ignore[assignment]
    if param.saltpepper:
        image = _salt_and_pepper(image, param.saltpepper_param, thread_rng)
    if param.convert_to_hsv:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)  # type: ignore[assignment]
    if param.convert_to_lab:
        raise DataError("noise_param.convert_to_lab makes float images, which Caffe refuses itself")
    return np.asarray(image)


def _on_luma(image: Pixels, change: Callable[[Pixels], Pixels]) -> Pixels:
    if image.ndim == 2:
        return change(image)
    planes = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)))
    planes[0] = change(planes[0])  # type: ignore[arg-type]
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YCrCb2BGR))


def _salt_and_pepper(image: Pixels, param: pb.SaltPepperParameter, thread_rng: Word) -> Pixels:
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    values = np.array([int(v) & 255 for v in param.value], np.uint8)
    if len(values) not in (1, channels):
        raise DataError(
            f"specify either 1 saltpepper_param.value or as many as channels: {channels}"
        )
    image = image.copy()
    count = math.floor(_F(param.fraction) * _F(width) * _F(height))
    for _ in range(count):
        x = thread_rng() % width
        image[thread_rng() % height, x] = values if image.ndim == 3 else values[0]
    return image
