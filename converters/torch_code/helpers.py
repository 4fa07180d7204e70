"""Functions that a written module needs where Caffe differs from PyTorch: copied with their source.

They take plain tensors and numbers, so that their text stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def arg_max(x: Tensor, dim: int, top_k: int = 1) -> tuple[Tensor, Tensor]:
    """The `top_k` greatest values along an axis and their indices; of equal ones the last first."""
    mirrored = x.flip(dim)
    values, index = mirrored.sort(dim=dim, descending=True, stable=True)
    values, index = values.narrow(dim, 0, top_k), index.narrow(dim, 0, top_k)
    return values, (x.shape[dim] - 1 - index).to(x.dtype)


def l2_normalize(x: Tensor, scale: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    """Directions of length 1 along the axes `dims`, times `scale`."""
    return x / (x.square().sum(list(dims), keepdim=True) + eps).sqrt() * scale


def mean_variance_normalize(
    x: Tensor, dims: Sequence[int], eps: float, *, variance: bool = True
) -> Tensor:
    """Subtract the mean over `dims` and divide by the standard deviation + eps."""
    x = x - x.mean(list(dims), keepdim=True)
    return x / (x.square().mean(list(dims), keepdim=True).sqrt() + eps) if variance else x


def reorg(x: Tensor, stride: int, *, reverse: bool = False) -> Tensor:
    """Move pixels to channels in darknet's order, or back."""
    n, c, h, w = x.shape
    s = stride
    if reverse:
        x = x.reshape(n, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // (s * s), h * s, w * s)
    x = x.reshape(n, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * s * s, h // s, w // s)


def unpool(x: Tensor, mask: Tensor, height: int, width: int) -> Tensor:
    """Put each value where the mask of a max pooling says, among zeros."""
    top = x.new_zeros(*x.shape[:2], height * width)
    top = top.scatter(2, mask.long().flatten(2), x.flatten(2))
    return top.view(*x.shape[:2], height, width)


def stochastic_pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Mean of each window under the law that draws in training: sum(x^2) / sum(x), or 0."""
    total = F.avg_pool2d(x, tuple(kernel), tuple(stride), divisor_override=1)
    squares = F.avg_pool2d(x * x, tuple(kernel), tuple(stride), divisor_override=1)
    return torch.where(total > 0, squares / torch.where(total > 0, total, 1), 0)


def prior_box(
    x: Tensor,
    image: Tensor,
    boxes: Sequence[tuple[float, float]],
    variance: Sequence[float],
    *,
    step: tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    offset: float = 0.5,
    clip: bool = False,
) -> Tensor:
    """SSD's boxes, (1, 2, H x W x boxes x 4): corners relative to the image, then variances.

    `boxes` are widths and heights in pixels; `step` and `size` are given as height and width.
    """
    high, wide = x.shape[2:]
    height, width = size or image.shape[2:]
    down, across = step or (height / high, width / wide)
    row = (torch.arange(high, device=x.device, dtype=torch.float32) + offset) * down
    column = (torch.arange(wide, device=x.device, dtype=torch.float32) + offset) * across
    center = torch.stack(torch.meshgrid(row, column, indexing="ij")[::-1], -1).double()
    half = torch.tensor(boxes, dtype=torch.float64, device=x.device) / 2
    corners = torch.cat((center.unsqueeze(2) - half, center.unsqueeze(2) + half), -1)
    corners = corners / corners.new_tensor([width, height, width, height])
    corners = corners.clamp(0, 1) if clip else corners
    both = torch.stack((corners, corners.new_tensor(variance).expand_as(corners)))
    return both.float().reshape(1, 2, -1)


def lstm_step(gates: Tensor, c: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Cell and hidden state after one step; gates are input, forget, output and cell."""
    i, f, o, g = gates.chunk(4, -1)
    c = i.sigmoid() * g.tanh() + keep * f.sigmoid() * c
    return c, o.sigmoid() * c.tanh()


def caffe_lstm(
    x: Tensor,
    cont: Tensor,
    weight: Tensor,
    bias: Tensor,
    recurrent: Tensor,
    static: Tensor | None = None,
    states: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Caffe's LSTM over (T, N, ...): `cont` (T, N) is 0 where a sequence begins.

    Returns the hidden states (T, N, H), and the last hidden and cell state (1, N, H).
    """
    inputs = F.linear(x.flatten(2), weight, bias)
    inputs = inputs if static is None else inputs + static
    zeros = inputs.new_zeros(x.shape[1], recurrent.shape[1])
    h, c = (zeros, zeros) if states is None else (state.squeeze(0) for state in states)
    outputs = []
    for step, keep in zip(inputs.unbind(0), cont.unsqueeze(-1).unbind(0), strict=True):
        c, h = lstm_step(step + F.linear(h * keep, recurrent), c, keep)
        outputs.append(h)
    return torch.stack(outputs), h.unsqueeze(0), c.unsqueeze(0)


def caffe_rnn(
    x: Tensor,
    cont: Tensor,
    weights: tuple[Tensor, Tensor],
    recurrent: Tensor,
    out: tuple[Tensor, Tensor],
    static: Tensor | None = None,
    states: tuple[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Caffe's RNN over (T, N, ...): the outputs (T, N, H) and the last state (1, N, H)."""
    inputs = F.linear(x.flatten(2), *weights)
    inputs = inputs if static is None else inputs + static
    h = inputs.new_zeros(x.shape[1], recurrent.shape[1]) if states is None else states[0].squeeze(0)
    outputs = []
    for step, keep in zip(inputs.unbind(0), cont.unsqueeze(-1).unbind(0), strict=True):
        h = (step + F.linear(h * keep, recurrent)).tanh()
        outputs.append(F.linear(h, *out).tanh())
    return torch.stack(outputs), h.unsqueeze(0)


def round_away(x: Tensor) -> Tensor:
    """C's round: halves away from zero."""
    wide = x.double()
    return (wide.sign() * (wide.abs() + 0.5).floor()).long()


def roi_pool(x: Tensor, rois: Tensor, size: Sequence[int], scale: float) -> Tensor:
    """Largest value of each of `size` bins of each region: (R, C, *size), 0 where a bin is empty.

    A row of `rois` is the image and the corners x1, y1, x2, y2, which are inside of the region.
    """
    rois = rois.reshape(-1, 5)
    corners = round_away(rois[:, 1:] * scale)
    place = [torch.arange(n, device=x.device, dtype=torch.float32) for n in size]
    ends = []
    for axis in (0, 1):
        first, last = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
        width = (last - first + 1).clamp(min=1).float() / size[axis]
        low = (place[axis] * width).floor().long() + first
        high = ((place[axis] + 1) * width).ceil().long() + first
        limit = x.shape[2 + axis]
        ends.append(torch.stack((low.clamp(0, limit), high.clamp(0, limit)), -1).tolist())
    out = x.new_zeros(len(rois), x.shape[1], *size)
    for r, image in enumerate(rois[:, 0].long().tolist()):
        for i, (top, bottom) in enumerate(ends[0][r]):
            for j, (left, right) in enumerate(ends[1][r]):
                if top < bottom and left < right:
                    out[r, :, i, j] = x[image, :, top:bottom, left:right].amax((1, 2))
    return out


def psroi_pool(x: Tensor, rois: Tensor, dim: int, group: int, scale: float) -> Tensor:
    """Mean of each bin of each region, in maps of its own: (R, dim, group, group)."""
    rois = rois.reshape(-1, 5)
    corners = round_away(rois[:, 1:]).float()
    weights = []
    for axis in (0, 1):
        low = corners[:, 1 - axis] * scale
        high = (corners[:, 3 - axis] + 1) * scale
        width = ((high - low).clamp(min=0.1) / group).unsqueeze(1)
        place = torch.arange(group, device=x.device, dtype=torch.float32)
        limit = x.shape[2 + axis]
        first = (place * width + low.unsqueeze(1)).floor().long().clamp(0, limit)
        last = ((place + 1) * width + low.unsqueeze(1)).ceil().long().clamp(0, limit)
        cell = torch.arange(limit, device=x.device)
        inside = (cell >= first.unsqueeze(-1)) & (cell < last.unsqueeze(-1))
        weights.append(inside / (last - first).clamp(min=1).unsqueeze(-1))
    maps = x.view(len(x), dim, group, group, *x.shape[2:])
    means = []
    for image, rows, columns in zip(rois[:, 0].long().tolist(), *weights, strict=True):
        across = torch.einsum("dijhw,jw->dijh", maps[image], columns)
        means.append(torch.einsum("dijh,ih->dij", across, rows))
    return torch.stack(means)
