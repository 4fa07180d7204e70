"""Torch's fused optimizer kernels, used for Caffe's formulas, and cache-sized pieces for the rest.

The kernels are private to torch, so each is tried on a few numbers, once a device and dtype,
before it is trusted; where one is missing or means something else, plain operations take over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

# The kernels skip the momentum buffer if momentum == 0, Caffe's history exists all the same:
# this is not 0 as a double and 0 in the kernel's arithmetic.
_NO_MOMENTUM = 1e-60
# A step count at which Adam's bias corrections 1 - beta^step are exactly 1.
_FAR = 1e30
_PIECE = 1 << 18  # floats a thread: the working set of one piece stays in the caches


def _momentum(value: float) -> float:
    return value if value != 0 else _NO_MOMENTUM


def sgd(
    params: list[Tensor],
    grads: list[Tensor],
    history: list[Tensor],
    *,
    momentum: float,
    gain: float,
    decay: float,
    lr: float = 1.0,
    grad_scale: Tensor | None = None,
) -> None:
    """h = momentum * h + gain * (g + decay * w); w -= lr * h, in one pass over memory.

    Torch's SGD has 1 - dampening for `gain`. `grad_scale` divides g first (and rewrites it).
    """
    torch._fused_sgd_(
        _in_order(params),
        _in_order(grads),
        _in_order(history),
        weight_decay=decay,
        momentum=_momentum(momentum),
        lr=lr,
        dampening=1.0 - gain,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        grad_scale=grad_scale,
    )


def nesterov(
    params: list[Tensor],
    grads: list[Tensor],
    history: list[Tensor],
    *,
    momentum: float,
    decay: float,
    grad_scale: Tensor,
) -> None:
    """h = momentum * h + u; w -= u + momentum * h, where u = g / grad_scale + decay * w."""
    torch._fused_sgd_(
        _in_order(params),
        _in_order(grads),
        _in_order(history),
        weight_decay=decay,
        momentum=_momentum(momentum),
        lr=1.0,
        dampening=0.0,
        nesterov=True,
        maximize=False,
        is_first_step=False,
        grad_scale=grad_scale,
    )


def adam(
    params: list[Tensor],
    grads: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    decay: float,
    delta: float,
    grad_scale: Tensor | None = None,
) -> None:
    """g += decay * w; m, v = moments of g; w -= lr * m / (sqrt(v) + delta): no bias correction.

    With `first` the gradients themselves and a first beta of 0 this is RMSProp; they then hold
    g + decay * w afterwards.
    """
    step = torch.full((), _FAR, dtype=torch.float32, device=params[0].device)
    torch._fused_adam_(
        _in_order(params),
        _in_order(grads),
        _in_order(first),
        _in_order(second),
        [],
        [step] * len(params),
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=decay,
        eps=delta,
        amsgrad=False,
        maximize=False,
        grad_scale=grad_scale,
    )


def adagrad(
    params: list[Tensor],
    grads: list[Tensor],
    history: list[Tensor],
    *,
    lr: float,
    decay: float,
    delta: float,
    grad_scale: Tensor | None = None,
) -> None:
    """g += decay * w; h += g^2; w -= lr * g / (sqrt(h) + delta)."""
    step = torch.ones((), dtype=torch.float32, device=params[0].device)
    torch._fused_adagrad_(
        _in_order(params),
        _in_order(grads),
        _in_order(history),
        [step] * len(params),
        lr=lr,
        lr_decay=0.0,
        weight_decay=decay,
        eps=delta,
        maximize=False,
        grad_scale=grad_scale,
    )


def _try_sgd(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    sgd([w], [g], [h], momentum=0.0, gain=0.5, decay=0.25, lr=2.0, grad_scale=scale)
    sgd([w], [g], [h], momentum=0.5, gain=0.25, decay=0.5)
    return w, h


def _expect_sgd(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    g = g / scale
    h = 0.5 * (g + 0.25 * w)
    w = w - 2 * h
    h = 0.5 * h + 0.25 * (g + 0.5 * w)
    return w - h, h


def _try_nesterov(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    nesterov([w], [g], [h], momentum=0.5, decay=0.25, grad_scale=scale)
    return w, h


def _expect_nesterov(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    u = g / scale + 0.25 * w
    h = 0.5 * h + u
    return w - (u + 0.5 * h), h


def _try_adam(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    adam([w], [g], [g], [h], lr=0.5, betas=(0.0, 0.75), decay=0.25, delta=0.125, grad_scale=scale)
    first = g * 2
    adam([w], [g], [first], [h], lr=0.5, betas=(0.5, 0.75), decay=0.0, delta=0.125)
    return w, h + first + g


def _expect_adam(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    g = g / scale + 0.25 * w
    h = 0.75 * h + 0.25 * g * g
    w = w - 0.5 * g / (h.sqrt() + 0.125)
    first = 0.5 * 2 * g + 0.5 * g
    h = 0.75 * h + 0.25 * g * g
    return w - 0.5 * first / (h.sqrt() + 0.125), h + first + g


def _try_adagrad(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    adagrad([w], [g], [h], lr=0.5, decay=0.25, delta=0.125, grad_scale=scale)
    return w, h


def _expect_adagrad(w: Tensor, g: Tensor, h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    g = g / scale + 0.25 * w
    h = h + g * g
    return w - 0.5 * g / (h.sqrt() + 0.125), h


_Trial = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
_TRIALS: dict[str, tuple[_Trial, _Trial]] = {
    "sgd": (_try_sgd, _expect_sgd),
    "nesterov": (_try_nesterov, _expect_nesterov),
    "adam": (_try_adam, _expect_adam),
    "adagrad": (_try_adagrad, _expect_adagrad),
}


@cache
def available(kernel: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `kernel` exists on `device` for `dtype` and computes what its function here says."""
    attempt, expected = _TRIALS[kernel]

    def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = torch.linspace(0.5, 2.0, 19, device=device).to(dtype)
        scale = torch.full((), 2.0, dtype=torch.float32, device=device)
        return values.clone(), values.flip(0).clone(), values * values, scale

    try:
        got = attempt(*data())
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
    expected_values = expected(*data())
    close = torch.finfo(dtype).eps * 16
    return all(
        torch.allclose(a, b, rtol=close, atol=close)
        for a, b in zip(got, expected_values, strict=True)
    )


