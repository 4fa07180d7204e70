# ruff: noqa: C408 (nets are written as scripts write them)
"""Maps of coordinates, and crops from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.pycaffe import NetSpec
from caffeio.pycaffe import layers as L
from caffeio.pycaffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)


def net(kernel=3, stride=1, pad=0, pool=2, up=2, up_pad=0) -> NetSpec:
    """A convolution, a pooling and an upsampling."""
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, kernel_size=pool, stride=pool)
    size = [2 * s for s in up] if isinstance(up, list) else 2 * up
    n.up = L.Deconvolution(
        n.pool, convolution_param=dict(num_output=10, kernel_size=size, stride=up, pad=up_pad)
    )
    return n


def test_pool_and_deconvolution() -> None:
    n = net()
    assert coord_map_from_to(n.up, n.data) == (1, 1, 0)
    n = net(pool=4, up=4)
    assert coord_map_from_to(n.up, n.data) == (1, 1, -1)


@given(st.integers(0, 20), st.integers(0, 20))
def test_pads(pad: int, up_pad: int) -> None:
    plain, padded = net(), net(pad=pad, up_pad=up_pad)
    _, scale, shift = coord_map_from_to(plain.up, plain.data)
    _, scale2, shift2 = coord_map_from_to(padded.up, padded.data)
    assert scale == scale2 and shift2 == shift - pad + up_pad


def test_layers_that_leave_pixels_where_they_are() -> None:
    n = net()
    n.relu = L.ReLU(n.up)
    n.one = L.Convolution(n.relu, kernel_size=1, num_output=1)
    n.fuse = L.Eltwise(n.one, L.Scale(n.up))
    for top in (n.relu, n.one, n.fuse):
        assert coord_map_from_to(top, n.data) == coord_map_from_to(n.up, n.data)


def test_axes_of_their_own() -> None:
    n = net(kernel=[3, 5], stride=[1, 2], pad=[0, 10])
    axis, scale, shift = coord_map_from_to(n.up, n.data)
    first, second = net(), net(kernel=5, stride=2, pad=10)
    for i, other in enumerate((first, second)):
        one = coord_map_from_to(other.up, other.data)
        assert (axis, scale[i], shift[i]) == one
    assert coord_map(L.Pooling(n.data, kernel_size=3, stride=2).fn) == (1, 0.5, -0.5)


def test_crop_of_a_crop() -> None:
    n = net()
    n.cut = L.Crop(n.up, n.data, axis=2, offset=7)
    assert coord_map_from_to(n.cut, n.data) == (1, 1, 7)
    n.cut2 = L.Crop(n.up, n.data, crop_param=dict(axis=2, offset=[7, 8]))
    assert coord_map_from_to(n.cut2, n.data)[2].tolist() == [7, 8]


def test_crop_as_fcn_does() -> None:
    """conv1_1 of pad 100 and five poolings, upsampled 32 times: offset 19, as in FCN-32s."""
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 500, 500]))
    n.conv = L.Convolution(n.data, kernel_size=3, pad=100)
    for i in range(5):
        n[f"pool{i}"] = L.Pooling(n[n.keys()[-1]], kernel_size=2, stride=2)
    n.fc6 = L.Convolution(n.pool4, kernel_size=7)
    n.up = L.Deconvolution(n.fc6, convolution_param=dict(kernel_size=64, stride=32))
    param = crop(n.up, n.data).fn.params["crop_param"]
    assert param == {"axis": 2, "offset": [19]}
    n.score = crop(n.up, n.data)
    assert list(n.to_proto().layer[-1].crop_param.offset) == [19]


def test_what_cannot_be_cropped() -> None:
    n = net(pool=3, up=2)
    with pytest.raises(AssertionError, match=r"scale mismatch on crop \(a = \[1.5\]\)"):
        crop(n.up, n.data)
    n = net(up_pad=10)
    with pytest.raises(AssertionError, match=r"cannot crop negative offset \(b = \[10.\]\)"):
        crop(n.up, n.data)
    n = net(pool=2, up=2)
    n.more = L.Convolution(n.up, kernel_size=4, pad=3)
    with pytest.raises(AssertionError, match=r"cannot crop noninteger offset \(b = \[-1.5\]\)"):
        crop(n.more, n.data)
    n.flat = L.InnerProduct(n.up, num_output=1)
    with pytest.raises(RuntimeError, match="Could not compute map between tops; are they conn"):
        coord_map_from_to(n.flat, n.data)
    with pytest.raises(UndefinedMapException):
        coord_map(n.flat.fn)
    with pytest.raises(AxisMismatchException):
        compose((1, 1, 0), (2, 1, 0))
    with pytest.raises(AssertionError, match="legacy _h/_w"):
        coord_map(L.Convolution(n.data, kernel_size=3, pad_h=1).fn)


@given(st.floats(0.1, 10), st.floats(-50, 50))
def test_inverse(scale: float, shift: float) -> None:
    axis, one, zero = compose((1, scale, shift), inverse((1, scale, shift)))
    assert axis == 1 and np.isclose(one, 1) and np.isclose(zero, 0, atol=1e-9)
