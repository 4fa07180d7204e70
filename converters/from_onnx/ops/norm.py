"""Normalisations: BatchNorm with stored statistics, or with those of what goes in."""

from __future__ import annotations

import math

import numpy as np

from caffeio.converters.from_onnx import exact
from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Array, Node
from caffeio.converters.from_onnx.operands import combined, times_constant
from caffeio.converters.from_onnx.ops.reduce import reduced
from caffeio.converters.from_onnx.table import operator


@operator("BatchNormalization")
def batch_normalization(w: Writer, node: Node) -> str:
    """BatchNorm with a factor of 1, and a Scale."""
    if node.attrs.get("training_mode", 0):
        raise Refused("it is in training mode", "export the module after .eval()")
    if node.attrs.get("spatial", 1) == 0:
        raise Refused("its statistics are one for each place")
    found = [w.graph.constant(name) for name in node.inputs[1:5]]
    if any(array is None for array in found):
        raise Refused("its statistics are computed")
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in found)
    x = w.blob(node.inputs[0])
    eps = float(node.attrs.get("epsilon", 1e-5))
    fields = {"eps": eps} if not math.isclose(eps, 1e-5, rel_tol=1e-6) else {}
    y = w.unary("BatchNorm", x, batch_norm_param=fields)
    w.layers[-1].blobs = [np.asarray(b, np.float32) for b in (mean, variance, np.ones(1))]
    return affine(w, y, gamma, beta, 1)


def affine(w: Writer, x: str, gamma: Array, beta: Array, axis: int) -> str:
    """A Scale with a bias over the axes from `axis` on that gamma has."""
    if np.all(gamma == 1) and np.all(beta == 0):
        return x
    fields: dict[str, object] = {"bias_term": True}
    if axis != 1:
        fields["axis"] = axis
    if gamma.ndim != 1:
        fields["num_axes"] = gamma.ndim
    return w.scale(x, [gamma, beta], fields, hint="scale")


@operator("BatchStatistics")
def batch_statistics(w: Writer, node: Node) -> str:
    """BatchNorm by the statistics of the batch, and a Scale."""
    gamma, beta = _constants(w, node, 1, 2)
    x = w.blob(node.inputs[0])
    eps = float(node.attrs.get("epsilon", 1e-5))
    y = w.unary("BatchNorm", x, batch_norm_param={"use_global_stats": False, "eps": eps})
    zeros = np.zeros(len(gamma), np.float32)
    w.layers[-1].blobs = [zeros, zeros, np.ones(1, np.float32)]
    return affine(w, y, gamma, beta, 1)


@operator("InstanceNormalization")
def instance_normalization(w: Writer, node: Node) -> str:
    """Every map of every example by its own statistics, and a Scale."""
    gamma, beta = _constants(w, node, 1, 2)
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    eps = float(node.attrs.get("epsilon", 1e-5))
    y = exact.normalize_rows(w, x, shape[0] * shape[1], eps)
    return affine(w, y, gamma, beta, 1)


