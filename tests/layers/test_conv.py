from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.errors import LayerError
from caffeio.layers.window import axis_values
from caffeio.proto import caffe_pb2 as pb
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import backward, make, random

CONV = 'type: "Convolution" convolution_param { %s }'


@pytest.mark.parametrize("case", layer_cases("Convolution", "Deconvolution", "Im2col"))
def test_golden(case: Any) -> None:
    check_case(case)


def caffe_positions(size: int, k: int, s: int, p: int, d: int) -> int:
    room = size + 2 * p - (d * (k - 1) + 1)
    return (abs(room) // s) * (1 if room >= 0 else -1) + 1  # C++ truncates


def patches(x: np.ndarray, k: int, s: int, p: int, d: int) -> np.ndarray:
    """im2col of one item (C, H, W): [C * k * k, positions]; outside there are zeros."""
    sizes = [caffe_positions(n, k, s, p, d) for n in x.shape[1:]]
    out = np.zeros((x.shape[0], k, k, *sizes), np.float32)
    for c, a, b, i, j in itertools.product(*map(range, out.shape)):
        h, w = i * s - p + a * d, j * s - p + b * d
        if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
            out[c, a, b, i, j] = x[c, h, w]
    return out.reshape(-1, *sizes)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3),
    st.integers(1, 7), st.integers(1, 7),
)  # fmt: skip
def test_any_geometry(k: int, s: int, p: int, d: int, h: int, w: int) -> None:
    """Against im2col; also where the kernel sticks out of the padded bottom by < one stride."""
    fields = f"num_output: 2 kernel_size: {k} stride: {s} pad: {p} dilation: {d}"
    x = random(1, 2, h, w)
    if min(caffe_positions(n, k, s, p, d) for n in (h, w)) < 1:
        with pytest.raises(LayerError, match="does not fit into the bottom"):
            make(CONV % fields, x.shape)
        return
    columns = patches(x[0].numpy(), k, s, p, d)
    weight, bias = random(2, 2, k, k, seed=1).numpy(), np.float32([0.5, -1])
    conv = make(CONV % fields, x.shape, blobs=[weight, bias])
    top = np.tensordot(weight.reshape(2, -1), columns, 1) + bias[:, None, None]
    assert conv.top_shapes == ((1, *top.shape),)
    assert_close(conv(x)[0], top, "convolution")
    unrolled = make((CONV % fields).replace("Convolution", "Im2col", 1), x.shape)(x)
    np.testing.assert_array_equal(unrolled[0].numpy(), columns)


def test_deconvolution_is_the_gradient_of_convolution() -> None:
    fields = "num_output: 4 kernel_size: 3 stride: 2 pad: 1 dilation: 2 group: 2 bias_term: false"
    x = random(2, 6, 9, 7, grad=True)
    weight = random(4, 3, 3, 3, seed=1).numpy()
    conv = make(CONV % fields, x.shape, blobs=[weight])
    y = conv(x)
    diff = random(*y.shape, seed=2)
    text = (CONV % fields.replace("num_output: 4", "num_output: 6")).replace(
        "Convolution", "Deconvolution", 1
    )
    deconv = make(text, y.shape, blobs=[weight])
    assert deconv.blobs[0].shape == (4, 3, 3, 3)
    assert_close(deconv(diff), backward(y, diff, x)[0], "top")


def test_other_axes() -> None:
    """axis 2: the leading axes are a batch; axis -1: no spatial axes at all."""
    x = random(2, 3, 4, 5, 6)
    weight, bias = random(2, 4, 3, 3, seed=1).numpy(), np.float32([1, 2])
    fields = "num_output: 2 kernel_size: 3 "
    plain = make(CONV % fields, (6, 4, 5, 6), blobs=[weight, bias])(x.view(6, 4, 5, 6))
    conv = make(CONV % (fields + "axis: 2"), x.shape, blobs=[weight, bias])
    assert torch.equal(conv(x), plain.view(2, 3, 2, 3, 4))
    dense = make(CONV % (fields + "axis: -1"), (2, 3, 4), blobs=[weight[:, :, 0, 0], bias])
    x = x[..., 0, 0]
    expected = x.numpy() @ weight[:, :, 0, 0].T + bias
    assert_close(dense(x), expected, "dense")
    for kind in ("Convolution", "Deconvolution"):
        text = (CONV % (fields + "axis: -1 group: 2")).replace("Convolution", kind, 1)
        assert make(text, (2, 3, 4)).top_shapes == ((2, 3, 2),)


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_spatial_axes(axes: int) -> None:
    """Along axes of size 1 nothing is added: the same as in 2-D."""
    x = random(1, 2, 5, 6)
    weight = random(3, 2, 1, 3, seed=1)
    flat = make(CONV % "num_output: 3 kernel_h: 1 kernel_w: 3 bias_term: false", x.shape,
                blobs=[weight])(x)  # fmt: skip
    if axes == 1:
        x, weight, flat = x[:, :, 0], weight[:, :, 0], flat[:, :, 0]
        fields = "kernel_size: 3"
    else:
        x, weight, flat = x[:, :, None], weight[:, :, None], flat[:, :, None]
        fields = "kernel_size: 1 kernel_size: 1 kernel_size: 3"
    conv = make(CONV % f"num_output: 3 {fields} bias_term: false", tuple(x.shape), blobs=[weight])
    assert_close(conv(x), flat.detach().numpy(), "top")


