"""Build one layer on its own, with values in its blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from google.protobuf import text_format

from caffeio.layers import Layer, LayerContext, lookup
from caffeio.ops.module import make_module
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb

Shape = tuple[int, ...]


def make(
    text: str,
    *shapes: Shape,
    phase: str = "TRAIN",
    profile: Profile = BVLC,
    tops: int = 1,
    in_place: bool = False,
    blobs: Sequence[Any] | None = None,
) -> Layer:
    """The layer that `text` (a LayerParameter) describes, set up for bottoms of `shapes`.

    `blobs` are the values of its blobs; without them they hold what their fillers say, if that is
    a constant.
    """
    param = text_format.Parse(text, pb.LayerParameter(name="x"))
    names = tuple(f"bottom{i}" for i in range(len(shapes)))
    context = LayerContext(
        phase=phase,
        profile=profile,
        where="net.prototxt:1:1",
        bottom_names=names,
        top_names=names[:1] if in_place else tuple(f"top{i}" for i in range(tops)),
    )
    layer = make_module(lookup(param.type, param.name), param, context)
    layer.configure(*shapes)
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for i, (blob, spec) in enumerate(zip(layer.blobs, layer.blob_specs, strict=True)):
            if blobs is not None:
                blob.copy_(torch.as_tensor(np.asarray(blobs[i]), dtype=torch.float32))
            else:
                blob.fill_(spec.default if spec.filler is None else spec.filler.value)
    return layer


def random(*shape: int, seed: int = 0, grad: bool = False) -> torch.Tensor:
    """Normal numbers, always the same."""
    values = np.random.RandomState(seed).randn(*shape).astype(np.float32)
    return torch.from_numpy(values).requires_grad_(grad)


def backward(top: torch.Tensor, diff: torch.Tensor, *sources: torch.Tensor) -> list[np.ndarray]:
    """Gradients of `sources` as arrays, for `diff` at the top."""
    return [g.numpy() for g in torch.autograd.grad(top, sources, diff)]