@operator("GroupNormalization")
def group_normalization(w: Writer, node: Node) -> str:
    """Every group of every example by its own statistics, and a Scale."""
    gamma, beta = _constants(w, node, 1, 2)
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    groups = int(node.attrs["num_groups"])
    y = exact.normalize_rows(w, x, shape[0] * groups, float(node.attrs.get("epsilon", 1e-5)))
    if len(gamma) == groups and groups != shape[1]:  # opset 18
        gamma, beta = (np.repeat(v, shape[1] // groups) for v in (gamma, beta))
    return affine(w, y, gamma, beta, 1)


@operator("LayerNormalization")
def layer_normalization(w: Writer, node: Node) -> str:
    """Every row by its own statistics, and a Scale over the last axes."""
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    axis = int(node.attrs.get("axis", -1)) % len(shape)
    if len([name for name in node.outputs if name]) > 1:
        raise Refused("its means or deviations are used")
    gamma = w.graph.constant(node.inputs[1])
    beta = w.graph.constant(node.input(2)) if node.input(2) else np.zeros(shape[axis:])
    if gamma is None or beta is None:
        raise Refused("its scale is computed")
    if axis == 0:
        w.fix_batch()
    eps = float(node.attrs.get("epsilon", 1e-5))
    y = exact.normalize_rows(w, x, math.prod(shape[:axis]), eps)
    full = [np.broadcast_to(v, shape[axis:]) for v in (gamma, beta)]
    return affine(w, y, full[0], full[1], axis)


def _constants(w: Writer, node: Node, *places: int) -> list[Array]:
    found = [w.graph.constant(node.input(i)) for i in places]
    if any(array is None for array in found):
        raise Refused("its scale is computed")
    return [np.asarray(array, np.float64).reshape(-1) for array in found]


@operator("MeanVarianceNormalization", "Mvn")
def mvn(w: Writer, node: Node) -> str:
    """MVN over the maps: eps is added to the deviation in both."""
    x = w.blob(node.inputs[0])
    axes = [int(a) for a in node.attrs.get("axes", (0, 2, 3))]
    across = axes == [1, 2, 3]
    if len(w.shape(x)) != 4 or axes not in ([2, 3], [1, 2, 3]):
        raise Refused(f"it normalises over the axes {axes}")
    fields: dict[str, object] = {"eps": float(node.attrs.get("eps", 1e-9))}
    if across:
        fields["across_channels"] = True
    if not node.attrs.get("variance", 1):
        fields = {"normalize_variance": False, **fields}
    return w.unary("MVN", x, mvn_param=fields)


_NEXT_TO_NOTHING = 1e-37  # above the least float32 (1.2e-38): its powers -0.5 and -1 are finite


@operator("LpNormalization")
def lp_normalization(w: Writer, node: Node) -> str:
    """x over its norm along an axis; 0 where that is 0, as runtimes have it."""
    from caffeio.converters.from_onnx.ops.reduce import reduced

    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    axis = int(node.attrs.get("axis", -1)) % len(shape)
    order = int(node.attrs.get("p", 2))
    if w.batch.get(x) == axis:
        w.fix_batch()
    each = w.power(x, power=2, hint="square") if order == 2 else w.unary("AbsVal", x, hint="abs")
    total = reduced(w, each, [axis], "SUM")
    power = -0.5 if order == 2 else -1
    inverse = w.power(total, shift=_NEXT_TO_NOTHING, power=power, hint="inverse")
    return w.eltwise("PROD", [x, exact.spread(w, inverse, shape)])


@operator("RMSNormalization")
def rms_normalization(w: Writer, node: Node) -> str:
    """x / sqrt(mean of squares + eps) * scale."""
    x, scale = w.blob(node.inputs[0]), w.graph.constant(node.inputs[1])
    shape = w.shape(x)
    if scale is None:
        raise Refused("its scales are computed")
    axes = list(range(int(node.attrs.get("axis", -1)) % len(shape), len(shape)))
    mean = reduced(w, w.power(x, power=2, hint="square"), axes, "AVE")
    eps = float(node.attrs.get("epsilon", 1e-5))
    root = w.power(mean, shift=eps, power=-0.5, hint="inverse_root")
    y = combined(w, [x, root], [1.0, 1.0], shape, "PROD")
    return times_constant(w, y, np.asarray(scale, np.float64), shape)


@operator("UnitNorm")
def unit_norm(w: Writer, node: Node) -> str:
    """SSD's Normalize; `converters/rewrites` says it where the target lacks it."""
    x, scale = w.blob(node.inputs[0]), w.graph.constant(node.inputs[1])
    assert scale is not None
    fields = {"across_spatial": False, "channel_shared": False, "eps": float(node.attrs["eps"])}
    top: str = w.layer("Normalize", [x], w.shape(x), blobs=[scale.reshape(-1)], norm_param=fields)
    return top
