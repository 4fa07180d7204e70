"""What differs where torch records a program instead of computing numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

Result = TypeVar("Result")

# From here on torch.export is known to record `while_loop`; before, loops are unrolled.
HAS_LOOPS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


def is_exporting() -> bool:
    """Whether torch.export, or torch.onnx.export by way of it, records what runs.

    The flag is read, not torch.compiler.is_exporting(): until torch 2.12 that function is true
    under torch.compile, too. A release that has no flag and cannot tell its strict mode from
    torch.compile says no there.
    """
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    if flag is not None:
        return bool(flag)
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def is_traced() -> bool:
    """Whether torch.export, torch.onnx.export or torch.jit.trace records: numbers are not known."""
    return is_exporting() or is_scripted()


def is_scripted() -> bool:
    """Whether torch.jit.trace, or the older torch.onnx.export by way of it, records."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def outside_graphs(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let torch.compile break its graph at a function, as torch.compiler.disable does.

    That imports the whole compiler where a function is defined (1.2 s of CPU); this one leaves it
    to those who compile.
    """
    apart = _disable_dynamo(function)

    @wraps(function)
    def run(*args: Any) -> Result:
        if torch.compiler.is_compiling():
            return apart(*args)
        return function(*args)

    return run


def falling(x: Tensor, most: int | None = None) -> Tensor:
    """Indices of the `most` greatest values along the last axis; of equal ones the first first.

    ONNX sorts with TopK only, where equal values have this order by definition.
    """
    if torch.onnx.is_in_onnx_export():
        return x.topk(x.shape[-1] if most is None else most).indices
    order = x.argsort(dim=-1, descending=True, stable=True)
    return order if most is None else order[..., :most]


def keep_in_turn(hits: Tensor, valid: Tensor) -> Tensor:
    """Let each item that is left, one place after the other, remove those that it hits.

    `valid` is (B, n), `hits` (B, n, n). In a recorded program the loop stays a loop.
    """
    if is_scripted():
        return scripted()(hits, valid)  # type: ignore[no-any-return]
    if is_exporting() and HAS_LOOPS:  # where it is known to work
        return _recorded(hits, valid)
    return _in_turn(hits, valid)


def _in_turn(hits: Tensor, valid: Tensor) -> Tensor:
    keep = valid
    for i in range(valid.shape[1]):
        keep = keep & ~(hits[:, i] & keep[:, i : i + 1])
    return keep


@cache
def scripted() -> Any:
    """Return the loop as TorchScript; torch calls that deprecated, as it does torch.jit.trace."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):  # until torch 2.13, from 2.14 on
            warnings.simplefilter("ignore", kind)
        return torch.jit.script(_in_turn)


def _recorded(hits: Tensor, valid: Tensor) -> Tensor:
    from torch._higher_order_ops import while_loop

    def some_left(i: Tensor, keep: Tensor) -> Tensor:
        return i < keep.shape[1]

    def step(i: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        place = i.unsqueeze(0)
        mine = hits.index_select(1, place).squeeze(1)
        return i + 1, keep & ~(mine & keep.index_select(1, place))

    start = torch.zeros((), dtype=torch.int64, device=valid.device)
    _, keep = while_loop(some_left, step, (start, valid))  # type: ignore[no-untyped-call]
    return keep  # type: ignore[no-any-return]


class _NoGraph:
    """What a Function's forward gets where no backward pass will follow."""

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


def apply(function: Any, *args: Any) -> Any:
    """Apply an autograd.Function; TorchScript cannot hold one, there its forward is recorded."""
    if is_scripted():
        return function.forward(_NoGraph(), *args)
    return function.apply(*args)
