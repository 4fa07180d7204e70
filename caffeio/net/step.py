"""The parts that a Net is made of: one Step a layer, and the plan in which they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from caffeio.layers import Layer
from caffeio.net.graph import Node

if TYPE_CHECKING:
    from caffeio.net.memory import Use

Shape = tuple[int, ...]
AUTOMATIC = "(automatic)"  # Caffe's name of a loss top that the prototxt does not name


@dataclass(eq=False)
class LearnableParam:
    """A blob that its layer owns (sharers are not listed), in the order of Caffe's history."""

    name: str  # the ParamSpec's name, or the index of the blob
    layer: str
    index: int
    tensor: nn.Parameter
    lr_mult: float
    decay_mult: float


@dataclass(eq=False)
class Step:
    """One layer and its place in the net."""

    node: Node
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    loss_weights: tuple[float, ...]  # one a top
    stop: tuple[bool, ...]  # bottoms that get no gradient (propagate_down: false)
    learns: tuple[bool, ...] = ()  # blobs whose gradient Caffe computes: by the specs as written
    needs_backward: bool = False  # as Caffe decides it: some top is under a loss, something learns
    bottom_needs: tuple[bool, ...] = ()  # which bottoms get a gradient in Caffe
    free: tuple[str, ...] = ()  # blobs that nobody reads after this layer
    fused: tuple[Step, ...] = ()  # BatchNorm, Scale(, ReLU) that run as one
    memory: Use | None = None  # None: nothing that it reads or writes is overwritten (nearly all)


@dataclass(eq=False)
class Trace:
    """The tensors that one layer read and wrote in the last forward."""

    step: Step
    bottoms: tuple[Tensor, ...]
    tops: tuple[Tensor, ...]

    def bottom(self, name: str) -> Tensor:
        """The bottom called `name`, as it was before the layer ran."""
        return self.bottoms[self.step.bottoms.index(name)]

    def top(self, name: str) -> Tensor:
        """The top called `name`, as this layer made it."""
        return self.tops[self.step.tops.index(name)]


class SharedBlobs(nn.ParameterList):
    """The blobs of a layer that shares some with an owner of another shape (PERMISSIVE)."""

    def __init__(self, blobs: Sequence[nn.Parameter], shapes: Sequence[Shape]) -> None:
        super().__init__(blobs)
        self.shapes = list(shapes)

    def __getitem__(self, index: Any) -> Any:
        """Blob `index` in this layer's own shape: a view of the owner's tensor."""
        blob = super().__getitem__(index)
        return blob if blob.shape == self.shapes[index] else blob.view(self.shapes[index])

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def raw_blobs(layer: Layer) -> list[nn.Parameter]:
    """The layer's blobs as the tensors that hold the memory (an owner's own, if shared)."""
    return [getattr(layer.blobs, str(i)) for i in range(len(layer.blobs))]


def meta(shape: Sequence[int]) -> Tensor:
    """A tensor without memory."""
    return torch.empty(tuple(shape), device="meta")


def shape_text(shape: Iterable[int]) -> str:
    """A shape as Caffe prints it."""
    return " ".join(map(str, shape)) or "scalar"


def fuse_steps(steps: Sequence[Step]) -> list[Step]:
    """Join BatchNorm + Scale (+ ReLU) whose tops are one blob that only this chain touches."""
    out: list[Step] = []
    i = 0
    while i < len(steps):
        group = _group(steps[i : i + 3])
        if group is None:
            out.append(steps[i])
            i += 1
            continue
        first, last = group[0], group[-1]
        out.append(
            Step(
                last.node, first.layer, first.bottoms, last.tops, last.loss_weights, first.stop,
                fused=tuple(group),
            )
        )  # fmt: skip
        i += len(group)
    return out


def _group(steps: Sequence[Step]) -> list[Step] | None:
    if len(steps) < 2 or steps[0].node.type != "BatchNorm" or steps[1].node.type != "Scale":
        return None
    norm, scale = steps[0], steps[1]
    if len(scale.bottoms) != 1 or scale.tops != norm.tops or scale.bottoms != norm.tops:
        return None
    if any(norm.loss_weights) or any(scale.stop) or not getattr(norm.layer, "fusible", False):
        return None
    if not getattr(scale.layer, "fusible", False):
        return None
    group = [norm, scale]
    if len(steps) == 3 and steps[2].node.type == "ReLU":
        relu = steps[2]
        in_place = relu.bottoms == scale.tops == relu.tops
        plain = not relu.node.param.relu_param.negative_slope and not any(scale.loss_weights)
        changed = relu.memory is not None and relu.memory.overwritten
        if in_place and plain and not any(relu.stop) and not changed:
            group.append(relu)
    return group
