"""What a Python layer's code sees of Caffe: blobs as numpy arrays, and the base class of layers.

Source: python/caffe/_caffe.cpp and pycaffe.py (BVLC).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float32]


class PyBlob:
    """A blob of pycaffe: float32 `data` and `diff` of the same shape, writable.

    As in Caffe, `reshape` keeps the memory (and what it holds) unless more is needed; new memory
    holds zeros.
    """

    def __init__(self, shape: Sequence[int] = (), *, empty: bool = False) -> None:
        """An `empty` blob has no numbers, not even one, until it is reshaped."""
        self._shape = tuple(shape)
        self._count = 0 if empty else prod(self._shape)
        self._memory: dict[str, Array] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self._shape

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self._count

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise ValueError(f"num, channels, height, width of a blob with {len(self._shape)} axes")
        return self._shape[axis] if axis < len(self._shape) else 1

    @property
    def num(self) -> int:
        """First dimension (1 if there is none)."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Second dimension (1 if there is none)."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Third dimension (1 if there is none)."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Fourth dimension (1 if there is none)."""
        return self._legacy(3)

    @property
    def data(self) -> Array:
        """The values."""
        return self._view("data")

    @property
    def diff(self) -> Array:
        """The gradient."""
        return self._view("diff")

    def _view(self, kind: str) -> Array:
        memory = self._memory.get(kind)
        if memory is None or memory.size < self._count:
            import numpy as np  # those who only ask for layer types need none

            memory = self._memory[kind] = np.zeros(self._count, np.float32)
        if prod(self._shape) != self._count:  # not reshaped yet
            return memory[:0]
        return memory[: self._count].reshape(self._shape)

    def reshape(self, *dims: int) -> None:
        """Give the blob new dimensions."""
        shape = tuple(int(n) for n in dims)
        if any(n < 0 for n in shape):
            raise ValueError(f"negative dimension in {shape}")
        self._shape, self._count = shape, prod(shape)

    def use(self, kind: str, memory: Array) -> None:
        """Let `data` or `diff` be views of a flat array."""
        self._memory[kind] = memory


class BlobVec(list[PyBlob]):
    """The learnable blobs of a layer."""

    def add_blob(self, *shape: int) -> None:
        """Append a blob of zeros."""
        self.append(PyBlob(tuple(int(n) for n in shape)))


class PyLayer:
    """caffe.Layer: base class of layers written in Python."""

    type = "Python"
    param_str = ""
    phase = 0

    def __init__(self, param: Any = None) -> None:
        self.blobs = BlobVec()


def _shim() -> ModuleType:
    module = ModuleType("caffe", "Stands in for pycaffe while a Python layer is imported.")
    vars(module).update(Layer=PyLayer, TRAIN=0, TEST=1, __path__=[])
    return module


def _has_caffe() -> bool:
    if "caffe" in sys.modules:
        return True
    spec = importlib.util.find_spec("caffe")
    return spec is not None and spec.origin is not None  # not just a folder of that name


@contextmanager
def import_environment(folders: Sequence[str]) -> Iterator[None]:
    """Put `folders` first in sys.path, and a stand-in for pycaffe in sys.modules if it is missing.

    Both are taken back at the end; what the code itself adds to sys.path stays.
    """
    added = [folder for folder in folders if folder not in sys.path]
    sys.path[:0] = added
    shim = None if _has_caffe() else _shim()
    if shim is not None:
        sys.modules["caffe"] = shim
    try:
        yield
    finally:
        if shim is not None and sys.modules.get("caffe") is shim:
            del sys.modules["caffe"]
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def make_layer(cls: type, param: Any) -> Any:
    """An instance of a user's layer class.

    Real pycaffe's Layer is a C++ class that only Caffe can construct, so a class that derives from
    it is created without calling its constructor.
    """
    if issubclass(cls, PyLayer):
        return cls(param)
    hidden = {"__init__": lambda self: None, "blobs": None, "type": "Python"}
    instance = type(cls.__name__, (cls,), hidden)()
    instance.blobs = BlobVec()
    return instance
