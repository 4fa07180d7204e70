"""Types and shapes of all values of a graph, as onnx's shape inference has them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from caffeio.layers.onnx.graph import OPSET, OnnxGraph, OnnxNode

_SMALL = 4096  # numbers up to which the values of a constant may matter for a shape
Dims = tuple[int | None, ...]


class Type(NamedTuple):
    """Element type (as `onnx.TensorProto` numbers them) and sizes; dims None: not even the rank."""

    element: int
    dims: Dims | None


def infer(
    graph: OnnxGraph, inputs: Mapping[str, Dims], elements: Mapping[str, Any] | None = None
) -> dict[str, Type]:
    """The types of all values of `graph`, whose nodes are written for `OPSET`.

    `inputs` are the shapes of its inputs, None for a size that may be any; they are float32 where
    `elements` names no other type.
    """
    onnx = import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kinds = {n: helper.np_dtype_to_tensor_dtype(d) for n, d in (elements or {}).items()}
    fed = [
        helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.FLOAT), dims)
        for name, dims in inputs.items()
    ]
    small = []
    for name, array in graph.constants.items():
        if array.size <= _SMALL:
            small.append(numpy_helper.from_array(np.asarray(array), name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            fed.append(helper.make_tensor_value_info(name, kind, array.shape))
    model = helper.make_model(
        helper.make_graph([proto(node) for node in graph.nodes], "types", fed, [], small),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    found = onnx.shape_inference.infer_shapes(model, data_prop=True)
    out = {item.name: _type(item) for item in (*found.graph.input, *found.graph.value_info)}
    for name, array in graph.constants.items():
        out[name] = Type(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
    return out


def proto(node: OnnxNode, name: str = "") -> Any:
    """The NodeProto of a record; arrays are tensors."""
    onnx = import_module("onnx")
    tensor = onnx.numpy_helper.from_array
    given = node.attributes.items()
    attributes = {key: tensor(v) if isinstance(v, np.ndarray) else v for key, v in given}
    return onnx.helper.make_node(node.op_type, node.inputs, node.outputs, name=name, **attributes)


def _type(item: Any) -> Type:
    tensor = item.type.tensor_type
    if not tensor.HasField("shape"):
        return Type(tensor.elem_type, None)
    dims = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return Type(tensor.elem_type, tuple(dims))
