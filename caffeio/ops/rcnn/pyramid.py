"""Maxima of boxes of cells, many at once: a pyramid of windows of 1, 2, 4 ... cells.

The method is the sparse table for range maxima (Bender and Farach-Colton 2000) along each axis.
"""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.ops.tracing import apply

LOWEST = -torch.finfo(torch.float32).max  # what Caffe's maximum starts from


class _Pyramid:
    """Maxima of windows of 1, 2, 4 ... cells along each axis, and where the first one lies.

    The maximum of any box of cells is that of the two windows along each axis that cover it.
    """

    def __init__(self, x: Tensor, most: list[int]) -> None:
        """`x` is (N, C, axes); `most` the greatest number of cells of a box along each axis."""
        flat = torch.arange(x[0, 0].numel(), device=x.device, dtype=torch.int32)
        self.index: dict[tuple[int, ...], Tensor] = {}
        self.value: dict[tuple[int, ...], Tensor] = {}
        axes = x.dim() - 2
        zero = (0,) * axes
        self.value[zero] = x.movedim(1, -1).contiguous()
        self.index[zero] = flat.view(*x.shape[2:], 1).expand_as(self.value[zero])
        self.levels = [max(0, n.bit_length() - 1) for n in most]
        for key in product(*(range(n + 1) for n in self.levels)):
            if key != zero:
                self._double(key)

    def _double(self, key: tuple[int, ...]) -> None:
        axis = next(a for a, level in enumerate(key) if level)
        below = tuple(n - (a == axis) for a, n in enumerate(key))
        step = 1 << below[axis]
        value, index = self.value[below], self.index[below]
        size = value.shape[axis + 1]
        if size > step:
            far = torch.arange(size, device=value.device).add(step).clamp(max=size - 1)
            value, index = better(
                value, index, value.index_select(axis + 1, far), index.index_select(axis + 1, far)
            )
        self.value[key], self.index[key] = value, index


def better(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """The greater values and their places; of equal ones the first place."""
    take = (b > a) | ((b == a) & (j < i))
    return torch.where(take, b, a), torch.where(take, j, i)


class _MaxOfBoxes(torch.autograd.Function):
    """Maxima (R, C, bins) of boxes; empty ones are 0 and give no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, image: Tensor, first: list[Tensor], last: list[Tensor]
    ) -> Tensor:
        axes = x.dim() - 2
        sizes = [(b - a).clamp(min=0) for a, b in zip(first, last, strict=True)]
        most = [int(s.max()) if s.numel() else 0 for s in sizes]
        pyramid = _Pyramid(x.detach(), [max(1, n) for n in most])
        keys = list(product(*(range(n + 1) for n in pyramid.levels)))
        value = torch.stack([pyramid.value[k] for k in keys]).flatten(1, -2)
        index = torch.stack([pyramid.index[k] for k in keys]).flatten(1, -2)
        grids = [_grid(t, axes, a) for a, t in enumerate(first)]
        ends = [_grid(t, axes, a) for a, t in enumerate(last)]
        spans = [_grid(t, axes, a) for a, t in enumerate(sizes)]
        empty = functools.reduce(torch.logical_or, (s == 0 for s in spans))
        level = [s.clamp(min=1).log2().floor().long() for s in spans]
        table = torch.zeros_like(level[0])
        for n, power in zip(pyramid.levels, level, strict=True):
            table = table * (n + 1) + power
        batch = image.view(-1, *[1] * axes)
        best: tuple[Tensor, Tensor] | None = None
        for corner in product((0, 1), repeat=axes):
            place = batch
            for a, high in enumerate(corner):
                at = ends[a] - (1 << level[a]) if high else grids[a]
                place = place * x.shape[2 + a] + at.clamp(0, x.shape[2 + a] - 1)
            found = value[table, place], index[table, place]
            best = found if best is None else better(*best, *found)
        assert best is not None
        empty = empty.unsqueeze(-1)
        # Caffe's maximum starts from the least float
        top = best[0].clamp(min=LOWEST).masked_fill(empty, 0.0)
        ctx.save_for_backward(image, best[1].masked_fill(empty, -1))
        ctx.shape = x.shape
        return top.movedim(-1, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image, index = ctx.saved_tensors
        num, channels, *axes = ctx.shape
        grad = grads[0].movedim(1, -1).masked_fill(index < 0, 0.0).flatten(1, -2)
        cells = torch.Size(axes).numel()
        place = index.clamp(min=0).long().flatten(1, -2) + (image * cells).view(-1, 1, 1)
        out = grad.new_zeros(num * cells, channels)
        out.scatter_add_(0, place.flatten(0, 1), grad.flatten(0, 1))
        return out.view(num, *axes, channels).movedim(-1, 1), None, None, None


def _grid(t: Tensor, axes: int, axis: int) -> Tensor:
    """(R, bins) as (R, 1 ... bins ... 1)."""
    return t.view(len(t), *(t.shape[1] if a == axis else 1 for a in range(axes)))


def max_of_boxes(x: Tensor, image: Tensor, first: list[Tensor], last: list[Tensor]) -> Tensor:
    """Maxima (R, C, bins) of boxes of cells of x (N, C, axes).

    Box r is of image `image[r]`; its bins along axis a are `first[a][r]` up to `last[a][r]`, both
    (R, bins). Empty bins are 0. Of equal cells the first one gets the gradient, as in Caffe.
    """
    return apply(_MaxOfBoxes, x, image, first, last)  # type: ignore
