"""Layers whose Backward reads blobs alone, and the choice of a runner for a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caffeio.net.step import Step
from caffeio.pycaffe.blob import Blob
from caffeio.pycaffe.formulas import Formula, formula_of
from caffeio.pycaffe.graph_runner import GraphRunner
from caffeio.pycaffe.runners import Runner, as_tuple
from caffeio.pycaffe.sharing_runners import (
    InputRunner,
    ParameterRunner,
    ShareRunner,
    SourceRunner,
    SplitRunner,
)
from caffeio.pycaffe.weight_runners import InnerProductRunner, weight_runner


class FormulaRunner(Runner):
    """Keeps nothing: backward reads the blobs."""

    def __init__(self, formula: Formula, *args: Any) -> None:
        super().__init__(*args)
        self.formula = formula
        self.layer.live_in_place = self.in_place

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        values = self.values(device)
        self.store(as_tuple(self.layer(*values)), values)

    def backward(self, device: torch.device) -> None:
        """Compute the diffs of the bottoms."""
        if not self.bottom_needs_gradient[0]:
            return
        bottom, top = self.bottoms[0], self.tops[0]
        grad = top.gradient(device)
        bottom.set_gradient(
            self.formula(self.layer, bottom.values(device), top.values(device), grad)
        )


class SwishRunner(Runner):
    """Swish: Caffe keeps the sigmoid of the forward, and reads the top when it goes back."""

    sigmoid: Tensor | None = None

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        values = self.values(device)
        if record or self.must_record:
            self.sigmoid = torch.sigmoid(values[0] * self.layer.param.swish_param.beta)
        self.store(as_tuple(self.layer(*values)), values)

    def follow(self, value: Tensor, device: torch.device) -> Tensor:
        """What the layer makes of `value` in place; its graph is kept, the blobs stay."""
        self.sigmoid = torch.sigmoid(value * self.layer.param.swish_param.beta)
        return super().follow(value, device)

    def backward(self, device: torch.device) -> None:
        """Compute the diffs of the bottoms."""
        if not self.bottom_needs_gradient[0]:
            return
        beta = self.layer.param.swish_param.beta
        sigmoid = self.sigmoid
        if sigmoid is None:
            sigmoid = torch.sigmoid(self.bottoms[0].values(device) * beta)
        top = self.tops[0]
        slope = top.values(device) * beta
        slope = slope + sigmoid * (1 - slope)
        self.bottoms[0].set_gradient(top.gradient(device) * slope)


class EltwiseRunner(Runner):
    """Eltwise, with what Caffe makes of it in place: it writes the top before it reads it."""

    winner: Tensor | None = None

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        values = self.values(device)
        layer: Any = self.layer
        if self.in_place and layer.operation != "PROD":
            lowest = float(torch.finfo(torch.float32).min)
            start = 0.0 if layer.operation == "SUM" else lowest
            mine = self.tops[0]
            values = [
                torch.full_like(v, start) if b is mine else v
                for b, v in zip(self.bottoms, values, strict=True)
            ]
        if layer.operation == "MAX" and record and self.needed:
            self.winner = self._winner(values)
        self.store(as_tuple(layer(*values)), values)

    @staticmethod
    def _winner(values: Sequence[Tensor]) -> Tensor:
        """Which bottom gives the maximum."""
        best = torch.where(values[0] > values[1], values[0], values[1])
        index = torch.where(values[0] > values[1], 0, 1)
        for i, value in enumerate(values[2:], 2):
            index = torch.where(value > best, i, index)
            best = torch.where(value > best, value, best)
        return index

    def backward(self, device: torch.device) -> None:
        """Compute the diffs of the bottoms."""
        for i, need in enumerate(self.bottom_needs_gradient):
            if need:
                self.bottoms[i].set_gradient(self._gradient(i, device))

    def _gradient(self, i: int, device: torch.device) -> Tensor:
        layer: Any = self.layer
        top = self.tops[0]
        grad = top.gradient(device)
        if layer.operation == "SUM":
            coeff = layer.coeff[i]
            return grad.clone() if coeff == 1 else grad * coeff
        if layer.operation == "MAX":
            if self.winner is None:
                self.winner = self._winner(self.values(device))
            return torch.where(self.winner == i, grad, 0.0)
        factor: Tensor | None = None
        if layer.stable:
            for j, blob in enumerate(self.bottoms):
                if j != i:
                    value = blob.values(device)
                    factor = value if factor is None else value * factor
        else:
            factor = top.values(device) / self.bottoms[i].values(device)
        assert factor is not None
        own = self.bottoms[i] is top  # Caffe has written the factor over what came from above
        return factor * (factor if own else grad)


def make_runner(
    step: Step,
    bottoms: Sequence[Blob],
    tops: Sequence[Blob],
    params: Sequence[Blob],
    source: Any = None,
) -> Runner:
    """The runner of one layer."""
    given = (step, bottoms, tops, params)
    kind, layer = step.node.type, step.layer
    if layer.is_source:
        return InputRunner(*given) if source is None else SourceRunner(source, *given)
    if kind == "Split":
        return SplitRunner(*given)
    if kind == "Flatten" or (kind == "Reshape" and layer.param.reshape_param.pixelshuffler == 1):
        return ShareRunner(*given)
    if (kind == "Concat" and len(bottoms) == 1) or (kind == "Slice" and len(tops) == 1):
        return ShareRunner(*given)
    if kind == "Parameter":
        return ParameterRunner(*given)
    if kind == "Swish":
        return SwishRunner(*given)
    if kind == "Eltwise":
        return EltwiseRunner(*given)
    cls = weight_runner(kind, layer, len(bottoms))
    if cls is not None:
        return cls(*given)
    formula = formula_of(layer)
    if formula is not None:
        return FormulaRunner(formula, *given)
    return GraphRunner(*given)


def repeatable(runner: Runner) -> bool:
    """Whether `runner.compute` gives once more what its forward gave."""
    if runner.in_place or len(runner.tops) != 1:
        return False
    if isinstance(runner, GraphRunner):
        return not runner.stateful
    return isinstance(runner, (FormulaRunner, SwishRunner, EltwiseRunner, InnerProductRunner))
