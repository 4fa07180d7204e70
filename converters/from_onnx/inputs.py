"""What goes into a model for the run that tells its shapes, and which inputs are indices."""

from __future__ import annotations

import math

import numpy as np

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model, array_of
from caffeio.converters.onnx.told import told_layers


def lookups(model: Model) -> dict[str, int]:
    """Inputs that are indices of rows -> the number of rows; regions are of row 0."""
    origin = {item.name: item.name for item in model.graph.input}
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    rows = {name: int(t.dims[0]) for name, t in tensors.items() if t.dims}
    ones = {name: t for name, t in tensors.items() if math.prod(t.dims) == 1}
    rows |= {name: len(array) for name, array in model.weights.items()}
    shapes = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in model.graph.input
    }
    out: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            if node.input[0] in origin:
                origin.update(dict.fromkeys(node.output, origin[node.input[0]]))
        elif node.op_type == "MaxRoiPool" and node.input[1] in origin:
            out[origin[node.input[1]]] = 1
        elif node.op_type == "OneHot" and node.input[0] in origin:
            known = ones.get(node.input[1])
            depth = 1 if known is None else int(array_of(known).flat[0])
            out[origin[node.input[0]]] = min(depth, out.get(origin[node.input[0]], 1 << 30))
        elif node.op_type == "Gather":
            source = origin.get(node.input[1])
            if source is not None:
                data = node.input[0]
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                known = rows.get(data) if axis == 0 else None
                known = known or (shapes[data][axis] if data in shapes else None)
                out[source] = min(known or 1, out.get(source, 1 << 30))
    return out


def sample(model: Model) -> dict[str, Array]:
    """Inputs of the model's shapes and types for the run that tells shapes."""
    import onnx

    rng = np.random.default_rng(0)
    out, indices, sizes = {}, lookups(model), image_sizes(model)
    for item in model.graph.input:
        tensor = item.type.tensor_type
        dims = tuple(dim.dim_value for dim in tensor.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        floats = dtype.kind == "f" and item.name not in indices
        made = rng.standard_normal(dims) if floats else np.zeros(dims)
        if item.name in sizes:
            made = np.resize(sizes[item.name], dims)
        out[item.name] = np.asarray(made, dtype)
    return out


def image_sizes(model: Model) -> dict[str, tuple[float, float, float]]:
    """Inputs that tell a Proposal of images -> height, width and scale.

    Other numbers leave it without a region, and onnxruntime's Einsum of none ends the process.
    """
    shapes = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in model.graph.input
    }
    height, width = max((s[2:] for s in shapes.values() if len(s) == 4), default=[1, 1])
    told = (one.bottoms[2] for one in told_layers(model.proto) if len(one.bottoms) == 3)
    return {
        name: (height, width, 1.0)
        for name in told
        if name in shapes and len(shapes[name]) == 2 and shapes[name][1] >= 3
    }
