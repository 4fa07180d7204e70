"""LSTM and RNN as one operator of ONNX, where that says the same.

ONNX's operators know no `cont`: they run from the first step to the last. That is what Caffe's
layers do if `cont` is a constant (ContinuationIndicator) of ones, or of zeros in the first step
with a state of zeros to begin with. A static input is unrolled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from caffeio.layers.onnx.graph import OnnxGraph


class RecurrentFacts(Protocol):
    """What a recurrent layer tells."""

    hidden: int
    static: bool
    expose: bool

    @property
    def states(self) -> Any:
        """Names of what is remembered."""

    @property
    def blobs(self) -> Any:
        """The values of the blobs, as tensors."""


def is_native(layer: RecurrentFacts, g: OnnxGraph, bottoms: Sequence[str]) -> bool:
    """Whether the operator of ONNX says what the layer does with these bottoms."""
    cont = g.constants.get(bottoms[1])
    if cont is None or layer.static or g.unroll or not (cont[1:] == 1).all():
        return False
    return bool((cont[0] == 1).all() or (not layer.expose and (cont[0] == 0).all()))


def onnx_native(
    layer: RecurrentFacts, g: OnnxGraph, kind: str, bottoms: Sequence[str], gates: Sequence[int]
) -> tuple[str, ...]:
    """Hidden states (T, N, H) of all steps and the last states (1, N, H).

    `gates` are the places that the layer's gates have in ONNX's order.
    """
    weight, bias, recurrent = (layer.blobs[i].detach().cpu().numpy() for i in range(3))

    def ordered(array: Any) -> Any:
        parts = np.split(array, len(gates))
        return np.concatenate([parts[i] for i in gates])

    own = ordered(bias)
    inputs = [
        g.reshape(bottoms[0], 0, 0, weight.shape[1]),
        g.const(ordered(weight)[None], "W"),
        g.const(ordered(recurrent)[None], "R"),
        g.const(np.concatenate((own, np.zeros_like(own)))[None], "B"),
    ]
    if layer.expose:
        inputs += ["", *(g.reshape(state, 1, -1, layer.hidden) for state in bottoms[2:])]
    y, *last = g.op(kind, inputs, outputs=1 + len(layer.states), hidden_size=layer.hidden)
    return (str(g.op("Squeeze", [y, g.ints((1,), "axes")])), *last)
