"""Errors that wait for the first backward pass, as real Caffe's do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from caffeio.errors import CaffeIOError


class _Refuse(Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, key: Tensor, error: CaffeIOError) -> Tensor:
        ctx.error = error
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise ctx.error


def refuse_backward(loss: Tensor, error: CaffeIOError) -> Tensor:
    """Return `loss`, whose backward raises `error`; it has one even if nothing below it learns."""
    key = torch.zeros((), device=loss.device, requires_grad=True)
    return _Refuse.apply(loss, key, error)  # type: ignore[no-any-return,no-untyped-call]