def flat(tensor: Tensor) -> Tensor | None:
    """The elements of `tensor` in the order of memory, as a view; None if it has holes."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.as_strided((tensor.numel(),), (1,))
    ordered = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    permuted = tensor.permute(ordered)
    return permuted.view(-1) if permuted.is_contiguous() else None


def _in_order(tensors: list[Tensor]) -> list[Tensor]:
    """View dense tensors in the order of memory: the kernels copy the gradients of others."""
    if tensors[0].device.type != "cpu":
        return tensors
    views = ((tensor, None if tensor.is_contiguous() else flat(tensor)) for tensor in tensors)
    return [tensor if view is None else view for tensor, view in views]


def pieces(*lists: Sequence[Tensor]) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """Cut and gather tensors into pieces that fit the cache: positions, and a part of each list.

    Operations over a piece do not go to memory for their temporaries, which on CPUs is faster than
    whole tensors by far. All lists are equally long; the tensors at a position have one layout.
    """
    limit = _PIECE * torch.get_num_threads()
    positions: list[int] = []
    columns: list[list[Tensor]] = [[] for _ in lists]
    total = 0
    for position, row in enumerate(zip(*lists, strict=True)):
        for parts in _cut(row, limit):
            if positions and total + parts[0].numel() > limit:
                yield positions, columns
                positions, columns, total = [], [[] for _ in lists], 0
            positions.append(position)
            total += parts[0].numel()
            for column, part in zip(columns, parts, strict=True):
                column.append(part)
    if positions:
        yield positions, columns


def _cut(row: Sequence[Tensor], limit: int) -> Iterator[Sequence[Tensor]]:
    """Cut tensors of one layout in parallel, into parts of `limit` elements."""
    count = row[0].numel()
    views = [flat(tensor) for tensor in row] if count > limit else []
    whole = [view for view in views if view is not None]
    if len(whole) < len(row):
        yield row
        return
    for start in range(0, count, limit):
        yield [view[start : start + limit] for view in whole]


def matching(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` itself if it lies in memory as `like` does, else a copy that does."""
    same = tensor.stride() == like.stride() and tensor.device == like.device
    if same and tensor.dtype == like.dtype:
        return tensor
    return torch.empty_like(like).copy_(tensor)
