"""Indices of largest numbers: of nearly equal ones either may be chosen.

Rounding decides between scores that are one float32 apart, and a map of a segmentation net has so
many pixels that some are. An index is right if the model's own number there is as large as the
largest, but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model

NEAR = 1e-5  # of the largest magnitude: so far apart numbers may be and be taken for each other
_PREFIX = "caffeio:chosen:"
_MOVES_NOTHING = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_CHOOSE = ("ArgMax", "ArgMin")


def with_chosen(model: Model) -> Model:
    """The model with what its outputs' ArgMax and ArgMin choose from as further outputs.

    Such an output's name says the axis.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    chosen = {}
    for output in (item.name for item in model.graph.output):
        node = makers.get(output)
        while node is not None and node.op_type in _MOVES_NOTHING:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in _CHOOSE:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            chosen[f"{_PREFIX}{axis}:{output}"] = node.input[0]
    return model.with_outputs(chosen)


def settled(output: str, mine: Array, theirs: Mapping[str, Array]) -> tuple[Array, int]:
    """Our indices, with theirs where both are right; and how many those are.

    What is no output of an ArgMax stays as it is.
    """
    wanted = np.asarray(theirs[output])
    found = _chosen(output, theirs)
    if found is None or mine.shape != wanted.shape or np.array_equal(mine, wanted):
        return mine, 0
    numbers, axis = found
    kept = (*numbers.shape[:axis], 1, *numbers.shape[axis + 1 :])
    indices = mine.reshape(kept)
    whole = indices.astype(np.int64)
    if np.any(whole != indices) or whole.min() < 0 or whole.max() >= numbers.shape[axis]:
        return mine, 0
    chosen, best = (
        np.take_along_axis(numbers, at, axis).astype(np.float64)
        for at in (whole, wanted.reshape(kept).astype(np.int64))
    )
    with np.errstate(invalid="ignore"):
        equal = np.abs(chosen - best) <= NEAR * np.abs(numbers[np.isfinite(numbers)]).max(initial=0)
    equal |= chosen == best  # infinities
    equal = equal.reshape(mine.shape) & (mine != wanted)
    return np.where(equal, wanted, mine), int(equal.sum())


def _chosen(output: str, theirs: Mapping[str, Array]) -> tuple[Array, int] | None:
    """What an output's indices choose from, and along which axis."""
    for name, numbers in theirs.items():
        axis, _, of = name.removeprefix(_PREFIX).partition(":")
        if name.startswith(_PREFIX) and of == output:
            return np.asarray(numbers), int(axis) % np.ndim(numbers)
    return None
