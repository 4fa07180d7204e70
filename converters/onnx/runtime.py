"""Run ONNX models: onnxruntime if it is there, else onnx's reference evaluator."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.converters.verify.runtime_words import said_by
from caffeio.errors import CaffeIOError, UnsupportedError

Array = np.ndarray[Any, Any]
_LACKING = "Could not find an implementation for "  # of onnxruntime's message
LARGE = 1_900_000_000  # bytes; protobuf cannot serialize 2 GiB


class OnnxRunner:
    """A model that is ready to run.

    `lacks` tells what onnxruntime has no implementation of, "" if it runs the model: then onnx's
    reference evaluator does.
    """

    def __init__(
        self,
        model: Any,
        *,
        need_runtime: bool = False,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        """Load a ModelProto; `weights` are inputs of it that are the same in every run.

        Raises UnsupportedError if nothing here can run the model.
        """
        self._weights = dict(weights or {})
        self.names = [item.name for item in model.graph.output]
        self.lacks = ""
        if find_spec("onnxruntime") is not None:
            self._session = self._load(model)
        elif need_runtime:
            raise UnsupportedError(
                "checking the result needs the package onnxruntime: pip install 'caffeio[onnx]' "
                "(or give --no-verify)"
            )
        else:
            self._session = _reference(model)

    def _load(self, model: Any) -> Any:
        ort: Any = import_module("onnxruntime")

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            providers = ["CPUExecutionProvider"]
            if model.ByteSize() < LARGE:
                return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
            # On Windows the runtime keeps the files that it maps.
            with tempfile.TemporaryDirectory(
                prefix="caffeio-", ignore_cleanup_errors=True
            ) as folder:
                path = self._on_disk(model, Path(folder))
                return ort.InferenceSession(path, options, providers=providers)
        except CaffeIOError:
            raise
        except Exception as error:  # noqa: BLE001  (onnxruntime's own)
            said = said_by(error)
            _, found, lacking = said.partition(_LACKING)
            if not found:
                raise UnsupportedError(f"onnxruntime cannot load the model: {said}") from None
            self.lacks = lacking.split(" ")[0]
            return _reference(model)

    @staticmethod
    def _on_disk(model: Any, folder: Path) -> str:
        """Save a model and its weights (which leave the message); the path of the model."""
        import onnx

        path = folder / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights")
        return str(path)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name. Raises UnsupportedError with the runtime's words."""
        try:
            found: Sequence[Any] = self._session.run(None, {**self._weights, **inputs})
        except Exception as error:  # noqa: BLE001  (onnxruntime's own)
            raise UnsupportedError(f"the model does not run: {said_by(error)}") from None
        return dict(zip(self.names, found, strict=True))


def _reference(model: Any) -> Any:
    """onnx's own evaluator, which is slow. Raises UnsupportedError."""
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(model)
    except Exception as error:  # noqa: BLE001  (onnx's own)
        said = str(error).strip().split("\n")[0][:300]
        raise UnsupportedError(f"nothing here can run the model: {said}") from None


def evaluate(op: str, inputs: Sequence[Array], opset: int, **attributes: Any) -> Array:
    """What one operator of ONNX makes of arrays (its first output)."""
    import onnx

    names = [f"x{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, kind, x.shape)
            for name, kind, x in zip(names, kinds, inputs, strict=True)
        ],
        [onnx.ValueInfoProto(name="y")],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    return OnnxRunner(model)(dict(zip(names, inputs, strict=True)))["y"]
