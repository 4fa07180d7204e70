"""Sums of small blobs in the order in which a BLAS makes them, as Caffe does.

Caffe adds up by products with vectors of ones. NumPy brings the BLAS that Caffe is mostly built
with, OpenBLAS, whose order depends on the sizes and on the processor; other tensors are added up as
torch does it. Here `x` is detached data.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caffeio.ops.digits import is_exact

MANY = 32  # products of a loop in Python; more are rounded once each, in no BLAS's order


def row_sums(x: Tensor) -> Tensor:
    """Sums of the rows of (M, N): (M)."""
    if x.shape[1] == 1:
        return x[:, 0]
    if not is_exact(x):
        return x.sum(1)
    if x.shape[0] == 1:
        return torch.from_numpy(_row(x[0].numpy()))
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(x.numpy() @ np.ones(x.shape[1], np.float32))


def column_sums(x: Tensor) -> Tensor:
    """Sums of the columns of (M, N): (N)."""
    if x.shape[0] == 1:
        return x[0]
    if not is_exact(x):
        return x.sum(0)
    if x.shape[1] == 1:
        return one_by_one(x.T)
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(x.numpy().T @ np.ones(x.shape[0], np.float32))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Scalar product of two vectors: a scalar."""
    if not is_exact(x):
        return (x * y).sum()
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.as_tensor(np.dot(x.numpy(), y.numpy()))


def sums(x: Tensor, dim: int) -> Tensor:
    """Sums along `dim`, which is kept, one product with ones for each index before it."""
    outer = x.shape[:dim].numel()
    if not is_exact(x) or outer > MANY:
        return x.sum(dim, keepdim=True, dtype=torch.float64).to(x.dtype)
    shape = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
    if x.numel() == outer * x.shape[dim]:  # one column each: all in one go
        return one_by_one(x.reshape(outer, x.shape[dim])).view(shape)
    parts = [column_sums(part) for part in x.reshape(outer, x.shape[dim], -1)]
    return torch.stack(parts).view(shape)


def dots(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Scalar products along `dim`, which is kept."""
    size = x.shape[dim]
    if not is_exact(x) or x.numel() > MANY * size:
        return (x * y).sum(dim, keepdim=True, dtype=torch.float64).to(x.dtype)
    a, b = (np.moveaxis(z.numpy(), dim, -1) for z in (x, y))  # views: BLAS sees the strides
    with np.errstate(over="ignore", invalid="ignore"):  # infinite, and no word, as in BLAS
        values = [np.dot(a[index], b[index]) for index in np.ndindex(a.shape[:-1])]
    return torch.tensor(values).view(*x.shape[:dim], 1, *x.shape[dim + 1 :])


def one_by_one(x: Tensor) -> Tensor:
    """Sums of the rows of (M, N), each from its first number on: (M)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(np.add.accumulate(x.numpy(), 1)[:, -1].copy())


def _row(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sum of one row [1], for which NumPy would call another function of the BLAS."""
    if x.size < 8:
        return np.add.accumulate(x)[-1:]
    whole = x.size // 4 * 4
    blocks = x[:whole].reshape(-1, 4)
    odd = len(blocks) % 2
    first = np.add.accumulate(np.concatenate((blocks[:odd], blocks[odd::2])))[-1]
    lanes = first + np.add.accumulate(blocks[odd + 1 :: 2])[-1]
    if x.size == 8:
        return np.add.accumulate(lanes)[-1:]
    total = (lanes[:1] + lanes[1:2]) + (lanes[2:3] + lanes[3:])
    if whole < x.size:
        total = total + np.add.accumulate(x[whole:])[-1:]
    return np.asarray(total)
