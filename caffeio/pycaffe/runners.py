"""What runs one layer of a live net, and what all of these share.

A runner computes forward and backward on the memory of its layer's blobs, as Caffe's layers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caffeio.net.shapes import infer
from caffeio.net.step import Step
from caffeio.ops.module import Layer
from caffeio.pycaffe.blob import Blob


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """What a layer returned, as a tuple of tops."""
    return result if isinstance(result, tuple) else (result,)


def place(value: Tensor) -> int:
    """Where a tensor's memory begins: equal for tensors that share it."""
    return value.untyped_storage().data_ptr()


def dense(value: Tensor) -> Tensor:
    """A tensor without holes or repeats."""
    if value.is_contiguous():
        return value
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return value
    return value.contiguous()


class Runner:
    """Runs one layer; subclasses say how."""

    def __init__(
        self, step: Step, bottoms: Sequence[Blob], tops: Sequence[Blob], params: Sequence[Blob]
    ) -> None:
        self.step, self.layer, self.type_name = step, step.layer, step.node.type
        self.bottoms, self.tops, self.params = list(bottoms), list(tops), list(params)
        self.needed = False  # whether Caffe runs its backward
        self.dies_forward = self.dies_backward = ""  # why Caffe would end there
        self.bottom_needs_gradient: list[bool] = [False] * len(self.bottoms)
        self.param_needs_gradient: list[bool] = [False] * len(self.params)
        self.in_place = bool(self.tops) and any(t is b for t in self.tops for b in self.bottoms)
        self.must_record = False  # its forward cannot be repeated when a backward comes
        self.losses = [(i, w) for i, w in enumerate(step.loss_weights) if w]

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops; `record` what the backward needs."""
        raise NotImplementedError

    def backward(self, device: torch.device) -> None:
        """Compute the bottoms' diffs from the tops', and add to the diffs of the params."""
        raise NotImplementedError

    def begin(self) -> None:
        """Do what Caffe's SetUp does to the blobs, besides giving them shapes."""

    def reshape(self, bottoms: Sequence[Blob], tops: Sequence[Blob]) -> None:
        """Shape `tops` by the shapes of `bottoms`; shapes that depend on data stay."""
        if self.layer.is_source:
            return
        shapes = [blob.shape for blob in bottoms]
        found: Sequence[Any]
        if isinstance(self.layer, Layer):
            # its `shapes` runs the layer, whose blobs have memory by now
            found = infer(
                self.type_name, self.layer.param, shapes, self.layer.profile, top_count=len(tops)
            ).tops
        else:
            found = self.layer.shapes(*shapes)
        for top, shape in zip(tops, found, strict=True):
            if shape is not None and min(shape, default=0) >= 0 and shape != top.shape:
                top.reshape(*shape)

    def compute(self, device: torch.device) -> Tensor:
        """The first top's data, computed anew; the blobs stay as they are."""
        if self.params:
            self.ready(device)
        return as_tuple(self.layer(*self.values(device)))[0].detach()

    def follow(self, value: Tensor, device: torch.device) -> Tensor:
        """What an in-place layer makes of `value`; its graph is kept, the blobs stay."""
        return as_tuple(self.layer(*self._with(value, device)))[0].detach()

    def _with(self, value: Tensor, device: torch.device) -> list[Tensor]:
        """The bottoms' data, with `value` in the place of what the layer writes over."""
        return [value if b is self.tops[0] else b.values(device) for b in self.bottoms]

    def values(self, device: torch.device) -> list[Tensor]:
        """The data of the bottoms."""
        return [blob.values(device) for blob in self.bottoms]

    def ready(self, device: torch.device) -> None:
        """Bring the newest values of the params to `device`."""
        for i, blob in enumerate(self.params):
            value = blob.values(device)
            mine = self.layer.blobs.raw(i)
            if mine.data_ptr() != value.data_ptr():
                mine.data = value.view(mine.shape)

    def store(self, tops: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Let the results be the data of the tops; what shares memory with others is copied."""
        taken = {place(value) for value in values}
        taken.update(place(blob) for blob in self.layer.blobs)
        for blob, top in zip(self.tops, tops, strict=True):
            out = dense(top.detach())
            if out.dtype != torch.float32:
                out = out.float()
            where = place(out)
            if where in taken and out.numel():
                if self.in_place and out.data_ptr() == blob.values(out.device).data_ptr():
                    continue
                out = out.clone(memory_format=torch.contiguous_format)
            taken.add(where)
            blob.set_values(out)

    def loss(self, device: torch.device) -> Tensor | None:
        """The sum of the tops weighted by their diffs, which hold the loss weights."""
        total: Tensor | None = None
        for i, _ in self.losses:
            term = self.tops[i].values(device) * self.tops[i].gradient(device)
            term = term.sum() if term.dim() else term
            total = term if total is None else total + term
        return total


def add_gradient(blob: Blob, value: Tensor) -> None:
    """Add to the diff of a param; where nothing is there, become it."""
    memory = blob.memory["diff"]
    if memory.is_blank:
        value = value if value.is_contiguous() else value.contiguous()
        memory.put(value.view(blob.shape))
        return
    memory.tensor(blob.shape, value.device).add_(value.view(blob.shape))
    memory.changed_on(value.device)
