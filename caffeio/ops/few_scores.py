"""SoftmaxWithLoss and Accuracy of a few scores (N, classes) on the CPU, in few calls.

A call of torch's takes longer than the arithmetic of such a batch does, one of NumPy's a third of
it. Sums, differences, products and quotients are the same in both; exp, log and the sum of the
losses are torch's, as in softmax_loss.py: the numbers are its, to the last bit.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.ops import blas
from caffeio.ops.digits import is_exact
from caffeio.ops.labels import TINY, normalizer

if TYPE_CHECKING:
    from caffeio.layers.accuracy import Accuracy
    from caffeio.layers.softmax_loss import SoftmaxWithLoss

_LABELS = (torch.float32, torch.int64)  # types whose numbers are read here


class _FewLosses(torch.autograd.Function):
    """A loss of `scores` that is known; its gradient is (probability - 1 where true) / divisor.

    `true` are the places of the true classes in the memory of `prob`.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, loss: Tensor, prob: NDArray[np.float32], true: NDArray[np.int64],
        divisor: float,
    ) -> Tensor:  # fmt: skip
        ctx.prob, ctx.true, ctx.divisor = prob, true, divisor
        return loss / divisor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        prob, true = ctx.prob, ctx.true
        with np.errstate(all="ignore"):
            scale = grads[0].detach().numpy() / np.float32(ctx.divisor)
            grad = prob * scale
            # subtracted before the product: p - 1 is exact where p is near 1
            grad.put(true, (prob.take(true) - np.float32(1)) * scale)
        return torch.from_numpy(grad), None, None, None, None


def _softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax of each row, as `softmax_exactly` makes it."""
    doubles = (x - np.maximum.reduce(x, 1, keepdims=True)).astype(np.float64, "C")
    torch.from_numpy(doubles).exp_()
    prob: NDArray[np.float32] = doubles.astype(np.float32)
    prob /= _row_sums(prob)
    return prob


def _sum_of_losses(p: NDArray[np.float32]) -> Tensor:
    """The sum of -log(max(p, TINY)), a scalar."""
    doubles = np.maximum(p, TINY).astype(np.float64)
    torch.from_numpy(doubles).log_()
    return torch.from_numpy(np.negative(doubles.astype(np.float32))).sum()


def _row_sums(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of the rows of (N, classes), as `blas.sums` makes them: (N, 1)."""
    if len(y) <= blas.MANY:
        sums: NDArray[np.float32] = np.add.accumulate(y, 1)[:, -1:]
    else:
        sums = blas.sums(torch.from_numpy(y), 1).numpy()
    return sums


def _are_few(scores: Tensor, label: Tensor) -> bool:
    """Whether these are few scores (N, classes), and a label for each row."""
    return (
        scores.dim() == 2
        and label.numel() == scores.shape[0]
        and label.dtype in _LABELS
        and label.is_cpu
        and is_exact(scores)
        and scores.numel() > 0
    )


def _true_places(label: Tensor, classes: int) -> NDArray[np.int64] | None:
    """Where the true class of each row lies in (N, classes); None if a label is no class."""
    index: NDArray[np.int64] = label.detach().numpy().reshape(-1).astype(np.int64)
    if int(np.maximum.reduce(index.view(np.uint64))) >= classes:  # what is below 0 is large there
        return None
    index += np.arange(0, classes * len(index), classes)
    return index


def loss_of_few(layer: SoftmaxWithLoss, bottoms: tuple[Tensor, ...]) -> Tensor | None:
    """The loss, a scalar; None where softmax_loss.py must compute it, or say what is wrong."""
    if not layer.plain or not _are_few(*bottoms):
        return None
    scores, label = bottoms
    with np.errstate(all="ignore"):
        true = _true_places(label, scores.shape[1])
        if true is None:
            return None
        prob = _softmax(scores.detach().numpy())
        total = _sum_of_losses(prob.take(true))
    if not isfinite(total.item()):  # whose sign a nan has is a matter of the order
        return None
    divisor = normalizer(layer, layer.mode, scores.shape[0], 1, None)
    return _FewLosses.apply(  # type: ignore[no-any-return,no-untyped-call]
        scores, total, prob, true, divisor
    )


def accuracy_of_few(layer: Accuracy, scores: Tensor, label: Tensor) -> Tensor | None:
    """The share of right items; None where accuracy.py must compute it, or say what is wrong."""
    if not layer.plain or not _are_few(scores, label):
        return None
    x = scores.numpy()
    with np.errstate(invalid="ignore"):
        true = _true_places(label, x.shape[1])
        if true is None:
            return None
        reached = np.add.reduce(x >= x.take(true)[:, None], 1)  # how many classes reach the label
    hits = np.float32(np.count_nonzero(reached <= layer.top_k))  # a nan label is never reached
    share = hits / np.float32(layer.denominator or len(x))
    return torch.scalar_tensor(float(share), dtype=torch.float32)
