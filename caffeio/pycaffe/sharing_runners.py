"""Layers that compute nothing: tops that share memory, or that come from outside."""

from __future__ import annotations

from typing import Any

import torch

from caffeio.pycaffe.memory import CPU
from caffeio.pycaffe.runners import Runner, as_tuple


class SplitRunner(Runner):
    """All tops share the bottom's data; the bottom's diff is the sum of theirs."""

    def begin(self) -> None:
        """Do what Caffe's SetUp does to the blobs."""
        for top in self.tops:
            top.share_data(self.bottoms[0])

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        bottom = self.bottoms[0]
        for top in self.tops:
            if top.shape != bottom.shape:
                top.reshape(*bottom.shape)
            top.share_data(bottom)

    def backward(self, device: torch.device) -> None:
        """Compute the diffs of the bottoms."""
        if not self.bottom_needs_gradient[0]:
            return
        grads = [top.gradient(device) for top in self.tops]
        if len(grads) == 1:
            self.bottoms[0].set_gradient(grads[0].clone())
            return
        total = grads[0] + grads[1]
        for grad in grads[2:]:
            total += grad
        self.bottoms[0].set_gradient(total)


class ShareRunner(Runner):
    """The top is the bottom in another shape: data and diff are the same memory."""

    def begin(self) -> None:
        """Do what Caffe's SetUp does to the blobs."""
        self.tops[0].share_data(self.bottoms[0])
        self.tops[0].share_diff(self.bottoms[0])

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        bottom, top = self.bottoms[0], self.tops[0]
        (out,) = as_tuple(self.layer(bottom.values(device)))
        top.reshape(*out.shape)
        top.share_data(bottom)
        top.share_diff(bottom)

    def backward(self, device: torch.device) -> None:
        """Nothing: what comes from above lies in the bottom's diff already."""


class ParameterRunner(Runner):
    """The top is the layer's blob: data and diff are the same memory."""

    def begin(self) -> None:
        """Do what Caffe's SetUp does to the blobs."""
        self.forward(CPU, record=False)

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        self.tops[0].share_data(self.params[0])
        self.tops[0].share_diff(self.params[0])

    def backward(self, device: torch.device) -> None:
        """Nothing: what comes from above lies in the blob's diff already."""


class InputRunner(Runner):
    """The tops hold what the script writes."""

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute nothing: the script writes the tops."""

    def backward(self, device: torch.device) -> None:
        """Give no gradient."""


class SourceRunner(InputRunner):
    """The tops are the next batch of a data source."""

    def __init__(self, source: Any, *args: Any) -> None:
        super().__init__(*args)
        self.source = source
        self.constant = [False] * len(self.tops)

    def begin(self) -> None:
        """Do what Caffe's SetUp does to the blobs."""
        # constants are filled once: a script may write over them
        if self.layer.fills_once:
            made = self.source.constants()
            self.constant = [value is not None for value in made]
            for blob, value in zip(self.tops, made, strict=True):
                if value is not None:
                    blob.set_values(value.to(torch.float32, copy=True))

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        if self.constant and all(self.constant):
            return
        batch = self.source.next()
        for blob, value, constant in zip(self.tops, batch, self.constant, strict=True):
            if constant:
                continue
            if self.type_name == "MemoryData":  # the script's own arrays
                blob.reshape(*value.shape)
                blob.memory["data"].point_at(value)
            else:
                blob.set_values(value.to(torch.float32, copy=True).contiguous())
