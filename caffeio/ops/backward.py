"""Backward as Caffe computes it on the memory of blobs, for layers whose blobs are overwritten.

A blob is memory in Caffe: where a layer works in place, its top is its bottom, data and gradient,
and the layers before it find in Backward what lies there by then. Each class here is the
Backward_cpu of one layer type, statement by statement, on tensors that are that memory: in place
`bottom_diffs[0]` is `top_diffs[0]`. `keep` returns what the layer saves of its forward in memory of
its own. Types that are not here read only bottoms, or signs: for them autograd is asked at what
lies in the bottoms. The net decides which layers need any of this (caffeio/net/memory.py).
Sources: src/caffe/layers/*_layer.cpp, include/caffe/util/mkl_alternate.hpp (axpby).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.ops import digits
from caffeio.ops.blas import dots
from caffeio.ops.digits import is_exact
from caffeio.ops.lstm_unit import unit_backward, unit_forward
from caffeio.ops.neighbours import across_exactly, channel_sum, is_short, power, running_sums
from caffeio.ops.small_batch import standardize, sums_over

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType


@dataclass(eq=False)
class LayerMemory:
    """What one layer's Backward sees: the data and gradients of its blobs."""

    layer: Any
    bottoms: list[Tensor]
    tops: list[Tensor]
    top_diffs: list[Tensor]
    bottom_diffs: list[Tensor]  # to be written; in place the same tensor as the top's
    propagate_down: Sequence[bool]  # propagate_down
    kept: Any


class Backward:
    """Backward of one layer type."""

    @staticmethod
    def keep(layer: LayerType, bottoms: Sequence[Tensor], tops: Sequence[Tensor]) -> Any:
        """Return what the layer keeps of its forward in memory of its own."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        """Write `m.bottom_diffs`."""
        raise NotImplementedError


class ReLU(Backward):
    """top_diff * (1 above 0, else the slope): nan stays nan."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        x = m.bottoms[0]
        torch.mul(m.top_diffs[0], (x > 0) + m.layer.slope * (x <= 0), out=m.bottom_diffs[0])


class Clip(Backward):
    """top_diff * (1 from min to max, else 0): nan stays nan."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        low, high = m.layer.limits
        inside = (m.bottoms[0] >= low) & (m.bottoms[0] <= high)
        torch.mul(m.top_diffs[0], inside, out=m.bottom_diffs[0])


class Sigmoid(Backward):
    """top_diff * y * (1 - y)."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        y = m.tops[0]
        m.bottom_diffs[0].copy_((m.top_diffs[0] * y).double() * (1 - y.double()))


class BNLL(Backward):
    """top_diff * e / (e + 1) with e = e^x, x at most 50."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        e = m.bottoms[0].clamp(max=50).double().exp_().to(m.bottoms[0].dtype)
        m.bottom_diffs[0].copy_((m.top_diffs[0] * e).double() / (e.double() + 1))


class TanH(Backward):
    """top_diff * (1 - y^2)."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        y = m.tops[0]
        torch.mul(m.top_diffs[0], 1 - y * y, out=m.bottom_diffs[0])


class ELU(Backward):
    """top_diff where x > 0, else top_diff * (alpha + y)."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        alpha, scale = m.layer.alpha, m.layer.scale
        slope = torch.where(m.bottoms[0] > 0, scale, m.tops[0] + alpha * scale)
        torch.mul(m.top_diffs[0], slope, out=m.bottom_diffs[0])


class Exp(Backward):
    """top_diff * y * ln(base) * scale."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        torch.mul(m.tops[0], m.top_diffs[0], out=m.bottom_diffs[0])
        m.bottom_diffs[0].mul_(m.layer.inner)


class Swish(Backward):
    """top_diff * (beta y + s (1 - beta y)) with the sigmoid s of the forward."""

    @staticmethod
    def keep(layer: Any, bottoms: Sequence[Tensor], tops: Sequence[Tensor]) -> Tensor:
        x = (bottoms[0] * layer.beta).double()
        s: Tensor = x.mul_(0.5).tanh_().mul_(0.5).add_(0.5).to(bottoms[0].dtype)
        return s

    @staticmethod
    def run(m: LayerMemory) -> None:
        y = (m.layer.beta * m.tops[0]).double()
        m.bottom_diffs[0].copy_(m.top_diffs[0].double() * (y + m.kept.double() * (1 - y)))


