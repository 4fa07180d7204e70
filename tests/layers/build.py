"""A single layer of a prototxt text, with memory, for tests without a net."""

from __future__ import annotations

from typing import Any

import torch
from google.protobuf import text_format
from torch import Tensor

from caffeio.layers import Layer, LayerContext
from caffeio.layers.python.native import class_of
from caffeio.ops.module import make_module
from caffeio.proto import caffe_pb2 as pb

# torch.compile itself makes an instance of each autograd.Function class that it meets
COMPILE_WARNING = "ignore:.*should not be instantiated:DeprecationWarning"


def build(text: str, *shapes: tuple[int, ...], tops: int = 1, **context: Any) -> Layer:
    """Set the layer up with bottoms of these shapes; blobs are normal random numbers."""
    param = text_format.Parse(f'name: "x" {text}', pb.LayerParameter())
    context.setdefault("top_names", tuple(f"top{i}" for i in range(tops)))
    context.setdefault("bottom_names", tuple(f"bottom{i}" for i in range(len(shapes))))
    run = {k: context[k] for k in ("allow_python", "search_path") if k in context}
    layer = make_module(class_of(param, **run), param, LayerContext(**context))
    layer.configure(*shapes)
    for i, spec in enumerate(layer.blob_specs):
        layer.blobs[i] = torch.nn.Parameter(torch.randn(spec.shape))
    return layer


def run(layer: Layer, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """The tops as a tuple."""
    result = layer(*bottoms)
    return result if isinstance(result, tuple) else (result,)


def gradients(
    layer: Layer, *bottoms: Tensor, of: tuple[int, ...] = (0,)
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The tops, and the gradients of bottoms `of` for a first top with gradient 1."""
    leaves = [b.detach().clone().requires_grad_(i in of) for i, b in enumerate(bottoms)]
    tops = run(layer, *leaves)
    grads = torch.autograd.grad(tops[0].sum(), [leaves[i] for i in of])
    return tops, grads


def meta_shapes(layer: Layer, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the tops on the meta device."""
    bottoms = [torch.empty(shape, device="meta") for shape in shapes]
    with torch.no_grad():
        layer.to("meta")
        return [tuple(top.shape) for top in run(layer, *bottoms)]


def check_compiled(layer: Layer, other: Layer, *bottoms: Tensor) -> None:
    """The compiled layer gives the same tops and gradient as `other`, built alike."""
    other.load_state_dict(layer.state_dict())
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    differentiable = layer.differentiable
    first = [b.clone().requires_grad_(differentiable and i == 0) for i, b in enumerate(bottoms)]
    second = [b.clone().requires_grad_(differentiable and i == 0) for i, b in enumerate(bottoms)]
    mine, theirs = compiled(*first), other(*second)
    mine = mine if isinstance(mine, tuple) else (mine,)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    if differentiable:
        for tops in (mine, theirs):
            torch.stack([top.sum() for top in tops if top.requires_grad]).sum().backward()
        torch.testing.assert_close(first[0].grad, second[0].grad)
