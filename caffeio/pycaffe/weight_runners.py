"""Convolution and InnerProduct: backward reads the bottom and the weights, and needs no graph.

On a CPU convolutions compute in channels-last order, which is quicker; a blob's arrays are in
Caffe's order all the same, its memory is brought into it when a script asks for one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from caffeio.ops.conv import make_room
from caffeio.pycaffe.graph_runner import GraphRunner
from caffeio.pycaffe.runners import Runner, add_gradient, as_tuple


def channels_last(value: Tensor) -> Tensor:
    """The same values in channels-last order; those of one channel only get its strides."""
    if value.shape[1] == 1 and value.is_contiguous():
        rows, columns = value.shape[2:]
        return value.as_strided(value.shape, (rows * columns, 1, columns, 1))
    return value.contiguous(memory_format=torch.channels_last)


class ConvolutionRunner(GraphRunner):
    """A convolution of one bottom over two spatial axes; where zeros are put behind, a graph."""

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the top."""
        self.graph = None
        self.ready(device)
        value = self._input(device)
        self.store(as_tuple(self.layer(value)), [value])

    def backward(self, device: torch.device) -> None:
        """Compute the diff of the bottom and add to those of the blobs."""
        layer: Any = self.layer
        value = self._input(device)
        if make_room(value, layer.least) is not value:
            super().backward(device)
            return
        self.ready(device)
        weight = layer.blobs[0]
        mask = [*self.bottom_needs_gradient, *self.param_needs_gradient, False][:3]
        if not any(mask):
            return
        found = torch.ops.aten.convolution_backward(
            self.tops[0].gradient(device), value, weight,
            [weight.shape[0]] if layer.has_bias else None, layer.stride, layer.pad, layer.dilation,
            False, (0, 0), layer.group, mask,
        )  # fmt: skip
        if mask[0]:
            self.bottoms[0].set_gradient(found[0])
        for i, need in enumerate(self.param_needs_gradient):
            if need:
                add_gradient(self.params[i], found[1 + i])

    def _input(self, device: torch.device) -> Tensor:
        """The bottom; its memory is brought into the order that computes quickly."""
        bottom = self.bottoms[0]
        value = bottom.values(device)
        if device.type != "cpu" or value.dtype != torch.float32:
            return value
        quick = channels_last(value)
        if quick is not value and not bottom.memory["data"].held:
            bottom.memory["data"].rearrange(quick)
        return quick


class InnerProductRunner(Runner):
    """y = W x + b."""

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the top."""
        self.ready(device)
        values = self.values(device)
        self.store(as_tuple(self.layer(*values)), values)

    def backward(self, device: torch.device) -> None:
        """Compute the diff of the bottom and add to those of the blobs."""
        layer: Any = self.layer
        self.ready(device)
        bottom, top = self.bottoms[0], self.tops[0]
        weight = layer.blobs[0]
        rows = math.prod(bottom.shape[: layer.start])
        grad = top.gradient(device).reshape(rows, layer.num_output)
        if self.param_needs_gradient[0]:
            value = bottom.values(device).reshape(rows, layer.inputs)
            pair = (value.t(), grad) if layer.transpose else (grad.t(), value)
            add_gradient(self.params[0], pair[0] @ pair[1])
        if len(self.params) > 1 and self.param_needs_gradient[1]:
            add_gradient(self.params[1], grad.sum(0))
        if self.bottom_needs_gradient[0]:
            found = grad @ (weight.t() if layer.transpose else weight)
            bottom.set_gradient(found.view(bottom.shape))


class ScaleRunner(Runner):
    """y = scale x (+ bias) with a learned scale; in place it keeps what it was given."""

    kept: Tensor | None = None

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the top."""
        self.ready(device)
        (value,) = self.values(device)
        self.kept = None
        if self.in_place and (record or self.must_record) and self.needed:
            memory = self.bottoms[0].memory["data"]
            self.kept = value.clone() if memory.held else value
            memory.guarded = not memory.held
        self.store(as_tuple(self.layer(value)), [value])

    def follow(self, value: Tensor, device: torch.device) -> Tensor:
        """What the layer makes of `value` in place, which it keeps."""
        self.ready(device)
        self.kept = value
        return super().follow(value, device)

    def backward(self, device: torch.device) -> None:
        """Compute the diff of the bottom and add to those of the blobs."""
        self.ready(device)
        bottom = self.bottoms[0]
        grad = self.tops[0].gradient(device)
        scale = self.layer.blobs[0]
        start: int = self.layer.start  # type: ignore[assignment]
        spanned = range(start, start + scale.dim())
        others = [axis for axis in range(grad.dim()) if axis not in spanned]
        if self.param_needs_gradient[0]:
            value = bottom.values(device) if self.kept is None else self.kept
            add_gradient(self.params[0], _sum(grad * value, others))
        if len(self.params) > 1 and self.param_needs_gradient[1]:
            add_gradient(self.params[1], _sum(grad, others).clone())
        if self.bottom_needs_gradient[0]:
            spread = scale.view(*scale.shape, *[1] * (grad.dim() - start - scale.dim()))
            bottom.set_gradient(grad * spread)


def _sum(value: Tensor, axes: list[int]) -> Tensor:
    """The sum over some axes, perhaps none."""
    return value.sum(axes) if axes else value


def weight_runner(kind: str, layer: Any, count: int) -> type[Runner] | None:
    """The runner of a layer with weights and `count` bottoms; None where a graph must do."""
    if kind == "InnerProduct" and not layer.relu:
        return InnerProductRunner
    if kind == "Scale" and count == 1:
        return ScaleRunner
    plain = kind == "Convolution" and count == 1 and layer.start == 1 and layer.spatial == 2
    return ConvolutionRunner if plain and not layer.relu else None
