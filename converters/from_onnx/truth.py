"""The model in float64, by onnx's own reference evaluator: who is right where two float32 disagree.

onnxruntime's Sigmoid is a rational function that ends at 18, for one; behind a Log that is 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffeio.converters.from_onnx.fix import DOUBLE, FLOAT, retype
from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model
from caffeio.converters.verify.numbers import relative_difference

LIMIT = 1e-4  # of the largest value: what is nearer agrees
_ROUNDING = 0.1  # a difference between float32 and float64 that is larger is no rounding
_EXPLAINED = 10  # times the rounding of one run may be the difference of two: chance is in both
_MOST = 1 << 28  # bytes of weights; the reference evaluator takes minutes for more


class Truth:
    """Float64 numbers of a model for one set of inputs, computed when they are first asked for."""

    def __init__(self, model: Model, inputs: Mapping[str, Array]) -> None:
        self._model, self._inputs = model, inputs
        self._found: dict[str, Array] | None = None

    def of(self, name: str) -> Array | None:
        """An output; None where the evaluator cannot run the model."""
        if self._found is None:
            self._found = self._run()
        return self._found.get(name)

    def _run(self) -> dict[str, Array]:
        model = self._model.copy()
        size = model.proto.ByteSize() + sum(array.nbytes for array in model.weights.values())
        if size > _MOST:
            return {}
        from onnx.reference import ReferenceEvaluator

        retype(model, (FLOAT,), DOUBLE)
        feeds = {**model.weights, **self._inputs}
        names = [item.name for item in model.graph.output]
        try:
            with np.errstate(all="ignore"):
                found = ReferenceEvaluator(model.runnable()).run(
                    None,
                    {n: v.astype(np.float64) if v.dtype == np.float32 else v
                     for n, v in feeds.items()},
                )  # fmt: skip
        except Exception:  # noqa: BLE001  (whatever an operator of it raises: it decides nothing)
            return {}
        return dict(zip(names, map(np.asarray, found), strict=True))


def nearer(name: str, mine: Array, theirs: Array, truth: Truth) -> tuple[Array, float]:
    """What to hold `mine` against, and how far `theirs` is from float64 if that was asked.

    That is `theirs` where the two agree; else the truth itself, if `mine` is the nearer one or
    within LIMIT of it. A runtime that is off by more than rounding explains is believed.
    """
    if relative_difference(mine, theirs) <= LIMIT:
        return theirs, 0.0
    exact = truth.of(name)
    if exact is None or exact.shape != theirs.shape:
        return theirs, 0.0
    off, own = relative_difference(theirs, exact), relative_difference(mine, exact)
    if off > _ROUNDING or own >= max(off, LIMIT):
        return theirs, 0.0
    return exact, off


def unfit(mine: Array, theirs: Array, exact: Array) -> float | None:
    """How far `mine` is from `exact` on inputs that prove nothing; None on others.

    `exact` is what the same Caffe net makes of them in float64. They prove nothing where rounding
    alone moves its numbers by more than LIMIT, and `theirs` is no farther from `mine` than that
    explains, nor much nearer to `exact`: then it is the Caffe net alone that rounds so badly.
    """
    apart, own = relative_difference(mine, theirs), relative_difference(mine, exact)
    off = relative_difference(theirs, exact)
    both = own > LIMIT and own <= _EXPLAINED * off
    return own if both and LIMIT < apart <= _EXPLAINED * own else None
