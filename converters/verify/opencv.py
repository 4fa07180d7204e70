"""ONNX models in OpenCV's dnn module, whose detections come in an order of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from caffeio.converters.verify.models import Arrays, DoesNotRunError

ROWS = ("DetectionOutput",)  # layers whose rows are a set


class CvModel:
    """A model in OpenCV; blobs by the names that the model has."""

    def __init__(
        self, path: str | os.PathLike[str], blobs: Mapping[str, str], inputs: Mapping[str, Any]
    ) -> None:
        """`blobs` are the outputs' names and what they are, `inputs` the shapes of the inputs."""
        self.blobs, self.inputs = dict(blobs), {k: tuple(v) for k, v in inputs.items()}
        try:
            self.net = cv2.dnn.readNetFromONNX(os.fspath(path))
        except cv2.error as error:
            raise DoesNotRunError(
                f"OpenCV {cv2.__version__} cannot read the model: {error}"
            ) from None
        self.net.enableWinograd(False)  # its quicker convolutions are less exact

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs by the names of their blobs."""
        names = self.net.getUnconnectedOutLayersNames()
        try:
            for name in self.inputs:
                self.net.setInput(np.ascontiguousarray(inputs[name]), name)
            found = self.net.forward(names)
        except cv2.error as error:
            raise DoesNotRunError(f"the model does not run in OpenCV: {error}") from None
        plain = [name.rpartition("!")[2] for name in names]
        return {
            self.blobs.get(name, name): np.asarray(value)
            for name, value in zip(plain, found, strict=True)
        }


def same_order(theirs: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 7) of detections: theirs, each beside the nearest of ours; rows of nothing go."""
    mine = _boxes(ours)
    left = list(_boxes(theirs))
    if len(left) != len(mine):
        return np.array(left).reshape(-1, 7), mine
    found = []
    for row in mine:
        nearest = min(range(len(left)), key=lambda i: float(np.abs(left[i] - row).max()))
        found.append(left.pop(nearest))
    return np.array(found).reshape(-1, 7), mine


def _boxes(rows: np.ndarray) -> np.ndarray:
    flat = np.asarray(rows, np.float32).reshape(-1, 7)
    return flat[flat[:, 2] > 0]
