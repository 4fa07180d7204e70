"""`type: "Python"`: layers whose code is a Python class, with pycaffe's protocol.

Sources: include/caffe/layers/python_layer.hpp, src/caffe/layer_factory.cpp (GetPythonLayer).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, LayerContext, Shape, at_least, layer
from caffeio.layers.python.native import NATIVE, native_class, python_layer, stand_in
from caffeio.layers.python.pycaffe import PyBlob, import_environment, make_layer
from caffeio.ops.module import make_module

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph
    from caffeio.proto.caffe_pb2 import LayerParameter

__all__ = ["NATIVE", "PythonLayer", "native_class", "python_layer"]


class _Call(torch.autograd.Function):
    """Forward and backward of the user's object; learnable blobs follow the bottoms."""

    @staticmethod
    def forward(ctx: Any, owner: PythonLayer, count: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.owner, ctx.count = owner, count
        tops = owner.run(inputs[:count])
        ctx.call = owner.calls
        return tops

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[2:])
        found = ctx.owner.run_backward(ctx.call, grads, needs[: ctx.count])
        wanted = (g if need else None for g, need in zip(found, needs, strict=True))
        return None, None, *wanted


@layer("Python")
class PythonLayer(Layer):
    """Runs the class python_param.layer of the module python_param.module.

    The module is looked up in the context's search path (the working folder, the prototxt's
    folder), then in sys.path (PYTHONPATH); it runs only when the context allows it. The class has
    pycaffe's methods setup(bottom, top), reshape(bottom, top), forward(bottom, top) and
    backward(top, propagate_down, bottom), and the attributes param_str, phase (0 TRAIN, 1 TEST)
    and blobs. `data` of bottoms is a copy. The diffs of bottoms keep what the last backward wrote,
    as in Caffe; those of learnable blobs start as zeros in each backward.
    """

    bottoms = at_least(0)
    tops = at_least(0)

    def __init__(self, param: LayerParameter, context: LayerContext | None = None) -> None:
        super().__init__(param, context)
        self.module: str = param.python_param.module
        self.class_name: str = param.python_param.layer
        native = stand_in(param, self.context.allow_python, self.context.search_path)
        self.native = make_module(native, param, context) if native else None
        self.calls = 0  # forwards so far
        self.anchor: Tensor  # knows the device
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def setup(self, *shapes: Shape) -> None:
        """Import the class and let it set itself up with bottoms of `shapes` that hold zeros."""
        if self.native is not None:
            self.native.setup(*shapes)
            self.blobs, self.blob_specs = self.native.blobs, self.native.blob_specs
            return
        with import_environment(self._folders()):
            self.code = self._load()
            self._make_blobs(shapes)
            self._set_up_code()
        for i, blob in enumerate(self.code.blobs):
            self.add_blob(f"blob{i}", blob.shape)
            self.blob_specs[i].initial = torch.from_numpy(blob.data.copy())

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Return what setup and reshape have made of the tops: forward is not called here."""
        if self.native is not None:
            return self.native.shapes(*bottoms)
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
            except Exception as error:
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

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the user's reshape and forward; return the tops."""
        if self.native is not None:
            return self.native(*bottoms)  # type: ignore[no-any-return]
        if any(x.is_meta for x in bottoms) or any(x.is_meta for x in self.blobs):
            return self._dry_run([tuple(x.shape) for x in bottoms])
        tops: tuple[Tensor, ...] = _Call.apply(  # type: ignore[no-untyped-call]
            self, len(bottoms), *bottoms, *self.blobs
        )
        return tops[0] if len(tops) == 1 else tops

    def _dry_run(self, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        for blob, shape in zip(self.bottom, shapes, strict=True):
            blob.reshape(*shape)
        self.code.reshape(self.bottom, self.top)
        return tuple(torch.empty(blob.shape, device="meta") for blob in self.top)

    def run(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One forward of the user's code on tensors without a graph."""
        self.calls += 1
        for blob, value in zip(self.bottom, bottoms, strict=True):
            blob.reshape(*value.shape)
            blob.data[...] = value.detach().cpu().numpy()
        hosts = self._lend_blobs()
        try:
            self.code.reshape(self.bottom, self.top)
            self.code.forward(self.bottom, self.top)
        except Exception as error:
            self._note(error)
            raise
        for host, blob in zip(hosts, self.blobs, strict=True):
            if host is not None:
                blob.data.copy_(host)
        device = bottoms[0].device if bottoms else self.anchor.device
        return tuple(torch.from_numpy(blob.data.copy()).to(device) for blob in self.top)

    def _lend_blobs(self) -> list[Tensor | None]:
        """Let the code's blobs be the learnable tensors; on other devices, copies of them."""
        hosts: list[Tensor | None] = []
        for mine, blob in zip(self.code.blobs, self.blobs, strict=True):
            value = blob.detach()
            shared = value.device.type == "cpu" and value.is_contiguous()
            host = value if shared else value.cpu().contiguous()
            mine.use("data", host.numpy().reshape(-1))
            hosts.append(None if shared else host)
        return hosts

    def run_backward(
        self, call: int, grads: Sequence[Tensor], propagate_down: list[bool]
    ) -> list[Tensor]:
        """One backward of the user's code; returns the gradients of bottoms and blobs."""
        if call != self.calls:
            raise RuntimeError(
                f"layer {self.name!r}: a Python layer can only go back through its last forward"
            )
        for blob, grad in zip(self.top, grads, strict=True):
            blob.diff[...] = grad.cpu().numpy()
        for blob in self.code.blobs:
            blob.diff[...] = 0
        try:
            self.code.backward(self.top, propagate_down, self.bottom)
        except Exception as error:
            self._note(error)
            raise
        device = grads[0].device if grads else self.anchor.device
        return [
            torch.from_numpy(np.array(blob.diff)).to(device)
            for blob in (*self.bottom, *self.code.blobs)
        ]

    def _note(self, error: Exception) -> None:
        place = f" ({self.context.where})" if self.context.where else ""
        error.add_note(
            f"in Python layer {self.name!r}{place}, class {self.module}.{self.class_name}"
        )

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """The ONNX form of the native class; other Python layers have none."""
        if self.native is not None:
            return self.native.onnx(g, *bottoms)
        return super().onnx(g, *bottoms)

    def macs(self) -> int:
        """Those of the native class; what other code computes is not known."""
        return self.native.macs() if self.native is not None else 0
