"""Layers of type Python in a live net: the script's own objects, working on the net's own blobs.

Sources: include/caffe/layers/python_layer.hpp, src/caffe/layer_factory.cpp (GetPythonLayer).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caffeio.layers.base import LayerContext
from caffeio.layers.python.pycaffe import make_layer
from caffeio.ops.module import Layer
from caffeio.pycaffe.blob import Blob, BlobVec
from caffeio.pycaffe.install_module import NAME, install, uninstall
from caffeio.pycaffe.runners import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from caffeio.proto.caffe_pb2 import LayerParameter


class PhaseNumber(int):
    """A layer's phase: a number in BVLC; the R-CNN forks' layers use `str(self.phase)`, "TRAIN"."""

    def __str__(self) -> str:
        return "TEST" if self else "TRAIN"


class LivePython(Layer):
    """Holds the script's object and what the net must know of it; it does not compute."""

    code: Any

    def start(self, bottoms: Sequence[Blob], tops: Sequence[Blob]) -> None:
        """Make the object; let it set itself up and shape its tops, as Net's Init does."""
        self.code = make_layer(find_class(self), self.param)
        self.code.blobs = BlobVec()
        self.code.param_str = self.param.python_param.param_str
        self.code.param_str_ = self.code.param_str  # its name before 2015
        self.code.phase = PhaseNumber(0 if self.train_phase else 1)
        self.code.setup(list(bottoms), list(tops))
        self.code.reshape(list(bottoms), list(tops))
        for i, blob in enumerate(self.code.blobs):
            self.add_blob(f"blob{i}", blob.shape)

    def bind(self) -> None:
        """Let the parameters be the memory of the object's blobs, which it may have kept."""
        for mine, blob in zip(self.blobs, self.code.blobs, strict=True):
            blob.data  # noqa: B018 - it has memory from now on
            mine.data = blob.values()
            blob.memory["data"].pinned = True

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Raise: a PythonRunner calls the object."""
        raise NotImplementedError


class PythonRunner(Runner):
    """Calls the script's object: reshape before every forward, as Caffe does."""

    layer: LivePython

    def reshape(self, bottoms: Sequence[Blob], tops: Sequence[Blob]) -> None:
        """Let the layer shape its tops."""
        self.layer.code.reshape(list(bottoms), list(tops))

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
        with torch.enable_grad():
            self.layer.code.reshape(self.bottoms, self.tops)
            self.layer.code.forward(self.bottoms, self.tops)

    def backward(self, device: torch.device) -> None:
        """Compute the diffs of the bottoms."""
        with torch.enable_grad():
            self.layer.code.backward(self.tops, list(self.bottom_needs_gradient), self.bottoms)


def is_users(param: LayerParameter, search_path: Sequence[str]) -> bool:
    """Whether the module that a Python layer names can be found."""
    try:
        with importing(search_path):
            importlib.import_module(param.python_param.module)
    except ModuleNotFoundError as error:
        name = error.name or ""
        module = param.python_param.module
        if module == name or module.startswith(f"{name}."):
            return False
        raise
    return True


def find_class(layer: LivePython) -> type:
    """The class that a Python layer names. Raises LayerError if it is not there."""
    module, name = layer.param.python_param.module, layer.param.python_param.layer
    try:
        with importing(layer.context.search_path):
            found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise layer.error(
            f"cannot import module {module!r}: it is not on sys.path",
            field="python_param.module",
        ) from None
    if not isinstance(found, type):
        raise layer.error(f"module {module!r} has no class {name!r}", field="python_param.layer")
    return found


@contextmanager
def importing(folders: Sequence[str]) -> Iterator[None]:
    """Let modules be found in `folders` too, last, and `import caffe` in them mean this package."""
    added = [folder for folder in folders if folder not in sys.path]
    sys.path.extend(added)
    mine = NAME not in sys.modules
    install()
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if mine:
            uninstall()
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def make_python(param: LayerParameter, context: LayerContext) -> LivePython:
    """The layer of a Python layer's parameters, not yet started."""
    return LivePython(param, context)
