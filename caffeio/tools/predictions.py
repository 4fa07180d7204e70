"""What a classifying net says of its own test data: a confusion matrix and the worst mistakes."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from caffeio.net.net import Net
from caffeio.net.step import Step


@dataclass(order=True)
class Mistake:
    """A picture whose label got little probability; `image` is [H, W, 3] uint8, RGB."""

    probability: float  # of the label
    number: int  # which picture of the test it is
    label: int = field(compare=False)
    predicted: int = field(compare=False)
    sure: float = field(compare=False)  # probability of what was predicted
    image: NDArray[np.uint8] | None = field(compare=False, default=None)


@dataclass
class Predictions:
    """`confusion[label, predicted]` counts pictures [classes, classes] int64."""

    confusion: NDArray[np.int64]
    mistakes: list[Mistake]

    @property
    def images(self) -> int:
        """How many pictures were looked at."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """How many got their label."""
        return int(np.trace(self.confusion))


def predict(net: Net, batches: int, *, worst: int = 24) -> Predictions | None:
    """Run `batches` batches of the net's own data in phase TEST.

    None if no layer compares scores (N, classes) with labels (N), or if there are no data. The
    net's data source goes on where it is; labels that are no class are passed over.
    """
    end = _end_of(net)
    if end is None or not net.sources:
        return None
    keeps, net.keep_blobs = net.keep_blobs, True
    confusion: NDArray[np.int64] | None = None
    heap: list[tuple[float, int, Mistake]] = []
    seen = 0
    try:
        for _ in range(batches):
            with torch.no_grad():
                net()
            scores = net.blobs[end.bottoms[0]].flatten(1).float()
            labels = net.blobs[end.bottoms[1]].flatten().long().cpu().numpy()
            shares = torch.softmax(scores, 1).cpu().numpy()
            if confusion is None:
                confusion = np.zeros((shares.shape[1],) * 2, np.int64)
            images = _images(net, end)
            for i, label in enumerate(labels):
                seen += 1
                if not 0 <= label < len(confusion):
                    continue
                predicted = int(shares[i].argmax())
                confusion[label, predicted] += 1
                if predicted != label:
                    _note(heap, worst, shares[i], int(label), predicted, seen - 1,
                          None if images is None else images[i])  # fmt: skip
    finally:
        net.keep_blobs = keeps
    if confusion is None:
        return None
    return Predictions(confusion, sorted(mistake for _, _, mistake in heap))


def _end_of(net: Net) -> Step | None:
    """The layer that holds class scores against labels: a loss, else an accuracy."""
    for kind in ("SoftmaxWithLoss", "Accuracy"):
        for step in reversed(net.steps):
            if step.node.type != kind or len(step.bottoms) < 2:
                continue
            scores, labels = (net.blob_shapes.get(name, ()) for name in step.bottoms[:2])
            flat = len(scores) >= 2 and all(n == 1 for n in scores[2:])
            if flat and int(np.prod(labels)) == scores[0]:
                return step
    return None


def _images(net: Net, end: Step) -> torch.Tensor | None:
    """The pictures of the batch, as the net sees them: (N, C, H, W) of 1 or 3 channels."""
    for step in net.steps:
        if step.node.name not in net.sources:
            continue
        for top in step.tops:
            blob = net.blobs.get(top)
            if blob is not None and blob.dim() == 4 and blob.shape[1] in (1, 3):
                return blob
    return None


def _note(
    heap: list[tuple[float, int, Mistake]],
    worst: int,
    shares: NDArray[np.float32],
    label: int,
    predicted: int,
    number: int,
    image: torch.Tensor | None,
) -> None:
    """Keep the mistake if it is one of the worst."""
    probability = float(shares[label])
    if len(heap) >= worst and -probability <= heap[0][0]:
        return
    picture = None if image is None else as_picture(image.float().cpu().numpy())
    mistake = Mistake(probability, number, label, predicted, float(shares[predicted]), picture)
    entry = (-probability, number, mistake)
    if len(heap) < worst:
        heapq.heappush(heap, entry)
    else:
        heapq.heapreplace(heap, entry)


def as_picture(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A blob (C, H, W) as a picture [H, W, 3] RGB: from its least to its largest value.

    Caffe's three channels are blue, green and red. What is not finite is black.
    """
    finite = np.isfinite(values)
    low = float(values[finite].min()) if finite.any() else 0.0
    high = float(values[finite].max()) if finite.any() else 1.0
    scaled = np.where(finite, (values - low) * (255 / (high - low or 1.0)), 0)
    picture = np.clip(np.rint(scaled), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[:, :, ::-1]
