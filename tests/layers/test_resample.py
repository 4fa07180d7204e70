from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError
from tests.harness import assert_close
from tests.layers.build import build, check_compiled, gradients, meta_shapes


def pooled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, mask = torch.nn.functional.max_pool2d(x, 2, return_indices=True, ceil_mode=True)
    return values, mask.float()


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("", (4, 6)),
        ("scale: 2", (4, 6)),
        ("scale_h: 2 scale_w: 2", (4, 6)),
        ("scale: 2 pad_out_h: true", (3, 6)),
        ("scale: 2 pad_out_h: true pad_out_w: true", (3, 5)),
        ("upsample_h: 4 upsample_w: 5", (4, 5)),
        ("scale: 2 upsample_h: 3 upsample_w: 5", (3, 5)),
    ],
)
def test_upsample_puts_values_where_the_mask_says(param, size):
    x = torch.randn(2, 3, *size)
    values, mask = pooled(x)
    layer = build(f'type: "Upsample" upsample_param {{ {param} }}', values.shape, mask.shape)
    (y,), _ = gradients(layer, values, mask)
    expected = torch.nn.functional.max_unpool2d(values, mask.long(), 2, output_size=size)
    assert torch.equal(y, expected)
    assert meta_shapes(layer, tuple(values.shape), tuple(mask.shape)) == [tuple(y.shape)]


def test_upsample_with_places_that_repeat():
    """The last value stays, and every value gets the gradient of its place."""
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    mask = torch.tensor([[[[5.0, 5.0], [0.0, 5.0]]]])
    layer = build('type: "Upsample"', x.shape, mask.shape)
    leaf = x.clone().requires_grad_()
    y = layer(leaf, mask)
    assert y.flatten().tolist() == [3, 0, 0, 0, 0, 4] + [0] * 10
    (y * torch.arange(16.0).view(1, 1, 4, 4)).sum().backward()
    assert leaf.grad is not None and leaf.grad.flatten().tolist() == [5, 5, 0, 5]


def test_upsample_outside_the_top():
    x, mask = torch.ones(1, 1, 1, 1), torch.tensor([[[[4.0]]]])
    layer = build('type: "Upsample"', x.shape, mask.shape)
    with pytest.raises(DataError, match="place 4 is outside the top of 4 places"):
        layer(x, mask)
    torch._dynamo.reset()
    assert torch.compile(layer, fullgraph=True, backend="eager")(x, mask).isnan().any()


def test_upsample_without_mask_repeats():
    x = torch.randn(2, 3, 2, 2)
    layer = build('type: "Upsample" upsample_param { scale: 3 }', x.shape)
    (y,), (grad,) = gradients(layer, x)
    assert torch.equal(y, torch.nn.functional.interpolate(x, scale_factor=3, mode="nearest"))
    assert torch.equal(grad, torch.full_like(x, 9.0))


@pytest.mark.parametrize(
    ("param", "shapes", "message"),
    [
        ("scale: 1.5", ((1, 1, 2, 2),), "whole number, not 1.5"),
        ("scale: 0", ((1, 1, 2, 2),), "must be positive"),
        ("upsample_h: 4 upsample_w: 4", ((1, 1, 2, 2),), "needs the pooling mask"),
        ("", ((1, 1, 2, 2), (1, 1, 2, 3)), "the same shape: 1 1 2 2 and 1 1 2 3"),
    ],
)
def test_upsample_errors(param, shapes, message):
    with pytest.raises(LayerError, match=message):
        build(f'type: "Upsample" upsample_param {{ {param} }}', *shapes)


def interp_by_hand(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, corners on corners, pixel by pixel."""
    n, c, h, w = x.shape
    out = np.empty((n, c, *size))
    for i in range(size[0]):
        y = i * (h - 1) / (size[0] - 1) if size[0] > 1 else 0.0
        y0 = min(int(y), h - 1)
        y1, fy = min(y0 + 1, h - 1), y - int(y)
        for j in range(size[1]):
            z = j * (w - 1) / (size[1] - 1) if size[1] > 1 else 0.0
            z0 = min(int(z), w - 1)
            z1, fz = min(z0 + 1, w - 1), z - int(z)
            top = (1 - fz) * x[:, :, y0, z0] + fz * x[:, :, y0, z1]
            bottom = (1 - fz) * x[:, :, y1, z0] + fz * x[:, :, y1, z1]
            out[:, :, i, j] = (1 - fy) * top + fy * bottom
    return out


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("zoom_factor: 2", (9, 13)),
        ("shrink_factor: 2", (3, 4)),
        ("shrink_factor: 3 zoom_factor: 2", (3, 5)),
        ("height: 8 width: 3", (8, 3)),
        ("height: 1 width: 1", (1, 1)),
        ("height: 5 width: 7", (5, 7)),
        ("zoom_factor: 2 pad_beg: -1 pad_end: -1", (5, 9)),
        ("height: 6 width: 6 pad_beg: 0 pad_end: -2", (6, 6)),
    ],
)
def test_interp(param, size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 7)
    layer = build(f'type: "Interp" interp_param {{ {param} }}', x.shape)
    begin = 1 if "pad_beg: -1" in param else 0
    end = 1 if "pad_end: -1" in param else 2 if "pad_end: -2" in param else 0
    part = x[:, :, begin : 5 - end, begin : 7 - end].double().numpy()
    (y,), (grad,) = gradients(layer, x)
    assert tuple(y.shape[2:]) == size
    assert_close(y, interp_by_hand(part, size), "top")
    # the map is linear: its gradient in direction 1 is found by feeding unit vectors
    delta = torch.zeros_like(x)
    delta[0, 0, 2, 3] = 1
    assert grad[0, 0, 2, 3].item() == pytest.approx(layer(delta).sum().item(), abs=1e-5)
    assert meta_shapes(layer, tuple(x.shape)) == [tuple(y.shape)]


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "give either height and width, or"),
        ("height: 4", "give either height and width, or"),
        ("height: 4 width: 4 zoom_factor: 2", "give either"),
        ("zoom_factor: 0", "zoom_factor: must be 1 or more"),
        ("zoom_factor: 2 pad_beg: 1", "pad_beg: can only crop"),
        ("zoom_factor: 2 pad_beg: -3 pad_end: -2", "nothing is left"),
        ("height: 0 width: 4", "nothing is left"),
    ],
)
def test_interp_errors(param, message):
    with pytest.raises(LayerError, match=message):
        build(f'type: "Interp" interp_param {{ {param} }}', (1, 1, 5, 7))


@pytest.mark.parametrize(
    "text",
    [
        'type: "Upsample" upsample_param { scale: 2 }',
        'type: "Interp" interp_param { zoom_factor: 2 pad_end: -1 }',
    ],
)
def test_compiles(text):
    shape = (1, 4, 4, 6)
    check_compiled(build(text, shape), build(text, shape), torch.randn(shape))
