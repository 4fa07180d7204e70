"""Random inputs that a net can digest, for comparing two ways to run it."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffeio.layers.recurrent import Recurrent
from caffeio.net.net import Net

_POOLS_REGIONS = ("ROIPooling", "PSROIPooling")
_RENAMES = ("Split", "Reshape", "Flatten", "Permute", "Slice")


def sample_inputs(net: Net, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """An array for every top of the net's data and Input layers, by name.

    Normal numbers times `scale`; what Embed and BatchReindex look up are valid indices, what marks
    the beginning of sequences (bottom 1 of LSTM and RNN) is 0 in the first step and then 1, regions
    lie in an image of the batch, and what Proposal reads of images is their size and the scale 1.
    """
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for step in net.steps:
        if step.layer.is_source:
            for top, shape in zip(step.tops, step.layer.top_shapes, strict=True):
                out[top] = np.asarray(rng.standard_normal(shape) * scale, np.float32)
    for name, high in _indices(net).items():
        out[name] = rng.integers(0, high, out[name].shape).astype(np.float32)
    out |= places(net, rng)
    for name in _marks(net):
        out[name] = np.ones(out[name].shape, np.float32)
        out[name][:1] = 0
    return out


def places(net: Net, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arrays for the inputs that are regions or sizes of images, by name."""
    out, shapes = {}, net.blob_shapes
    for name, (images, height, width) in _regions(net).items():
        out[name] = _boxes(rng, tuple(shapes[name]), images, height, width)
    for name, size in _image_sizes(net).items():
        out[name] = np.resize(np.asarray(size, np.float32), tuple(shapes[name]))
    return out


def _origin(net: Net) -> dict[str, str]:
    """Blobs that are an input under another name (behind a Split) -> the input."""
    origin: dict[str, str] = {}
    for step in net.steps:
        if step.layer.is_source:
            origin.update((top, top) for top in step.tops)
        elif step.node.type in _RENAMES and step.bottoms[0] in origin:
            origin.update((top, origin[step.bottoms[0]]) for top in step.tops)
    return origin


def _indices(net: Net) -> dict[str, int]:
    """Inputs that are indices -> the number of things they choose from."""
    origin, out = _origin(net), {}
    for step in net.steps:
        if step.node.type == "Embed" and step.bottoms[0] in origin:
            out[origin[step.bottoms[0]]] = step.node.param.embed_param.input_dim
        if step.node.type == "BatchReindex" and step.bottoms[1] in origin:
            out[origin[step.bottoms[1]]] = step.layer.bottom_shapes[0][0]
    return out


def _marks(net: Net) -> list[str]:
    origin = _origin(net)
    steps = [step for step in net.steps if isinstance(step.layer, Recurrent)]
    return [origin[step.bottoms[1]] for step in steps if step.bottoms[1] in origin]


def _regions(net: Net) -> dict[str, tuple[int, float, float]]:
    """Inputs that are regions -> the number of images, their height and width."""
    origin, out = _origin(net), {}
    for step in net.steps:
        if step.node.type in _POOLS_REGIONS and step.bottoms[1] in origin:
            layer: Any = step.layer
            images, _, height, width = layer.bottom_shapes[0]
            out[origin[step.bottoms[1]]] = (images, height / layer.scale, width / layer.scale)
    return out


def _boxes(
    rng: np.random.Generator, shape: tuple[int, ...], images: int, height: float, width: float
) -> np.ndarray:
    """Regions as (R, 5) or (R, 5, 1, 1): the image, then left, top, right and bottom."""
    count = shape[0]
    x = np.sort(rng.uniform(0, max(width - 1, 0), (count, 2)))
    y = np.sort(rng.uniform(0, max(height - 1, 0), (count, 2)))
    image = rng.integers(0, images, count)
    rows = np.stack((image, x[:, 0], y[:, 0], x[:, 1], y[:, 1]), 1)
    return rows.reshape(shape).astype(np.float32)


def _image_sizes(net: Net) -> dict[str, tuple[float, float, float]]:
    """Inputs that tell Proposal of images -> height, width and scale."""
    origin, out = _origin(net), {}
    for step in net.steps:
        if step.node.type in ("Proposal", "Python") and len(step.bottoms) == 3:
            stride = getattr(step.layer, "stride", None)
            if stride and step.bottoms[2] in origin:
                _, _, height, width = step.layer.bottom_shapes[0]
                out[origin[step.bottoms[2]]] = (height * stride, width * stride, 1.0)
    return out
