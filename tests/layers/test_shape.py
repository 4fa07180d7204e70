from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caffeio.errors import LayerError, NetError
from caffeio.net import load_net
from tests.harness import check_case, layer_cases
from tests.layers.build import build, check_compiled, gradients, meta_shapes


@pytest.mark.parametrize("case", layer_cases("Flatten", "Reshape", "Crop", "Tile"))
def test_golden(case):
    check_case(case, tolerance=1e-6 if "Tile" in str(case) else 0)


def reshape(dims, **fields):
    text = " ".join(f"dim: {d}" for d in dims)
    rest = " ".join(f"{key}: {value}" for key, value in fields.items())
    return f'type: "Reshape" reshape_param {{ shape {{ {text} }} {rest} }}'


@pytest.mark.parametrize(
    ("dims", "fields", "bottom", "top"),
    [
        ((2, 12), {}, (2, 3, 4), (2, 12)),
        ((0, -1), {}, (2, 3, 4), (2, 12)),
        ((-1, 6), {}, (2, 3, 4), (4, 6)),
        ((0, 0, 2, -1), {}, (2, 3, 4), (2, 3, 2, 2)),
        ((4, 3), {"axis": 1}, (2, 3, 4), (2, 4, 3)),
        ((3, -1), {"axis": 1, "num_axes": 1}, (2, 6, 4), (2, 3, 2, 4)),
        ((1,), {"axis": 0, "num_axes": 0}, (2, 3), (1, 2, 3)),
        ((1,), {"axis": -1}, (2, 3), (2, 3, 1)),  # -1 is behind the last axis
        ((1,), {"axis": -2, "num_axes": 0}, (2, 3), (2, 1, 3)),
        ((3, 4), {"axis": -2}, (2, 12), (2, 3, 4)),
        ((), {}, (1, 1), ()),
        ((-1,), {}, (), (1,)),
        ((0, 3), {}, (0, 3), (0, 3)),
    ],
)
def test_reshape(dims, fields, bottom, top):
    layer = build(reshape(dims, **fields), bottom)
    x = torch.randn(bottom)
    assert tuple(layer(x).shape) == top
    assert torch.equal(layer(x).flatten(), x.flatten())
    assert meta_shapes(layer, bottom) == [top]


@pytest.mark.parametrize(
    ("dims", "fields", "message"),
    [
        ((5,), {}, "the new shape 5 has not the bottom's count"),
        ((-1, 5), {}, "count 24 does not divide by the product 5"),
        ((-1, -1), {}, "only one dim may be -1"),
        ((-2, 12), {}, "less than -1"),
        ((2, 3, 4, 0), {}, "dim 3 is 0"),
        ((24,), {"axis": 4}, "axis 4 out of range for a 3-D bottom"),
        ((24,), {"axis": -5}, "axis -5 out of range"),
        ((24,), {"axis": 1, "num_axes": 3}, "axes 1 to 4 out of range"),
        ((24,), {"num_axes": -2}, "must be -1"),
        ((), {"pixelshuffler": 2}, "needs a 4-D bottom"),
    ],
)
def test_reshape_errors(dims, fields, message):
    with pytest.raises(LayerError, match=message):
        build(reshape(dims, **fields), (2, 3, 4))


def test_reshape_follows_the_batch():
    layer = build(reshape((0, -1)), (2, 3, 4))
    assert layer(torch.randn(5, 3, 4)).shape == (5, 12)
    with pytest.raises(LayerError, match="count"):
        build(reshape((2, 12)), (2, 3, 4))(torch.randn(5, 3, 4))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_reshape_with_one_unknown(bottom, data):
    place = data.draw(st.integers(0, len(bottom) - 1))
    dims = [*bottom[:place], -1, *bottom[place + 1 :]]
    assert tuple(build(reshape(dims), tuple(bottom))(torch.randn(bottom)).shape) == tuple(bottom)


