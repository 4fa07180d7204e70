"""Inputs for the comparison: random and structured numbers, and what some layers read as places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.inputs import lookups
from caffeio.converters.from_onnx.model import Model
from caffeio.converters.verify.samples import places
from caffeio.net.net import Net

KINDS = ("normal", "ramp", "large")
ONE_SIGN = ("positive", "negative")  # for what has no number of the other sign, as a logarithm


def samples(
    model: Model,
    net: Net,
    blobs: Mapping[str, str],
    seed: int,
    *,
    kinds: Sequence[str] = KINDS,
    scale: float = 1.0,
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Names of runs and their inputs: those of some `kinds`, and numbers times `scale`.

    Regions lie in the image, and what Proposal reads of an image is its size: a layer of `net`
    would refuse other numbers, or find nothing. `blobs` are the net's inputs by the model's names.
    """
    import onnx

    rng, indices = np.random.default_rng(seed), lookups(model)
    for kind in kinds:
        inputs: dict[str, Array] = {}
        given = places(net, rng)
        for item in model.graph.input:
            tensor = item.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            shape = tuple(dim.dim_value for dim in tensor.shape.dim)
            place = given.get(blobs[item.name])
            if place is not None:
                inputs[item.name] = place.reshape(shape).astype(dtype)
            elif dtype.kind != "f" or item.name in indices:
                rows = indices.get(item.name, 2)
                inputs[item.name] = np.asarray(rng.integers(0, rows, shape), dtype)
            else:
                inputs[item.name] = np.asarray(scale * _floats(kind, shape, rng), dtype)
        yield kind, inputs


def _floats(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if kind == "ramp":
        size = int(np.prod(shape))
        signs = np.where(np.arange(size) % 3, 1, -1)
        ramp: Array = np.linspace(0.5, 2, size) * signs
        return ramp.reshape(shape)
    normal: Array = rng.standard_normal(shape)
    if kind in ONE_SIGN:
        return (np.abs(normal) + 0.1) * (1.0 if kind == "positive" else -1.0)
    return normal * (4.0 if kind == "large" else 1.0)
