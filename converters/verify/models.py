"""Models that can be run and looked into: nets of ours, ONNX models."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from caffeio.converters.verify.runtime_words import said_by
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.shape_text import format_shape

Arrays = dict[str, np.ndarray]
LARGE = 2_000_000_000  # bytes from which on an ONNX model is not changed in memory


class DoesNotRunError(CaffeIOError):
    """A model that onnxruntime takes, but that stops with these inputs: it is wrong."""


class RunnableModel(Protocol):
    """Something that computes blobs from inputs."""

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Blobs by name."""


class NetModel:
    """A net of ours that has memory and values."""

    def __init__(self, net: Net) -> None:
        self.net = net

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tops of all layers that make data."""
        shapes = self.net.blob_shapes
        return {t: shapes[t] for s in self.net.steps if s.layer.is_source for t in s.tops}

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All blobs, as they are in the end; inputs that are not given are zeros."""
        given = {
            name: inputs.get(name, np.zeros(shape, np.float32))
            for name, shape in self.inputs.items()
        }
        self.net.reset_state()
        with torch.no_grad():
            self.net({name: torch.from_numpy(value.copy()) for name, value in given.items()})
        return {name: blob.detach().numpy() for name, blob in self.net.blobs.items()}

    def exact(self, inputs: Mapping[str, np.ndarray]) -> Arrays | None:
        """The same in double precision; None where a layer cannot."""
        try:
            self.net.double()
            return self.run({name: value.astype(np.float64) for name, value in inputs.items()})
        except (RuntimeError, TypeError):
            return None
        finally:
            self.net.float()  # what was float32 is the same again


class OnnxModel:
    """An ONNX model in onnxruntime; `also` names values that are wanted beside its outputs."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        also: Sequence[str] = (),
        batch: int = 2,
        sizes: Mapping[str, tuple[int, ...]] | None = None,
    ):
        self.batch, self.sizes = batch, dict(sizes or {})
        self.session = _session(path, also)
        props = self.session.get_modelmeta().custom_metadata_map
        if not self.sizes and "caffe:tried" in props:  # sizes that may be any: those of the net
            tried = json.loads(props["caffe:tried"])[0]
            self.sizes = {name: (batch, *shape[1:]) for name, shape in tried.items()}
        self.blobs = {
            item.name: props.get(f"blob:{item.name}", item.name)
            for item in self.session.get_outputs()
        }

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs: `sizes`, or else those of the file with `batch` for any size."""
        return self.sizes or {
            item.name: tuple(n if isinstance(n, int) else self.batch for n in item.shape)
            for item in self.session.get_inputs()
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs by the names of their blobs."""
        names = [item.name for item in self.session.get_inputs()]
        if missing := [name for name in names if name not in inputs]:
            raise UnsupportedError(
                f"the model reads {missing[0]!r}, which the other one has not (a model that takes "
                "pictures is compared when it is converted)"
            )
        try:
            found = self.session.run(None, {name: inputs[name] for name in names})
        except _errors() as error:
            shapes = " and ".join(f"{n} {format_shape(inputs[n].shape)}" for n in names)
            raise DoesNotRunError(
                f"the model does not run in onnxruntime at {shapes}: {said_by(error)}"
            ) from None
        plain = [v.astype(np.float32) if v.dtype == np.float16 else v for v in found]
        return dict(zip(self.blobs.values(), plain, strict=True))


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for models that it does not take."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(
        getattr(state, name)
        for name in (
            "NotImplemented",
            "Fail",
            "InvalidGraph",
            "InvalidArgument",
            "RuntimeException",
        )
    )


def _session(path: str | os.PathLike[str], also: Sequence[str]) -> Any:
    try:
        ort = import_module("onnxruntime")
    except ImportError:
        raise UnsupportedError(
            "checking an ONNX model needs the package onnxruntime: pip install 'caffeio[onnx]'"
        ) from None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    model: Any = os.fspath(path)
    beside = Path(f"{model}.data")
    size = Path(path).stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    if also and size < LARGE:
        onnx = import_module("onnx")
        loaded = onnx.load(model)
        outputs = {item.name for item in loaded.graph.output}
        made = {name for node in loaded.graph.node for name in node.output}
        for name in dict.fromkeys(also):
            if name in made - outputs:
                loaded.graph.output.add(name=name)
        model = loaded.SerializeToString()
    given = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    try:
        if beside.exists() and not isinstance(model, str):  # as users load it, with its other file
            ort.InferenceSession(os.fspath(path), **given)
        return ort.InferenceSession(model, **given)
    except _errors() as error:  # an opset or an operator that this version does not have
        raise UnsupportedError(
            f"onnxruntime {ort.__version__} cannot run the model: {said_by(error)}"
        ) from None
