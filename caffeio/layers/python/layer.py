"""`type: "Python"`: layers whose code is a Python class, with pycaffe's protocol.

Sources: include/caffe/layers/python_layer.hpp, src/caffe/layer_factory.cpp (GetPythonLayer).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffeio.layers.base import LayerType, Shape, at_least
from caffeio.layers.python.native import NATIVE, native_class, python_layer
from caffeio.layers.python.pycaffe import PyBlob, import_environment, make_layer
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.base import LayerContext
    from caffeio.proto.caffe_pb2 import LayerParameter

__all__ = ["NATIVE", "PythonLayer", "native_class", "python_layer"]


@layer("Python")
class PythonLayer(LayerType):
    """Runs the class python_param.layer of the module python_param.module.

    The module is looked up in the context's search path (the working folder, the prototxt's
    folder), then in sys.path (PYTHONPATH); it runs only when the context allows it. The class has
    pycaffe's methods setup(bottom, top), reshape(bottom, top), forward(bottom, top) and
    backward(top, propagate_down, bottom), and the attributes param_str, phase (0 TRAIN, 1 TEST)
    and blobs. `data` of bottoms is a copy. The diffs of bottoms keep what the last backward wrote,
    as in Caffe; those of learnable blobs start as zeros in each backward. Where a class of ours
    stands for the module, that one is used in place of this (`native.class_of`).
    """

    has_blobs = True
    may_end = True
    bottoms = at_least(0)
    tops = at_least(0)
    runs_code = True
    compute = "caffeio.ops.python:run_code"
    anchor: Any

    def __init__(self, param: LayerParameter, context: LayerContext | None = None) -> None:
        super().__init__(param, context)
        self.module: str = param.python_param.module
        self.class_name: str = param.python_param.layer
        self.calls = 0  # forwards so far
        import numpy as np

        self.add_buffer("anchor", np.zeros(0, np.float32))  # knows the device

    def setup(self, *shapes: Shape) -> None:
        """Import the class and let it set itself up with bottoms of `shapes` that hold zeros."""
        with import_environment(self._folders()):
            self.code = self._load()
            self._make_blobs(shapes)
            self._set_up_code()
        for i, blob in enumerate(self.code.blobs):
            self.add_blob(f"blob{i}", blob.shape)
            self.blob_specs[i].initial = blob.data.copy()

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Return what setup and reshape have made of the tops: forward is not called here."""
        return tuple(tuple(blob.shape) for blob in self.top)

    def _folders(self) -> Sequence[str]:
        """Where the module is looked for before sys.path."""
        return self.context.search_path or ("",)

    def _set_up_code(self) -> None:
        self.code.param_str = self.param.python_param.param_str
        self.code.phase = 0 if self.train_phase else 1
        for method in ("setup", "reshape"):
            try:
                getattr(self.code, method)(self.bottom, self.top)
            except (Exception, SystemExit) as error:
                raise self.error(
                    f"{method}() of {self.module}.{self.class_name} raised "
                    f"{type(error).__name__}: {error}"
                ) from error

    def _load(self) -> Any:
        title = f"module {self.module!r}, class {self.class_name!r}"
        if not self.context.allow_python:
            raise self.error(
                f"runs Python code ({title}), which is not allowed: if you trust it, use "
                "--allow-python (or allow_python=True)",
                field="python_param",
            )
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(self.module)
        except SystemExit as error:
            raise self.error(f"module {self.module!r} calls sys.exit({error.code!r})") from error
        except ImportError as error:
            listed = ", ".join(folder or "the working folder" for folder in self._folders())
            raise self.error(
                f"cannot import module {self.module!r}: {error} (searched {listed}, then "
                "PYTHONPATH)",
                field="python_param.module",
            ) from error
        cls = getattr(module, self.class_name, None)
        if not isinstance(cls, type):
            raise self.error(
                f"module {self.module!r} has no class {self.class_name!r}",
                field="python_param.layer",
            )
        missing = [m for m in ("setup", "reshape", "forward", "backward") if not hasattr(cls, m)]
        self.check(
            not missing,
            f"class {self.class_name!r} has no method {', '.join(missing)}",
            field="python_param.layer",
        )
        return make_layer(cls, self.param)

    def _make_blobs(self, shapes: Sequence[Shape]) -> None:
        """One object for each bottom and top; an in-place top is its bottom."""
        self.bottom = [PyBlob(shape) for shape in shapes]
        bottoms, tops = self.context.bottom_names, self.context.top_names
        self.top = [
            self.bottom[i] if i < len(bottoms) and bottoms[i] == name else PyBlob(empty=True)
            for i, name in enumerate(tops)
        ]

    def note(self, error: Exception) -> None:
        """Add to an error of the user's code which layer it comes from."""
        place = f" ({self.context.where})" if self.context.where else ""
        error.add_note(
            f"in Python layer {self.name!r}{place}, class {self.module}.{self.class_name}"
        )
