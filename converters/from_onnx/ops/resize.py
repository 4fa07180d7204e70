"""Resize and Upsample: deconvolutions where the factor is whole, else one matrix for each axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import mix_channels
from caffeio.converters.from_onnx.graph import Array, Node
from caffeio.converters.from_onnx.ops.dense import inner_product
from caffeio.converters.from_onnx.ops.pad import mirror
from caffeio.converters.from_onnx.table import operator
from caffeio.converters.onnx.runtime import evaluate

LARGEST = 4096  # of a side that is resized by a matrix


@operator("Resize", "Upsample")
def resize(w: Writer, node: Node) -> str:
    """Each axis is a matrix; those of whole factors are known kernels."""
    x = w.blob(node.inputs[0])
    shape, out = w.shape(x), w.graph.shapes[node.outputs[0]]
    flat = len(shape) == 3
    if len(shape) not in (3, 4) or shape[:2] != out[:2]:
        raise Refused(f"it resizes {shape} to {out}")
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("it keeps the aspect ratio", "give the sizes themselves")
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops and float(node.attrs.get("extrapolation_value", 0)):
        raise Refused("it puts a number where the region leaves the map", "let that be 0")
    matrices = [_matrix(w, node, axis) for axis in range(2, len(shape))]
    if flat:
        x, out = w.reshape(x, (*shape, 1), hint="as_2d"), (*out, 1)
        matrices.append(np.eye(1))
    y = _interp(w, node, x, matrices) or _known(w, x, matrices)
    if y is None:
        y = _by_matrices(w, x, matrices)
    return w.reshape(y, out[:3], hint="as_1d") if flat else y


def _matrix(w: Writer, node: Node, axis: int) -> Array:
    """What the runtime makes of the unit vectors of one axis: the operator is linear."""
    size = w.shape(w.blob(node.inputs[0]))[axis]
    if max(size, w.graph.shapes[node.outputs[0]][axis]) > LARGEST:
        raise Refused(f"a side of more than {LARGEST}")
    rank = len(w.shape(w.blob(node.inputs[0])))
    eye = np.eye(size, dtype=np.float32).reshape(size, 1, *_at(axis, rank, size))
    attrs, rest = dict(node.attrs), []
    for index, name in enumerate(node.inputs[1:], 1):
        value = w.graph.constant(name) if name else None
        if name and value is None:
            raise Refused("its scales or sizes are computed")
        if value is not None and "axes" in attrs:
            value = _of_all_axes(value, [int(a) % rank for a in attrs["axes"]], w, node)
        rest.append(None if value is None else _one_axis(value, axis, rank, index, eye.shape))
    if "scales" in attrs:
        attrs["scales"] = [float(v) if i == axis else 1.0 for i, v in enumerate(attrs["scales"])]
    attrs.pop("axes", None)
    found = _resize_constant(node.op, [eye, *rest], w.graph.opset, attrs)
    return found.reshape(size, -1).T.astype(np.float64)


def _at(axis: int, rank: int, size: int) -> tuple[int, ...]:
    return tuple(size if i == axis else 1 for i in range(2, rank))


def _of_all_axes(value: Array, axes: list[int], w: Writer, node: Node) -> Array:
    """Scales, sizes or regions of some axes as those of all."""
    shape = w.graph.shape(node.inputs[0])
    rank = len(shape)
    if value.size == len(axes):
        full: list[float] = [1.0] * rank if value.dtype.kind == "f" else list(shape)
    else:
        full = [0.0] * rank + [1.0] * rank
    for place, number in enumerate(value):
        at = axes[place % len(axes)] + (rank if place >= len(axes) else 0)
        full[at] = number
    return np.asarray(full, value.dtype)


def _one_axis(value: Array, axis: int, rank: int, index: int, shape: tuple[int, ...]) -> Array:
    """Scales, sizes or regions that leave all axes but one alone."""
    if value.size == rank and value.dtype.kind == "f":
        return np.asarray([v if i == axis else 1.0 for i, v in enumerate(value)], value.dtype)
    if value.size == rank:
        return np.asarray([v if i == axis else shape[i] for i, v in enumerate(value)], value.dtype)
    if value.size == 2 * rank:
        keep = [i % rank == axis for i in range(2 * rank)]
        return np.where(keep, value, np.repeat([0, 1], rank)).astype(value.dtype)
    return value


def _resize_constant(
    op: str, inputs: list[Array | None], opset: int, attrs: dict[str, Any]
) -> Array:
    """The operator on arrays, with inputs left out."""
    present = [value for value in inputs if value is not None]
    if len(present) == len(inputs):
        return evaluate(op, present, opset, **attrs)
    import onnx

    from caffeio.converters.onnx.runtime import OnnxRunner

    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, ["y"], **attrs)
    given = {n: v for n, v in zip(names, inputs, strict=True) if v is not None}
    infos = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape
        )
        for n, v in given.items()
    ]
    graph = onnx.helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="y")])
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    return OnnxRunner(model)(given)["y"]


def _interp(w: Writer, node: Node, x: str, matrices: list[Array]) -> str | None:
    """The layer Interp of a target that has it and keeps the corners in place; else None."""
    shape, sizes = w.shape(x), [len(matrix) for matrix in matrices]
    linear = node.attrs.get("mode") in ("linear", "bilinear")
    if not (linear and w.target.has("Interp")) or w.batch.get(x) not in (0, None) or min(sizes) < 2:
        return None
    if not all(np.allclose(m, _cornered(*m.shape), atol=1e-5) for m in matrices):
        return None
    top: str = w.layer(
        "Interp", [x], (*shape[:2], *sizes),
        interp_param=dict(zip(("height", "width"), sizes, strict=True)),
    )  # fmt: skip
    return top


def _cornered(rows: int, size: int) -> Array:
    """The matrix of lines whose first and last points are those of the map."""
    return _between(np.arange(rows) * ((size - 1) / (rows - 1)), size)


def _known(w: Writer, x: str, matrices: list[Array]) -> str | None:
    """Whole factors: repetition, or lines between neighbours with the edge repeated."""
    factors = [len(m) // m.shape[1] for m in matrices]
    if any(len(m) != f * m.shape[1] for f, m in zip(factors, matrices, strict=True)):
        return None
    if all(
        np.array_equal(m, _repeat(m.shape[1], f)) for f, m in zip(factors, matrices, strict=True)
    ):
        return _deconvolution(w, x, factors, [np.ones(f) for f in factors], [0, 0])
    lines = [_lines(m.shape[1], f) for f, m in zip(factors, matrices, strict=True)]
    if not all(np.allclose(m, n, atol=1e-5) for m, n in zip(matrices, lines, strict=True)):
        return None
    kernels, pads = [], []
    for i, factor in enumerate(factors):
        if factor == 1:
            kernels.append(np.ones(1))
            pads.append(0)
            continue
        x = mirror(w, x, 2 + i, 1, 1, "edge")
        kernels.append(_triangle(factor))
        pads.append((factor + len(kernels[-1])) // 2)
    return _deconvolution(w, x, factors, kernels, pads)


def _repeat(size: int, factor: int) -> Array:
    return np.repeat(np.eye(size), factor, axis=0)


def _triangle(factor: int) -> Array:
    """The kernel of lines between neighbours with half-pixel centres."""
    taps = 2 * factor - factor % 2
    centre = (taps - 1) / 2
    kernel: Array = 1 - np.abs(np.arange(taps) - centre) / factor
    return kernel


def _lines(size: int, factor: int) -> Array:
    """The matrix of half-pixel lines with the edge repeated."""
    if factor == 1:
        return np.eye(size)
    at = (np.arange(size * factor) + 0.5) / factor - 0.5
    return _between(np.clip(at, 0, size - 1), size)


def _between(at: Array, size: int) -> Array:
    """The matrix of lines between the neighbours of each place of an axis."""
    low = np.minimum(at.astype(int), max(size - 2, 0))
    high = np.minimum(low + 1, size - 1)
    out = np.zeros((len(at), size))
    rows = np.arange(len(at))
    np.add.at(out, (rows, low), 1 - (at - low))
    np.add.at(out, (rows, high), at - low)
    return out


def _deconvolution(
    w: Writer, x: str, factors: list[int], kernels: list[Array], pads: list[int]
) -> str:
    n, channels, height, width = w.shape(x)
    kernel = np.outer(kernels[0], kernels[1])
    sizes = [
        f * (size - 1) + len(k) - 2 * p
        for f, size, k, p in zip(factors, (height, width), kernels, pads, strict=True)
    ]
    fields: dict[str, object] = {"num_output": channels, "bias_term": False, "group": channels}
    for name, (a, b) in (("kernel", kernel.shape), ("stride", factors), ("pad", pads)):
        if a == b:
            if a or name != "pad":
                fields["kernel_size" if name == "kernel" else name] = [a]
        else:
            fields[f"{name}_h"], fields[f"{name}_w"] = a, b
    blob = np.broadcast_to(kernel.astype(np.float32), (channels, 1, *kernel.shape))
    top: str = w.layer(
        "Deconvolution", [x], (n, channels, *sizes), blobs=[blob], convolution_param=fields
    )
    return top


def _by_matrices(w: Writer, x: str, matrices: list[Array]) -> str:
    """Rows by a 1x1 convolution over (N C, H, W, 1), columns by an InnerProduct."""
    n, channels, height, width = w.shape(x)
    down, across = matrices
    if not np.array_equal(down, np.eye(height)):
        batch = w.batch.get(x)
        y = w.reshape(x, (n * channels, height, width, 1), hint="rows", batch=batch)
        y = mix_channels(w, y, down, hint="vertical")
        x = w.reshape(y, (n, channels, len(down), width), hint="map", batch=batch)
    if not np.array_equal(across, np.eye(width)):
        x = inner_product(w, x, across, None, 3)
    return x