def test_pixel_shuffle_of_intel():
    """Channel c of the bottom becomes pixel ((c / r) % r, c % r) of channel c / r^2."""
    r, x = 2, torch.randn(2, 8, 3, 5)
    layer = build(reshape((), pixelshuffler=r), x.shape)
    expected = np.zeros((2, 2, 6, 10), np.float32)
    for c in range(8):
        expected[:, c // 4, (c // r) % r :: r, c % r :: r] = x[:, c]
    (y,), (grad,) = gradients(layer, x)
    assert np.array_equal(y.detach().numpy(), expected)
    assert torch.equal(grad, torch.ones_like(x))


@pytest.mark.parametrize(
    ("param", "top"),
    [
        ("", (2, 60)),
        ("axis: 0", (120,)),
        ("axis: 2", (2, 3, 20)),
        ("axis: 1 end_axis: 2", (2, 12, 5)),
        ("axis: -2", (2, 3, 20)),
        ("end_axis: -2", (2, 12, 5)),
        ("axis: 3", (2, 3, 4, 5)),
        ("axis: 2 end_axis: 1", (2, 3, 1, 4, 5)),  # nothing joined: an axis of size 1
    ],
)
def test_flatten(param, top):
    layer = build(f'type: "Flatten" flatten_param {{ {param} }}', (2, 3, 4, 5))
    assert tuple(layer(torch.randn(2, 3, 4, 5)).shape) == top
    assert meta_shapes(layer, (2, 3, 4, 5)) == [top]


def test_flatten_errors():
    with pytest.raises(LayerError, match="axis 1 out of range for a 1-D bottom"):
        build('type: "Flatten"', (3,))
    with pytest.raises(LayerError, match="behind end_axis"):
        build('type: "Flatten" flatten_param { axis: 2 end_axis: 0 }', (2, 3, 4))


@pytest.mark.parametrize(
    ("param", "slices"),
    [
        ("", (slice(0, 2), slice(0, 3), slice(0, 2), slice(0, 3))),
        ("offset: 1", (slice(0, 2), slice(0, 3), slice(1, 3), slice(1, 4))),
        ("offset: 0 offset: 2", (slice(0, 2), slice(0, 3), slice(0, 2), slice(2, 5))),
        ("axis: 3 offset: 1", (slice(0, 2), slice(0, 3), slice(0, 4), slice(1, 4))),
        ("axis: -1 offset: 2", (slice(0, 2), slice(0, 3), slice(0, 4), slice(2, 5))),
    ],
)
def test_crop(param, slices):
    x, like = torch.randn(2, 3, 4, 5), torch.randn(1, 1, 2, 3)
    layer = build(f'type: "Crop" crop_param {{ {param} }}', x.shape, like.shape)
    (y,), (grad,) = gradients(layer, x, like)
    assert torch.equal(y, x[slices])
    expected = torch.zeros_like(x)
    expected[slices] = 1
    assert torch.equal(grad, expected)


def test_crop_errors():
    kind = 'type: "Crop"'
    with pytest.raises(LayerError, match="axis 2 of size 4 cannot be cropped to 3 at offset 2"):
        build(f"{kind} crop_param {{ offset: 2 offset: 0 }}", (1, 1, 4, 4), (1, 1, 3, 4))
    with pytest.raises(LayerError, match="axis 3 of size 2 cannot be cropped to 3 at offset 0"):
        build(kind, (1, 1, 4, 4), (1, 1, 3, 3))(torch.ones(1, 1, 4, 2), torch.ones(1, 1, 3, 3))
    with pytest.raises(LayerError, match="one offset for each of the 2 axes"):
        build(f"{kind} crop_param {{ offset: 1 offset: 1 offset: 1 }}", (1, 1, 4, 4), (1, 1, 3, 3))
    with pytest.raises(LayerError, match="fewer axes"):
        build(kind, (1, 1, 4, 4), (3, 3))


def test_tile():
    x = torch.arange(6.0).view(2, 3)
    layer = build('type: "Tile" tile_param { tiles: 2 }', (2, 3))
    (y,), (grad,) = gradients(layer, x)
    assert y.tolist() == [[0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5]]
    assert torch.equal(grad, torch.full((2, 3), 2.0))
    for param in ("", "tile_param { tiles: 0 }", "tile_param { tiles: -1 }"):
        with pytest.raises(LayerError, match="tiles"):
            build(f'type: "Tile" {param}', (2, 3))


def test_permute():
    x = torch.randn(2, 3, 4, 5)
    for text, order in [
        ("order: 0 order: 2 order: 3 order: 1", (0, 2, 3, 1)),
        ("order: 3", (3, 0, 1, 2)),
        ("", (0, 1, 2, 3)),
    ]:
        layer = build(f'type: "Permute" permute_param {{ {text} }}', x.shape)
        assert torch.equal(layer(x), x.permute(order))
        assert meta_shapes(layer, tuple(x.shape)) == [tuple(x.shape[i] for i in order)]
    with pytest.raises(LayerError, match="names an axis twice"):
        build('type: "Permute" permute_param { order: 1 order: 1 }', (2, 3))
    with pytest.raises(LayerError, match="axes of a 2-D bottom"):
        build('type: "Permute" permute_param { order: 2 }', (2, 3))


def test_these_layers_cannot_work_in_place():
    text = """
    layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "f" type: "%s" bottom: "a" top: "a" }
    """
    for kind in ("Flatten", "Reshape"):
        with pytest.raises(NetError, match="in place"):
            load_net(text % kind)


def test_negative_dimension_of_a_net():
    with pytest.raises(NetError, match="-3"):
        load_net('layer { name: "in" type: "Input" top: "a"\n'
                 "input_param { shape { dim: 2 dim: -3 } } }")  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        reshape((0, -1, 2)), reshape((3, -1), axis=1, num_axes=1), 'type: "Flatten"',
        'type: "Tile" tile_param { tiles: 3 }', 'type: "Permute" permute_param { order: 2 }',
    ],
)  # fmt: skip
def test_compiles(text):
    shape = (2, 3, 4)
    assert prod(shape) == 24
    check_compiled(build(text, shape), build(text, shape), torch.randn(shape))


def test_crop_compiles():
    shapes = ((1, 2, 5, 6), (1, 2, 3, 3))
    layers = [build('type: "Crop" crop_param { offset: 1 }', *shapes) for _ in range(2)]
    check_compiled(*layers, torch.randn(shapes[0]), torch.randn(shapes[1]))
