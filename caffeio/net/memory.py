"""Blobs as memory: what layers in place do to the layers before them, as in real Caffe.

In Caffe a blob is one piece of memory. A layer in place overwrites it, Split, Flatten and Reshape
give it further names, and Backward of every layer reads what lies there when the whole forward has
run. Here every version of a blob is a tensor of its own, which is the same for nearly all nets:
ReLU behind Convolution, BatchNorm, Scale, Dropout behind ReLU. `plan_memory` finds the layers for
which it is not, by facts that each layer type states (`reads_top`, `reads_bottoms` ...: see
caffeio/layers/base.py); only those run through `on_memory`. All other nets cost nothing.
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

from caffeio.net.step import Step, Use, raw_blobs
from caffeio.ops.backward import Backward, Memory, autograd

if TYPE_CHECKING:
    from caffeio.ops.module import Layer


@dataclass(eq=False)
class Contents:
    """What lies in memory in one forward, as far as Backward will ask for it."""

    values: dict[int, Tensor] = field(default_factory=dict)
    hooked: set[int] = field(default_factory=set)  # memory whose gradient will be noted


@dataclass(eq=False)
class MemoryPlan:
    """What a net has to do with memory that is overwritten; empty for nearly all nets."""

    uses: list[Use | None]  # one a step
    stale: dict[str, str]  # blobs that were overwritten under another name when all have run
    losses: frozenset[int]  # memory whose gradient is a loss weight, and is left as it is

    @property
    def readers(self) -> list[int]:
        """Indices of the steps whose Backward reads what was overwritten."""
        return [i for i, use in enumerate(self.uses) if use is not None and use.overwritten]


class _Walk:
    """Names, memory and writers of a net, step by step."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.memory: dict[str, int] = {}  # of each blob, by its name
        self.written: list[list[int]] = []  # steps that wrote each piece of memory
        self.seen: dict[str, int] = {}  # how often it had been written for this value of the blob
        self.writer: list[str] = []  # the blob that was written last, by memory
        self.uses = [self._visit(i, step) for i, step in enumerate(steps)]

    def _visit(self, index: int, step: Step) -> Use:
        shares = step.layer.shares_memory
        bottoms = tuple(self.memory[name] for name in step.bottoms)
        stale = tuple(
            (i, self.writer[self.memory[name]])
            for i, name in enumerate(step.bottoms)
            if self.is_stale(name)
        )
        tops, in_place = [], []
        for i, name in enumerate(step.tops):
            in_place.append(i < len(bottoms) and step.bottoms[i] == name)
            if in_place[-1] or shares:
                tops.append(bottoms[i] if in_place[-1] else bottoms[0])
            else:
                tops.append(len(self.written))
                self.written.append([])
                self.writer.append(name)
            memory = tops[-1]
            if not shares:
                self.written[memory].append(index)
                self.writer[memory] = name
            self.memory[name] = memory
            self.seen[name] = len(self.written[memory])
        return Use(bottoms, tuple(tops), tuple(in_place), stale)

    def is_stale(self, name: str) -> bool:
        """Whether the blob was overwritten under another name."""
        return self.seen[name] != len(self.written[self.memory[name]])


def plan_memory(steps: Sequence[Step], *, gradients: bool = True) -> MemoryPlan:
    """Find what is overwritten before it is read; without `gradients`, only by a forward."""
    walk = _Walk(steps)
    noted: set[int] = set()
    losses: set[int] = set()
    for i, (step, use) in enumerate(zip(steps, walk.uses, strict=True)):
        if not gradients:
            continue
        use.overwritten = not step.fused and _is_overwritten(i, step, use, walk, steps)
        if use.overwritten:
            noted.update(use.bottoms, use.tops)
        use.losses = tuple(
            (j, use.tops[j])
            for j, weight in enumerate(step.loss_weights)
            if weight and use.in_place[j]
        )
        losses.update(memory for _, memory in use.losses)
    noted.update(losses)
    for use in walk.uses:
        use.noted = tuple((j, memory) for j, memory in enumerate(use.tops) if memory in noted)
    stale = {name: walk.writer[walk.memory[name]] for name in walk.memory if walk.is_stale(name)}
    uses = [
        use if use.stale or use.overwritten or use.noted or use.losses else None
        for use in walk.uses
    ]
    return MemoryPlan(uses, stale, frozenset(losses))


def _is_overwritten(index: int, step: Step, use: Use, walk: _Walk, steps: Sequence[Step]) -> bool:
    layer = step.layer
    if layer.writes_early and any(use.in_place):
        return True
    if layer.reads_top and any(walk.written[m][-1:] > [index] for m in use.tops):
        return True
    reads = layer.reads_bottoms
    for i, memory in enumerate(use.bottoms):
        if reads is not None and i not in reads:
            continue
        later = [steps[w].layer for w in walk.written[memory] if w >= index]
        if layer.reads_signs and all(writer.keeps_signs for writer in later):
            continue
        if later:
            return True
    return False


# -- running ---------------------------------------------------------------------------------


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
        memory = Memory(
            step.layer,
            [_content(contents, *pair) for pair in zip(use.bottoms, ctx.shapes[0], strict=True)],
            [_content(contents, *pair) for pair in zip(use.tops, ctx.shapes[1], strict=True)],
            top_diffs,
            bottom_diffs,
            [need or flag for need, flag in zip(needs[:n], step.bottom_needs, strict=True)],
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


@torch.compiler.disable  # type: ignore[untyped-decorator]
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
