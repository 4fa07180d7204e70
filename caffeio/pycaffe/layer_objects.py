"""What `net.layers[i]` is: the script's own object for Python layers, else a view of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from caffeio.pycaffe.blob import Blob, BlobVec
from caffeio.pycaffe.formula_runners import make_runner
from caffeio.pycaffe.python_layers import LivePython
from caffeio.pycaffe.runners import Runner
from caffeio.pycaffe.state import compute_device


class BuiltInLayer:
    """A layer that is not written in Python: its type, its blobs, and its passes on any blobs."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.blobs = BlobVec(runner.params)

    @property
    def type(self) -> str:
        """The layer's type."""
        return self._runner.type_name

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Do nothing: the layer is set up."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shape `top` by what `bottom` is."""
        self._runner.reshape(list(bottom), list(top))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Compute the data of `top` from that of `bottom`."""
        with torch.no_grad():
            self._on(bottom, top).forward(compute_device(), record=False)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Compute the diff of `bottom` from that of `top`; those of the blobs are added to."""
        runner = self._on(bottom, top)
        runner.bottom_needs_gradient = list(propagate_down)
        with torch.no_grad():
            runner.backward(compute_device())

    def _on(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> Runner:
        mine = self._runner
        if list(bottom) == mine.bottoms and list(top) == mine.tops:
            return mine
        made = make_runner(mine.step, bottom, top, mine.params)
        made.needed, made.param_needs_gradient = True, mine.param_needs_gradient
        return made


def layer_object(runner: Runner) -> Any:
    """The object of a runner's layer."""
    if isinstance(runner.layer, LivePython):
        return runner.layer.code
    return BuiltInLayer(runner)
