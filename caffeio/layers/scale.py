"""Scale, Bias and Axpy: products and sums with a blob of fewer axes.

Sources: src/caffe/layers/scale_layer.cpp, bias_layer.cpp; axpy_layer.cpp of SENet's Caffe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, between, exactly, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph
    from caffeio.proto.caffe_pb2 import LayerParameter


def operand_shape(owner: LayerType, shape: Shape, axis: int, num_axes: int, field: str) -> Shape:
    """Shape of the blob that spans `num_axes` axes (-1: to the end) of `shape` from `axis` on."""
    owner.check(
        num_axes >= -1, f"{num_axes} is neither a number of axes nor -1", field=f"{field}.num_axes"
    )
    start = owner.axis(axis, len(shape), f"{field}.axis")
    if num_axes == -1:
        return shape[start:]
    owner.check(
        start + num_axes <= len(shape),
        f"a blob of {num_axes} axes from axis {start} on extends past the bottom {shape}",
        field=f"{field}.num_axes",
    )
    return shape[start : start + num_axes]


def check_operand(owner: LayerType, shape: Shape, axis: int, operand: Shape, field: str) -> int:
    """Check that `operand` fits into `shape` from `axis` on; returns the axis (0 for scalars)."""
    start = owner.axis(axis, len(shape), f"{field}.axis") if operand else 0
    owner.check(
        start + len(operand) <= len(shape),
        f"the operand {operand} from axis {start} on extends past the bottom {shape}",
        field=f"{field}.axis",
    )
    for i, size in enumerate(operand):
        owner.check(
            shape[start + i] == size,
            f"dimension mismatch: axis {start + i} of the bottom {shape} is {shape[start + i]}, "
            f"axis {i} of the operand {operand} is {size}",
            field=f"{field}.axis",
        )
    return start


def onnx_spread(g: OnnxGraph, owner: LayerType, operand: str | int, start: int, ndim: int) -> str:
    """`spread` of a bottom (its name) or a blob of `owner` (its index) against `ndim` axes."""
    if isinstance(operand, int):
        shape = owner.blob_specs[operand].shape
        if g.dynamic_batch and start == 0 and shape:
            raise g.unsupported("a blob spans axis 0, whose size is not fixed")
        return g.param(owner, operand, shape=(*shape, *[1] * (ndim - start - len(shape))))
    rank = len(g.shape(operand))
    if start + rank == ndim:
        return operand
    return g.reshape(operand, *[0] * rank, *[1] * (ndim - start - rank))


@layer("Scale")
class Scale(LayerType):
    """y = x * scale (+ bias); the scale is a blob, or the second bottom.

    Blobs: scale (one bottom only), bias (with bias_term), of the shape of the axes they span.
    """

    has_blobs = True
    insists_on_shape = True
    family = "norm"
    bottoms = between(1, 2)
    fields = owns(scale_param=("axis", "num_axes", "filler", "bias_term", "bias_filler"))
    blob_names = ("weight", "bias")
    compute = "caffeio.ops.scale:scale"
    pure = True
    fresh = True
    leaves_top = True
    reads_bottoms = None

    @classmethod
    def summary(cls, param: LayerParameter) -> str:
        """Say whether it has a bias."""
        return "with bias" if param.scale_param.bias_term else ""

    def setup(self, *shapes: Shape) -> None:
        """Declare the blobs; raises LayerError where the operand does not fit the bottom."""
        p = self.param.scale_param
        if len(shapes) == 1:
            operand = operand_shape(self, shapes[0], p.axis, p.num_axes, "scale_param")
            filler = p.filler if p.HasField("filler") else None
            self.add_blob("scale", operand, filler, default=1.0)
        else:
            operand = shapes[1]
        self.start = check_operand(self, shapes[0], p.axis, operand, "scale_param")
        self.by_image = len(shapes) == 1 and self.start > 0
        self.has_bias = p.bias_term
        if self.has_bias:
            self.add_blob("bias", operand, p.bias_filler if p.HasField("bias_filler") else None)
        if self.runs_in_place:  # it keeps a copy
            self.reads_bottoms = frozenset({1})
        channel = self.start == 1 and len(operand) == 1
        self.fusible = len(shapes) == 1 and channel  # with the BatchNorm before it

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Mul, and Add with a bias."""
        place = self.start, len(g.shape(bottoms[0]))
        factor = bottoms[1] if len(bottoms) > 1 else 0
        y: str = g.op("Mul", [bottoms[0], onnx_spread(g, self, factor, *place)])
        if self.has_bias:
            y = g.op("Add", [y, onnx_spread(g, self, len(self.blob_specs) - 1, *place)])
        return y


@layer("Bias")
class Bias(LayerType):
    """y = x + bias; the bias is a blob, or the second bottom."""

    has_blobs = True
    insists_on_shape = True
    family = "norm"
    bottoms = between(1, 2)
    fields = owns(bias_param=("axis", "num_axes", "filler"))
    blob_names = ("bias",)
    compute = "caffeio.ops.scale:bias"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Declare the blob; raises LayerError where the operand does not fit the bottom."""
        p = self.param.bias_param
        if len(shapes) == 1:
            operand = operand_shape(self, shapes[0], p.axis, p.num_axes, "bias_param")
            self.add_blob("bias", operand, p.filler if p.HasField("filler") else None)
        else:
            operand = shapes[1]
        self.start = check_operand(self, shapes[0], p.axis, operand, "bias_param")
        self.by_image = len(shapes) == 1 and self.start > 0

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Add."""
        bias = bottoms[1] if len(bottoms) > 1 else 0
        spread = onnx_spread(g, self, bias, self.start, len(g.shape(bottoms[0])))
        y: str = g.op("Add", [bottoms[0], spread])
        return y


@layer("Axpy")
class Axpy(LayerType):
    """y = a * x + b with one factor a (N, C[, 1, 1]) for each channel of x and b (N, C, ...)."""

    family = "join"
    bottoms = exactly(3)
    compute = "caffeio.ops.scale:axpy"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Raises LayerError unless a is (N, C) or (N, C, 1, 1) and x and b have the same shape."""
        a, x, b = shapes
        self.check(x == b, f"bottoms 1 and 2 must have the same shape, not {x} and {b}")
        fits = len(x) >= 2 and a[:2] == x[:2] and all(n == 1 for n in a[2:])
        self.check(fits, f"bottom 0 must hold one factor for each channel of {x}, not {a}")

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Return the shape of x and b."""
        return (bottoms[1],)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Mul and Add."""
        a, x, b = bottoms
        rank = len(g.shape(x))
        if len(g.shape(a)) != rank:  # OpenCV 4 reads Unsqueeze with one axis only
            a = g.reshape(a, 0, 0, *[1] * (rank - 2))
        y: str = g.op("Add", [g.op("Mul", [x, a]), b])
        return y
