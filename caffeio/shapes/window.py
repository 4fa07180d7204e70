"""Layers that slide a window, and the dense ones: those that hold nearly all MACs."""

from __future__ import annotations

from collections.abc import Sequence

from caffeio.shapes.base import UNKNOWN, LayerShapes, Query, Shape, macs_of, product, rule


def per_axis(
    q: Query, values: Sequence[int], hw: tuple[int, int] | None, count: int, default: int, name: str
) -> tuple[int, ...]:
    """One value for each of `count` spatial axes from `name`, or from `name`_h and `name`_w."""
    if hw is not None:
        if count != 2:
            q.fail(f"the _h and _w forms are only for 2 spatial axes, there are {count}", name)
        if values:
            q.fail("give either one repeated field or the _h and _w forms, not both", name)
        return hw
    if not values:
        return (default,) * count
    if len(values) not in (1, count):
        q.fail(f"give 1 value or {count}, one for each spatial axis; there are {len(values)}", name)
    return tuple(values) * count if len(values) == 1 else tuple(values)


def _truncated(a: int, b: int) -> int:
    """C's integer division."""
    return a // b if a >= 0 else -(-a // b)


def conv_output(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """conv_layer.cpp: (size + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1, truncated."""
    if size < 0:
        return UNKNOWN
    return _truncated(size + 2 * pad - (dilation * (kernel - 1) + 1), stride) + 1


Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _geometry(q: Query, axes: int, field: str = "convolution_param") -> Geometry:
    """Kernel, stride, pad and dilation of a convolution, one value for each spatial axis."""
    p = getattr(q.param, field)

    def pair(name: str) -> tuple[int, int] | None:
        h, w = f"{name}_h", f"{name}_w"
        return (getattr(p, h), getattr(p, w)) if p.HasField(h) or p.HasField(w) else None

    kernel = per_axis(q, p.kernel_size, pair("kernel"), axes, 0, f"{field}.kernel_size")
    stride = per_axis(q, p.stride, pair("stride"), axes, 1, f"{field}.stride")
    pad = per_axis(q, p.pad, pair("pad"), axes, 0, f"{field}.pad")
    dilation = per_axis(q, p.dilation, None, axes, 1, f"{field}.dilation")
    if not all(kernel):
        q.fail("the kernel has no size", f"{field}.kernel_size")
    if not all(stride):
        q.fail("a stride of 0", f"{field}.stride")
    return kernel, stride, pad, dilation


def _checked(q: Query, shape: Shape, size: Shape) -> Shape:
    if any(dim != UNKNOWN and dim < 1 for dim in size):
        q.fail(f"the kernel is larger than the bottom {shape} with its padding", "bottom")
    return size


@rule("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "DeformableConvolution")
def convolution(q: Query) -> LayerShapes:
    """base_conv_layer.cpp; depthwise layers take as many groups as the bottom has channels."""
    field = "convolution_param"
    if q.kind == "DeformableConvolution":
        field = "deformable_convolution_param"
    p, shape = getattr(q.param, field), q.shape()
    axis = q.axis(p.axis, len(shape), f"{field}.axis")
    space = shape[axis + 1 :]
    kernel, stride, pad, dilation = _geometry(q, len(space), field)
    channels, outputs = shape[axis], p.num_output
    groups = channels if q.kind == "ConvolutionDepthwise" else p.group
    _check_groups(q, channels, outputs, groups, field)
    inputs = UNKNOWN if channels < 0 else channels // groups
    if q.kind == "ConvolutionDepthwise" and channels < 0:
        inputs = 1
    size = _checked(q, shape, tuple(map(conv_output, space, kernel, stride, pad, dilation)))
    top = (*shape[:axis], outputs, *size)
    weight = (outputs, inputs, *kernel)
    count = len(q.bottoms) if q.kind in ("Convolution", "DepthwiseConvolution") else 1
    macs = macs_of(count, *top, *weight[1:])
    tops = (top,) * min(count, max(q.top_count, 1))
    return LayerShapes(tops, (weight, (outputs,)) if p.bias_term else (weight,), macs)


def _check_groups(q: Query, channels: int, outputs: int, groups: int, field: str) -> None:
    if outputs < 1:
        q.fail("must be 1 or more", f"{field}.num_output")
    if channels >= 0 and (groups < 1 or channels % groups):
        q.fail(f"{channels} channels do not divide into {groups} groups", f"{field}.group")
    if groups > 0 and outputs % groups:
        q.fail(f"{outputs} outputs do not divide into {groups} groups", f"{field}.num_output")


@rule("Deconvolution", "DepthwiseDeconvolution")
def deconvolution(q: Query) -> LayerShapes:
    """deconv_layer.cpp: stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad."""
    p, shape = q.param.convolution_param, q.shape()
    axis = q.axis(p.axis, len(shape), "convolution_param.axis")
    space = shape[axis + 1 :]
    kernel, stride, pad, dilation = _geometry(q, len(space))
    channels, outputs = shape[axis], p.num_output
    _check_groups(q, channels, outputs, p.group, "convolution_param")
    size = tuple(
        UNKNOWN if n < 0 else s * (n - 1) + d * (k - 1) + 1 - 2 * o
        for n, k, s, o, d in zip(space, kernel, stride, pad, dilation, strict=True)
    )
    top = (*shape[:axis], outputs, *_checked(q, shape, size))
    weight = (channels, outputs // p.group, *kernel)
    blobs = (weight, (outputs,)) if p.bias_term else (weight,)
    tops = (top,) * min(len(q.bottoms), max(q.top_count, 1))
    return LayerShapes(tops, blobs, macs_of(len(q.bottoms), *shape, *weight[1:]))


@rule("Im2col")
def im2col(q: Query) -> LayerShapes:
    """Channels times the kernel's size, one column for each window."""
    shape = q.shape()
    axis = q.axis(q.param.convolution_param.axis, len(shape), "convolution_param.axis")
    space = shape[axis + 1 :]
    kernel, stride, pad, dilation = _geometry(q, len(space))
    size = _checked(q, shape, tuple(map(conv_output, space, kernel, stride, pad, dilation)))
    return LayerShapes(((*shape[:axis], product((shape[axis], *kernel)), *size),))


def pool_geometry(q: Query, space: Shape) -> tuple[Shape, Shape, Shape]:
    """Kernel, stride and pad of a Pooling layer over the spatial sizes `space`."""
    p, axes = q.param.pooling_param, len(space)
    if p.global_pooling:
        if p.kernel_size or p.HasField("kernel_h") or p.HasField("kernel_w"):
            q.fail("global_pooling and a kernel exclude each other", "pooling_param.kernel_size")
        return space, (1,) * axes, (0,) * axes

    def pair(name: str, default: int) -> tuple[int, int] | None:
        h, w = f"{name}_h", f"{name}_w"
        if not (p.HasField(h) or p.HasField(w)):
            return None
        return (
            getattr(p, h) if p.HasField(h) else default,
            getattr(p, w) if p.HasField(w) else default,
        )

    repeated = ("kernel_size_3d", "stride_3d", "pad_3d") if axes == 3 and p.kernel_size_3d else None
    kernels, strides, pads = repeated or ("kernel_size", "stride", "pad")
    kernel = per_axis(
        q, getattr(p, kernels), pair("kernel", 0), axes, 0, "pooling_param.kernel_size"
    )
    stride = per_axis(q, getattr(p, strides), pair("stride", 1), axes, 1, "pooling_param.stride")
    pad = per_axis(q, getattr(p, pads), pair("pad", 0), axes, 0, "pooling_param.pad")
    if not all(kernel):
        q.fail("the kernel has no size", "pooling_param.kernel_size")
    if not all(stride):
        q.fail("a stride of 0", "pooling_param.stride")
    if any(o and o >= k for o, k in zip(pad, kernel, strict=True)):
        q.fail(f"the pad {pad} is not smaller than the kernel {kernel}", "pooling_param.pad")
    return kernel, stride, pad


def pool_sizes(q: Query, space: Shape, kernel: Shape, stride: Shape, pad: Shape) -> Shape:
    """pooling_layer.cpp: ceil (or floor) division, clipped where there is padding."""
    p = q.param.pooling_param
    floor = (p.HasField("round_mode") and p.round_mode == 1) or (
        p.HasField("ceil_mode") and not p.ceil_mode
    )
    clip = any(pad) or (q.profile.pooling_clips_kernel_1 and 1 in kernel)
    sizes = []
    for n, k, s, o in zip(space, kernel, stride, pad, strict=True):
        if n < 0:
            sizes.append(1 if p.global_pooling else UNKNOWN)
            continue
        room = n + 2 * o - k
        size = (room // s if floor else -(-room // s)) + 1
        if clip and (size - 1) * s >= n + o:
            size -= 1
        sizes.append(size)
    return tuple(sizes)


@rule("Pooling")
def pooling(q: Query) -> LayerShapes:
    """MAX, AVE or STOCHASTIC; a second top is the mask."""
    shape = q.shape()
    if len(shape) < 3:
        q.fail(f"needs a 4-D bottom (n, c, h, w), has {len(shape)} axes", "bottom")
    kernel, stride, pad = pool_geometry(q, shape[2:])
    size = _checked(q, shape, pool_sizes(q, shape[2:], kernel, stride, pad))
    top = (*shape[:2], *size)
    return LayerShapes((top,) * max(1, min(q.top_count, 2)))


@rule("SPP")
def spp(q: Query) -> LayerShapes:
    """spp_layer.cpp: (4^height - 1) / 3 bins for each channel."""
    shape, height = q.shape(), q.param.spp_param.pyramid_height
    if height < 1:
        q.fail("must be 1 or more", "spp_param.pyramid_height")
    if height == 1:
        return LayerShapes(((*shape[:2], 1, 1),))
    return LayerShapes(((shape[0], product((shape[1], (4**height - 1) // 3))),))


@rule("InnerProduct")
def inner_product(q: Query) -> LayerShapes:
    """y = W x + b over the axes from `axis` on."""
    p, shape = q.param.inner_product_param, q.shape()
    axis = q.axis(p.axis, len(shape), "inner_product_param.axis")
    if p.num_output < 1:
        q.fail("must be 1 or more", "inner_product_param.num_output")
    inputs = product(shape[axis:])
    top = (*shape[:axis], p.num_output)
    weight = (inputs, p.num_output) if p.transpose else (p.num_output, inputs)
    blobs = (weight, (p.num_output,)) if p.bias_term else (weight,)
    return LayerShapes((top,), blobs, macs_of(*top, inputs))


@rule("Embed")
def embed(q: Query) -> LayerShapes:
    """A table of rows; no multiplications."""
    p = q.param.embed_param
    if p.num_output < 1 or p.input_dim < 1:
        q.fail("num_output and input_dim must be 1 or more", "embed_param")
    table = (p.input_dim, p.num_output)
    blobs = (table, (p.num_output,)) if p.bias_term else (table,)
    return LayerShapes(((*q.shape(), p.num_output),), blobs)


@rule("LSTM", "RNN")
def recurrent(q: Query) -> LayerShapes:
    """x (T,N,...) -> h (T,N,H); blobs as lstm_layer.cpp and rnn_layer.cpp order them."""
    p, shape = q.param.recurrent_param, q.shape()
    hidden = p.num_output
    if hidden < 1:
        q.fail("must be 1 or more", "recurrent_param.num_output")
    if len(shape) < 3:
        q.fail(f"needs a bottom (T, N, ...), has {len(shape)} axes", "bottom")
    steps, batch, inputs = shape[0], shape[1], product(shape[2:])
    lstm = q.kind == "LSTM"
    states = (2 if lstm else 1) if p.expose_hidden else 0
    static = len(q.bottoms) - states > 2
    rows = 4 * hidden if lstm else hidden
    blobs: list[Shape] = [(rows, inputs), (rows,)]
    macs = [macs_of(steps, batch, rows, inputs), macs_of(steps, batch, rows, hidden)]
    if static:
        width = product(q.shape(2)[1:])
        blobs.append((rows, width))
        macs.append(macs_of(batch, rows, width))
    blobs.append((rows, hidden))
    if not lstm:
        blobs += [(hidden, hidden), (hidden,)]
        macs.append(macs_of(steps, batch, hidden, hidden))
    tops = ((steps, batch, hidden), *((1, batch, hidden),) * states)
    total = None if None in macs else sum(m for m in macs if m is not None)
    return LayerShapes(tops, tuple(blobs), total)