class Softmax(Backward):
    """(top_diff - sum of top_diff * y) * y."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        diff, y = m.bottom_diffs[0], m.tops[0]
        diff.copy_(m.top_diffs[0])
        diff.sub_(dots(diff, y, m.layer.dim)).mul_(y)


class Log(Backward):
    """top_diff * scale / ln(base) / (shift + scale * x); in place that factor, squared."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        layer, diff = m.layer, m.bottom_diffs[0]
        diff.copy_(m.bottoms[0]).mul_(layer.scale).add_(layer.shift)
        diff.reciprocal_().mul_(layer.scale * layer.outer)
        diff.mul_(m.top_diffs[0])


class Power(Backward):
    """top_diff * power * scale * y / (shift + scale * x); in place that factor, squared."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        layer, diff, x = m.layer, m.bottom_diffs[0], m.bottoms[0]
        factor = layer.power * layer.scale
        if factor == 0 or layer.power == 1:
            diff.fill_(factor)
        elif layer.power == 2:
            diff.copy_(x).mul_(factor * layer.scale).add_(factor * layer.shift)
        else:
            diff.copy_(x).mul_(layer.scale).add_(layer.shift)
            torch.div(m.tops[0], diff, out=diff)
            diff.mul_(factor)
        if factor != 0:
            diff.mul_(m.top_diffs[0])


class LRN(Backward):
    """Across channels with the sums of the forward; within a channel with its averages."""

    @staticmethod
    def keep(layer: Any, bottoms: Sequence[Tensor], tops: Sequence[Tensor]) -> Tensor:
        square = bottoms[0] * bottoms[0]
        if layer.across and is_exact(square) and is_short(square, layer.size):
            return across_exactly(bottoms[0].detach(), layer.size, layer.alpha, layer.k)
        if layer.across:
            return channel_sum(square, layer.size).mul_(layer.alpha / layer.size).add_(layer.k)
        mean = F.avg_pool2d(square, layer.size, 1, layer.size // 2)
        return mean.mul_(layer.alpha).add_(1)

    @staticmethod
    def run(m: LayerMemory) -> None:
        if m.layer.across:
            LRN._across(m)
        else:
            LRN._within(m)

    @staticmethod
    def _across(m: LayerMemory) -> None:
        layer, diff, scale = m.layer, m.bottom_diffs[0], m.kept
        factor = 2 * layer.alpha * layer.beta / layer.size
        if is_exact(diff) and is_short(diff, layer.size):
            diff.copy_(digits.pow_(scale, -layer.beta))
            torch.mul(m.top_diffs[0], diff, out=diff)
            ratio = m.top_diffs[0] * m.tops[0] / scale
            around = running_sums(ratio, layer.size, layer.size // 2, 1.0, 0.0)
            terms = (m.bottoms[0] * around).double()
            diff.copy_(diff.double() - _float(factor) * terms)
            return
        diff.copy_(power(scale, -layer.beta))
        torch.mul(m.top_diffs[0], diff, out=diff)
        around = channel_sum(m.top_diffs[0] * m.tops[0] / scale, layer.size)
        diff.addcmul_(m.bottoms[0], around, value=-factor)

    @staticmethod
    def _within(m: LayerMemory) -> None:
        layer, x, scale = m.layer, m.bottoms[0], m.kept
        y = power(scale, -layer.beta)
        direct = m.top_diffs[0] * y
        mean = m.top_diffs[0] * x * (y / scale * (-layer.alpha * layer.beta))
        squares = F.avg_pool2d(mean, layer.size, 1, layer.size // 2)  # its own transpose
        m.bottom_diffs[0].copy_(direct.addcmul_(x, squares, value=2))


class MVN(Backward):
    """(top_diff - mean of top_diff - y * mean of top_diff * y) / deviation; in place not that."""

    @staticmethod
    def keep(layer: Any, bottoms: Sequence[Tensor], tops: Sequence[Tensor]) -> Tensor | None:
        if not layer.normalize_variance:
            return None
        x = bottoms[0].detach().reshape(tops[0].shape)
        return standardize(x, layer.dims, True, layer.eps)[1]

    @staticmethod
    def run(m: LayerMemory) -> None:
        dims, y, grad = m.layer.dims, m.tops[0], m.top_diffs[0]
        diff = m.bottom_diffs[0].view(grad.shape)
        if not m.layer.normalize_variance:
            torch.sub(grad, sums_over(grad, dims) * (1 / prod(y.shape[i] for i in dims)), out=diff)
            return
        torch.mul(y, grad, out=diff)
        diff.copy_(sums_over(diff, dims).expand_as(diff))
        torch.mul(y, diff, out=diff)
        diff.add_(sums_over(grad, dims))
        items = 1
        for dim in dims:
            items *= y.shape[dim]
        diff.mul_(-1 / items)  # axpby scales first, also where both are the same memory
        diff.add_(grad).div_(m.kept)


class Eltwise(Backward):
    """Bottom by bottom: in place the first one's gradient is what the others find in the top's."""

    @staticmethod
    def keep(layer: Any, bottoms: Sequence[Tensor], tops: Sequence[Tensor]) -> Tensor | None:
        if layer.operation != "MAX":
            return None
        winner = torch.where(bottoms[0] > bottoms[1], 0, 1)
        if layer.loses_first:
            winner = torch.ones_like(winner)
        best = torch.where(winner == 0, bottoms[0], bottoms[1])
        for i, x in enumerate(bottoms[2:], 2):
            winner = torch.where(x > best, i, winner)
            best = torch.where(x > best, x, best)
        return winner

    @staticmethod
    def run(m: LayerMemory) -> None:
        grad, layer = m.top_diffs[0], m.layer
        for i, (diff, propagate_down) in enumerate(
            zip(m.bottom_diffs, m.propagate_down, strict=True)
        ):
            if not propagate_down:
                continue
            if layer.operation == "SUM":
                diff.copy_(grad * layer.coeff[i])
            elif layer.operation == "MAX":
                diff.copy_(torch.where(m.kept == i, grad, 0.0))
            elif layer.stable:
                others = [x for j, x in enumerate(m.bottoms) if j != i]
                diff.copy_(others[0])
                for x in others[1:]:
                    diff.mul_(x)
                diff.mul_(grad)
            else:
                torch.div(m.tops[0], m.bottoms[i], out=diff)
                diff.mul_(grad)


class LSTMUnit(Backward):
    """One step of an LSTM with the cell state that lies in the top."""

    @staticmethod
    def run(m: LayerMemory) -> None:
        c_prev, gates, cont = m.bottoms
        acts, _, _ = unit_forward(gates, c_prev, cont.unsqueeze(-1))
        grad_gates, grad_c = unit_backward(acts, c_prev, m.tops[0], *m.top_diffs)
        m.bottom_diffs[0].copy_(grad_c)
        m.bottom_diffs[1].copy_(grad_gates)


def _float(value: float) -> float:
    return torch.tensor(value).item()


def autograd(m: LayerMemory, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of bottoms and params by autograd, at what lies in the bottoms' memory."""
    with torch.enable_grad():
        bottoms = [
            x.detach().requires_grad_(propagate_down)
            for x, propagate_down in zip(m.bottoms, m.propagate_down, strict=True)
        ]
        tops = m.layer(*bottoms)
        tops = tops if isinstance(tops, tuple) else (tops,)
        sources = [x for x in (*bottoms, *params) if x.requires_grad]
        pairs = [p for p in zip(tops, m.top_diffs, strict=True) if p[0].requires_grad]
        grads = iter(
            torch.autograd.grad(
                [top for top, _ in pairs], sources, [grad for _, grad in pairs], allow_unused=True
            )
        )
    return [next(grads) if x.requires_grad else None for x in (*bottoms, *params)]
