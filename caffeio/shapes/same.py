"""Layers whose tops have the shape of their bottoms: neurons, normalisation, scaling."""

from __future__ import annotations

from caffeio.shapes.base import LayerShapes, Query, Shape, agree, rule


@rule(
    "AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Exp", "LRN", "Log", "MVN", "Power", "ReLU",
    "ReLU6", "Sigmoid", "Softmax", "Swish", "TanH", "Threshold", "SpatialDropout", "MnActivation",
    "RReLU", "ShuffleChannel", "GRN", "Flip", "SeLu", "HardSwish", "HardSigmoid", "Mish",
)  # fmt: skip
def same(q: Query) -> LayerShapes:
    """One top like the bottom, no blobs."""
    return LayerShapes((q.shape(),))


@rule("Split")
def split(q: Query) -> LayerShapes:
    """Every top like the bottom."""
    return LayerShapes((q.shape(),) * q.top_count)


@rule("Silence", "HDF5Output", "MatWrite")
def no_tops(q: Query) -> LayerShapes:
    """Consumes, produces nothing."""
    return LayerShapes(())


@rule("Filter")
def filter_rows(q: Query) -> LayerShapes:
    """All rows at set-up; later the selected ones."""
    return LayerShapes(tuple(q.bottoms[:-1]), dynamic=True)


@rule("PReLU")
def prelu(q: Query) -> LayerShapes:
    """One slope a channel, or one in all."""
    shape = q.shape()
    if len(shape) < 2:
        q.fail(f"needs a bottom of 2 axes or more, has {len(shape)}", "bottom")
    return LayerShapes((shape,), ((),) if q.param.prelu_param.channel_shared else ((shape[1],),))


@rule("BatchNorm", "MKLBatchNorm")
def batch_norm(q: Query) -> LayerShapes:
    """Mean, variance, factor; NVIDIA's may hold scale and bias as well."""
    shape = q.shape()
    channels = shape[1] if len(shape) > 1 else 1
    blobs: list[Shape] = [(channels,), (channels,), (1,)]
    p = q.param.batch_norm_param
    affine = p.scale_bias or p.HasField("scale_filler")
    if q.profile.batch_norm == "averages" and (affine or p.HasField("bias_filler")):
        blobs += [(channels,), (channels,)]
    return LayerShapes((shape,), tuple(blobs))


@rule("BN")
def bn(q: Query) -> LayerShapes:
    """SegNet's and happynear's (scale, shift) or PSPNet's (slope, bias, mean, variance)."""
    shape = q.shape()
    p = q.param.bn_param
    if q.param.blobs:
        count = len(q.param.blobs)
    else:
        four = ("slope_filler", "frozen", "momentum", "moving_average")
        count = 4 if any(map(p.HasField, four)) or len(q.param.param) > 2 else 2
    blob = (1, shape[1], 1, 1) if len(shape) > 1 else (1,)
    return LayerShapes((shape,), (blob,) * count)


@rule("Normalize")
def normalize(q: Query) -> LayerShapes:
    """SSD's L2 normalisation with a learnable scale."""
    shape = q.shape()
    if len(shape) < 2:
        q.fail(f"needs a bottom of 2 axes or more, has {len(shape)}", "bottom")
    return LayerShapes((shape,), ((),) if q.param.norm_param.channel_shared else ((shape[1],),))


@rule("EltwiseAffine")
def eltwise_affine(q: Query) -> LayerShapes:
    """A slope and a bias for each element of an item, or for each channel."""
    shape = q.shape()
    shared = q.param.eltwise_affine_param.channel_shared
    blob: Shape = (1,) if shared else shape[1:2]
    return LayerShapes((shape,), (blob, blob))


def _window(q: Query, shape: Shape, axis: int, num_axes: int, name: str) -> Shape:
    """The bottom's axes that a scale or bias blob covers (scale_layer.cpp, bias_layer.cpp)."""
    if num_axes == 0:
        return ()
    start = q.axis(axis, len(shape), f"{name}.axis")
    end = len(shape) if num_axes == -1 else start + num_axes
    if num_axes < -1 or end > len(shape):
        q.fail(
            f"the blob of {num_axes} axes extends past the {len(shape)}-D bottom from axis {start}",
            f"{name}.num_axes",
        )
    return shape[start:end]


def _second(q: Query, axis: int, name: str) -> Shape:
    """The second bottom, checked against the axes of the first that it is applied to."""
    shape, factor = q.shape(0), q.shape(1)
    start = q.axis(axis, len(shape), f"{name}.axis") if factor else 0
    covered = shape[start : start + len(factor)]
    if len(covered) < len(factor) or not all(map(agree, covered, factor)):
        q.fail(f"bottom[1] {factor} does not fit bottom[0] {shape} from axis {start}", "bottom")
    return factor


@rule("Scale")
def scale(q: Query) -> LayerShapes:
    """Scale (and bias) from blobs, or the scale from the second bottom."""
    p, shape = q.param.scale_param, q.shape()
    if len(q.bottoms) > 1:
        factor = _second(q, p.axis, "scale_param")
        return LayerShapes((shape,), (factor,) if p.bias_term else ())
    blob = _window(q, shape, p.axis, p.num_axes, "scale_param")
    return LayerShapes((shape,), (blob, blob) if p.bias_term else (blob,))


@rule("Bias")
def bias(q: Query) -> LayerShapes:
    """A bias blob, or the bias from the second bottom."""
    p, shape = q.param.bias_param, q.shape()
    if len(q.bottoms) > 1:
        _second(q, p.axis, "bias_param")
        return LayerShapes((shape,))
    return LayerShapes((shape,), (_window(q, shape, p.axis, p.num_axes, "bias_param"),))


@rule("Eltwise")
def eltwise(q: Query) -> LayerShapes:
    """All bottoms alike."""
    if len(q.bottoms) < 2:
        q.fail(f"takes at least 2 bottoms, has {len(q.bottoms)}", "bottom")
    known = [shape for shape in q.bottoms if shape is not None]
    if not known:
        return LayerShapes((None,), macs=None)
    first = known[0]
    for shape in known[1:]:
        if len(shape) != len(first) or not all(map(agree, shape, first)):
            q.fail(f"bottoms of different shapes {first} and {shape}", "bottom")
    merged = tuple(max(dims) for dims in zip(*known, strict=True))
    return LayerShapes((merged,))


@rule("Axpy")
def axpy(q: Query) -> LayerShapes:
    """a (N,C,1,1) times x plus y."""
    a, x = q.shape(0), q.shape(1)
    if len(q.bottoms) != 3:
        q.fail(f"takes 3 bottoms, has {len(q.bottoms)}", "bottom")
    if not all(map(agree, a[:2], x[:2])):
        q.fail(f"scale {a} does not fit {x}", "bottom")
    return LayerShapes((x,))


@rule("LSTMUnit")
def lstm_unit(q: Query) -> LayerShapes:
    """c and h like c_prev."""
    return LayerShapes((q.shape(0), q.shape(0)))
