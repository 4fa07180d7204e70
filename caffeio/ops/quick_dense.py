"""A plain dense layer in one call, for inference: by oneDNN where that is faster than PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.ops.inner_product import inner_product

if TYPE_CHECKING:
    from caffeio.layers.inner_product import InnerProduct

LARGE = 1 << 16  # values of a weight for which oneDNN's 15 us a call do not count


class QuickDense:
    """x @ weight.T + bias on the layer's own blobs: no second copy of them is made.

    PyTorch asks MKL, which on processors of AMD leaves half of their speed unused; for a single
    row, which is bound by memory, it is the faster one.
    """

    def __init__(self, layer: InnerProduct) -> None:
        """`layer` takes rows of its inputs, and does not transpose its weight."""
        self._layer = layer
        weight = layer.blobs[0]
        self._weight, self._bias = weight, layer.blobs[1] if len(layer.blobs) > 1 else None
        self._by_onednn = (
            weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and weight.is_contiguous()
            and weight.numel() >= LARGE
            and has_dense_form()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, num_output)."""
        layer = self._layer
        if x.shape[1:].numel() != layer.inputs:
            return inner_product(layer, x)  # says what is wrong
        x = x.flatten(1)
        if not self._by_onednn or x.shape[0] < 2 or x.dtype != torch.float32:
            return F.linear(x, self._weight, self._bias)
        run = torch.ops.mkldnn._linear_pointwise.default
        y: Tensor = run(x, self._weight, self._bias, "none", [], "")
        return y


def has_dense_form() -> bool:
    """Whether this PyTorch has oneDNN's dense layer."""
    backend: Any = torch.backends.mkldnn
    wanted = bool(backend.is_available() and backend.enabled)
    return wanted and hasattr(torch.ops.mkldnn, "_linear_pointwise")