def test_depthwise_types() -> None:
    x = random(2, 4, 6, 6)
    weight, bias = random(4, 1, 3, 3, seed=1).numpy(), np.arange(4)
    fields = "num_output: 4 kernel_size: 3 pad: 1 "
    plain = make(CONV % (fields + "group: 4"), x.shape, blobs=[weight, bias])(x)
    for kind, extra in (
        ("DepthwiseConvolution", ""),
        ("DepthwiseConvolution", "group: 4"),
        ("ConvolutionDepthwise", ""),
        ("ConvolutionDepthwise", "group: 2"),
    ):
        text = (CONV % (fields + extra)).replace("Convolution", kind, 1)
        assert torch.equal(make(text, x.shape, blobs=[weight, bias])(x), plain)
    other = (CONV % fields.replace("4", "7")).replace("Convolution", "ConvolutionDepthwise", 1)
    assert make(other, x.shape).top_shapes == ((2, 4, 6, 6),)
    grouped = (CONV % (fields + "group: 2")).replace("Convolution", "DepthwiseConvolution", 1)
    assert make(grouped, x.shape).blobs[0].shape == (4, 2, 3, 3)


def test_relu_that_intel_fused() -> None:
    x = random(1, 2, 4, 4)
    weight = random(2, 2, 1, 1, seed=1).numpy()
    fields = "num_output: 2 kernel_size: 1 bias_term: false "
    plain = make(CONV % fields, x.shape, blobs=[weight])(x)
    fused = make(CONV % (fields + "relu: true"), x.shape, blobs=[weight])(x)
    leaky = make(CONV % (fields + "relu: true negative_slope: 0.5"), x.shape, blobs=[weight])(x)
    assert torch.equal(fused, plain.relu())
    assert torch.equal(leaky, torch.where(plain > 0, plain, 0.5 * plain))


def test_macs() -> None:
    conv = make(CONV % "num_output: 8 kernel_size: 3 pad: 1 stride: 2 group: 2", (5, 4, 10, 10))
    assert conv.macs() == 5 * 8 * (5 * 5) * (2 * 9)
    text = 'type: "Deconvolution" convolution_param { num_output: 8 kernel_size: 4 stride: 2 }'
    assert make(text, (5, 4, 10, 10)).macs() == 5 * 4 * 8 * 16 * 100


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ("num_output: 3 kernel_size: 1 group: 2", (1, 3, 5, 5), "2 groups do not divide the bott"),
        ("num_output: 3 kernel_size: 1 group: 2", (1, 4, 5, 5), "3 is not a multiple of group 2"),
        ("num_output: 3 kernel_size: 1 group: 0", (1, 4, 5, 5), "group: must be above 0"),
        ("num_output: 3 kernel_size: 3 kernel_h: 3", (1, 3, 5, 5), "give either kernel_size or k"),
        ("num_output: 3 kernel_h: 3", (1, 3, 5, 5), "kernel: must be above 0"),
        ("num_output: 3 kernel_h: 3 kernel_w: 3", (1, 3, 5), "need 2 spatial axes, there are 1"),
        ("num_output: 3", (1, 3, 5, 5), "kernel_size: needs 1 value"),
        ("num_output: 3 kernel_size: 1 stride: 0", (1, 3, 5, 5), "stride: must be above 0"),
        ("num_output: 3 kernel_size: 1 pad: 1 pad: 1 pad: 1", (1, 3, 5, 5), "3 are given"),
        ("kernel_size: 1", (1, 3, 5, 5), "num_output: must be above 0"),
        ("num_output: 3 kernel_size: 9", (1, 3, 5, 5), "does not fit into the bottom"),
        ("num_output: 3 kernel_size: 1 axis: 4", (1, 3, 5, 5), "axis 4 out of range"),
        ("num_output: 3 kernel_size: 1", (1, 3, 2, 2, 2, 2), "4 spatial axes"),
        (
            "num_output: 3 kernel_size: 1 fusion_type: SUM_FUSION",
            (1, 3, 5, 5),
            "fusion_type: is a fork",
        ),
        ("num_output: 3 kernel_size: 1 shape_offset: 1", (1, 3, 5, 5), "shape_offset: is a fork"),
    ],
)
def test_checks(fields: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(CONV % fields, shape)


def test_checks_of_bottoms() -> None:
    fields = "num_output: 3 kernel_size: 1"
    with pytest.raises(LayerError, match="all bottoms must have the same shape"):
        make(CONV % fields, (1, 3, 5, 5), (1, 3, 5, 6))
    conv = make(CONV % fields, (1, 3, 5, 5))
    with pytest.raises(LayerError, match="4 channels do not fit a kernel made for 3"):
        conv(random(1, 4, 5, 5))
    assert conv(random(2, 3, 7, 9)).shape == (2, 3, 7, 9)
    text = 'type: "Deconvolution" convolution_param { num_output: 1 kernel_size: 1 pad: 1 }'
    with pytest.raises(LayerError, match="leaves nothing of the top"):
        make(text, (1, 1, 2, 2))
    with pytest.raises(LayerError, match="has no spatial axes"):
        make('type: "Im2col" convolution_param { kernel_size: 1 axis: -1 }', (1, 3, 5))


def test_values_of_each_axis() -> None:
    p = pb.ConvolutionParameter(kernel_size=[3], pad_w=2, dilation=[2, 1])
    assert axis_values(p, "kernel_size", 3, 1) == (3, 3, 3)
    assert axis_values(p, "stride", 2, 1) == (1, 1)
    assert axis_values(p, "pad", 2, 0) == (0, 2)
    assert axis_values(p, "dilation", 2, 1) == (2, 1)
    p = pb.PoolingParameter(kernel_h=3, kernel_w=2, stride_w=2)
    assert axis_values(p, "kernel_size", 2, 0) == (3, 2)
    assert axis_values(p, "stride", 2, 1) == (1, 2)
