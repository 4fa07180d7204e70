"""Blobs as memory: what layers in place do to the layers before them, as in real Caffe.

In Caffe a blob is one piece of memory. A layer in place overwrites it, Split, Flatten and Reshape
give it further names, and Backward of every layer reads what lies there when the whole forward has
run. Here every version of a blob is a tensor of its own, which is the same for nearly all nets:
ReLU behind Convolution, BatchNorm, Scale, Dropout behind ReLU. The layers for which it is
not (caffeio/net/overwritten.py finds them) run through `on_memory`. All other nets cost nothing.
Sources: src/caffe/net.cpp, blob.cpp (ShareData), layer.hpp (SetLossWeights).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from caffeio.net.step import Step, raw_blobs
from caffeio.ops.backward import Backward, LayerMemory, autograd
from caffeio.ops.tracing import outside_graphs

if TYPE_CHECKING:
    from caffeio.ops.module import Layer


@dataclass(eq=False)
class Contents:
    """What lies in memory in one forward, as far as Backward will ask for it."""

    values: dict[int, Tensor] = field(default_factory=dict)
    hooked: set[int] = field(default_factory=set)  # memory whose gradient will be noted


class _Overwritten(Function):
    """A blob's new content, whose gradient is the blob's own."""

    @staticmethod
    def forward(ctx: Any, blob: Tensor, content: Tensor) -> Tensor:
        return content.reshape(blob.shape).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def overwritten(blob: Tensor, content: Tensor, *, gradients: bool) -> Tensor:
    """Return `blob` with the `content` that its memory was given under another name.

    With `gradients` the blob keeps its own, as in Caffe; else they go where the content comes from.
    """
    if not gradients:
        return content.reshape(blob.shape)
    return _Overwritten.apply(blob, content.detach())  # type: ignore[no-any-return,no-untyped-call]


class _OnMemory(Function):
    """A layer whose gradient is that of Caffe's Backward on memory."""

    @staticmethod
    def forward(
        ctx: Any, step: Step, contents: Contents, n: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        bottoms, layer = tensors[:n], step.layer
        result = layer(*bottoms)
        tops = result if isinstance(result, tuple) else (result,)
        kernel = kernel_of(layer)
        ctx.kept = kernel.keep(layer, bottoms, tops) if kernel else None
        ctx.step, ctx.contents, ctx.params = step, contents, tensors[n:]
        ctx.shapes = [x.shape for x in bottoms], [y.shape for y in tops]
        return tops

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        step, contents = ctx.step, ctx.contents
        use = step.memory
        assert use is not None
        n = len(use.bottoms)
        top_diffs = [grad.clone(memory_format=torch.contiguous_format) for grad in grads]
        bottom_diffs = [
            top_diffs[i].view(shape)
            if use.in_place[i : i + 1] == (True,)
            else torch.zeros(shape, dtype=grads[0].dtype, device=grads[0].device)
            for i, shape in enumerate(ctx.shapes[0])
        ]
        needs = ctx.needs_input_grad[3:]
        memory = LayerMemory(
            step.layer,
            [_content(contents, *pair) for pair in zip(use.bottoms, ctx.shapes[0], strict=True)],
            [_content(contents, *pair) for pair in zip(use.tops, ctx.shapes[1], strict=True)],
            top_diffs,
            bottom_diffs,
            [
                need or flag
                for need, flag in zip(needs[:n], step.bottom_needs_gradient, strict=True)
            ],
            ctx.kept,
        )
        kernel = kernel_of(step.layer)
        if kernel is None:
            return (None, None, None, *autograd(memory, ctx.params))
        kernel.run(memory)
        diffs = [diff if need else None for diff, need in zip(bottom_diffs, needs, strict=False)]
        return (None, None, None, *diffs, *[None] * len(ctx.params))


def _content(contents: Contents, memory: int, shape: torch.Size) -> Tensor:
    return contents.values[memory].reshape(shape)


def kernel_of(layer: Layer) -> type[Backward] | None:
    """Return the layer type's Backward on memory; None: autograd's at the bottoms."""
    if not layer.backward:
        return None
    module, _, name = layer.backward.partition(":")
    kernel: type[Backward] = getattr(import_module(module), name)
    return kernel


@outside_graphs
def on_memory(step: Step, bottoms: Sequence[Tensor], contents: Contents) -> tuple[Tensor, ...]:
    """Run a step whose gradient depends on what later layers leave in its blobs' memory."""
    params = [blob for blob in raw_blobs(step.layer) if blob.requires_grad]
    return _OnMemory.apply(  # type: ignore[no-any-return,no-untyped-call]
        step, contents, len(bottoms), *bottoms, *params
    )


def needs_memory(bottoms: Iterable[Tensor], layer: Layer) -> bool:
    """Whether a gradient will be asked for."""
    if not torch.is_grad_enabled():
        return False
    return any(x.requires_grad for x in (*bottoms, *raw_blobs(layer)))
