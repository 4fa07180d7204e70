"""The parts that a Net is made of: one Step a layer, and the plan in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from caffeio.net.graph import LayerNode
from caffeio.net.overwritten import Use
from caffeio.ops.module import Layer

Shape = tuple[int, ...]
AUTOMATIC = "(automatic)"  # Caffe's name of a loss top that the prototxt does not name


def shown(blob: str) -> str:
    """Return a blob's name as Caffe has it; here automatic ones have a number, to be told apart."""
    return AUTOMATIC if blob.startswith(AUTOMATIC) else blob


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

    node: LayerNode
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    loss_weights: tuple[float, ...]  # one a top
    stop_gradient: tuple[bool, ...]  # bottoms that get no gradient (propagate_down: false)
    param_needs_gradient: tuple[
        bool, ...
    ] = ()  # which blobs get one in Caffe: by the written specs
    needs_backward: bool = False  # as Caffe decides it: some top is under a loss, something learns
    logged_backward: bool = False  # needs_backward before force_backward: what the log tells
    bottom_needs_gradient: tuple[bool, ...] = ()  # which bottoms get a gradient in Caffe
    free_after: tuple[str, ...] = ()  # not read by any later layer
    fused: tuple[Step, ...] = ()  # BatchNorm, Scale(, ReLU), or a layer and its ReLU: run as one
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


def raw_blobs(layer: Layer) -> list[nn.Parameter]:
    """The layer's blobs as the tensors that hold the memory (an owner's own, if shared)."""
    return [layer.blobs.raw(i) for i in range(len(layer.blobs))]


def register_layer(
    net: nn.Module, name: str, layer: nn.Module, counts: dict[str, int] | None = None
) -> None:
    """Make `layer` a submodule of `net`, so that state_dict has the keys `<layer>.<blob>`.

    A name with dots is a path of modules, as PyTorch reads it: `a.b` is submodule b of a, whether
    there is a layer a or not. A second layer of one name is called `name#2`. Names that a module
    has otherwise (`loss`, `data`) are no obstacle: the attribute stays what it is. `counts`
    remembers how many layers of a name there are.
    """
    parent: nn.Module | None = net
    *folders, last = name.split(".")
    for folder in folders:
        assert parent is not None
        parent = parent._modules.setdefault(folder, nn.Module())
    assert parent is not None
    there = parent._modules.get(last)
    if type(there) is nn.Module:  # a folder of layers that came first
        layer._modules.update(there._modules)
        parent._modules[last] = layer
        return
    key, number = last, counts.get(name, 1) if counts is not None else 1
    while key in parent._modules:
        number += 1
        key = f"{last}#{number}"
    if counts is not None:
        counts[name] = number
    parent._modules[key] = layer


def fuse_steps(steps: Sequence[Step]) -> list[Step]:
    """Join what only this chain touches: BatchNorm + Scale (+ ReLU); a layer and its ReLU in place.

    The ReLU then writes over the layer's top, which costs no memory of its own.
    """
    out: list[Step] = []
    i = 0
    while i < len(steps):
        group = _group(steps[i : i + 3]) or _with_relu(steps[i : i + 2])
        if group is None:
            out.append(steps[i])
            i += 1
            continue
        first, last = group[0], group[-1]
        out.append(
            Step(
                last.node, first.layer, first.bottoms, last.tops, last.loss_weights,
                first.stop_gradient,
                fused=tuple(group),
            )
        )  # fmt: skip
        i += len(group)
    return out


def _with_relu(steps: Sequence[Step]) -> list[Step] | None:
    if len(steps) < 2 or steps[1].node.type != "ReLU" or not steps[0].layer.leaves_top:
        return None
    maker, relu = steps
    if maker.layer.reads_top or maker.node.in_place or any(maker.loss_weights):
        return None
    in_place = len(maker.tops) == 1 and relu.bottoms == maker.tops == relu.tops
    slope = relu.node.param.relu_param.negative_slope
    alone = maker.memory is None and relu.memory is None and not any(relu.stop_gradient)
    return [maker, relu] if in_place and slope >= 0 and alone else None


def _group(steps: Sequence[Step]) -> list[Step] | None:
    if len(steps) < 2 or steps[0].node.type != "BatchNorm" or steps[1].node.type != "Scale":
        return None
    norm, scale = steps[0], steps[1]
    if len(scale.bottoms) != 1 or scale.tops != norm.tops or scale.bottoms != norm.tops:
        return None
    if (
        any(norm.loss_weights)
        or any(scale.stop_gradient)
        or not getattr(norm.layer, "fusible", False)
    ):
        return None
    if not getattr(scale.layer, "fusible", False):
        return None
    group = [norm, scale]
    if len(steps) == 3 and steps[2].node.type == "ReLU":
        relu = steps[2]
        in_place = relu.bottoms == scale.tops == relu.tops
        plain = not relu.node.param.relu_param.negative_slope and not any(scale.loss_weights)
        changed = relu.memory is not None and relu.memory.overwritten
        if in_place and plain and not any(relu.stop_gradient) and not changed:
            group.append(relu)
    return group
