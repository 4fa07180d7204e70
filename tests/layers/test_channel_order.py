from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from tests.layers.build import build, check_compiled, gradients, meta_shapes


def test_shuffle_channel():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    layer = build('type: "ShuffleChannel" shuffle_channel_param { group: 3 }', x.shape)
    assert layer(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    y = build('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', x.shape)(layer(x))
    assert torch.equal(x, y)
    with pytest.raises(LayerError, match="6 channels do not divide into 4 groups"):
        build('type: "ShuffleChannel" shuffle_channel_param { group: 4 }', x.shape)
    with pytest.raises(LayerError, match="needs a bottom"):
        build('type: "ShuffleChannel"', (2, 6))


def darknet_reorg(x: np.ndarray, s: int, reverse: bool) -> np.ndarray:
    """The loop of darknet over flat memory; the shapes are those of Intel's layer."""
    n, c, h, w = x.shape
    out_c = c // (s * s)
    source, out = x.ravel(), np.empty_like(x).ravel()
    for b in range(n):
        for k in range(c):
            for j in range(h):
                for i in range(w):
                    small = i + w * (j + h * (k + c * b))
                    offset = k // out_c
                    big_w, big_h = i * s + offset % s, j * s + offset // s
                    big = big_w + w * s * (big_h + h * s * (k % out_c + out_c * b))
                    if reverse:
                        out[big] = source[small]
                    else:
                        out[small] = source[big]
    shape = (n, out_c, h * s, w * s) if reverse else (n, c * s * s, h // s, w // s)
    return out.reshape(shape)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("stride", "shape"), [(2, (2, 8, 4, 6)), (3, (1, 9, 3, 6)), (1, (1, 2, 3, 3))]
)
def test_reorg(stride, shape, reverse):
    x = torch.randn(shape)
    text = f"reorg_param {{ stride: {stride} reverse: {str(reverse).lower()} }}"
    layer = build(f'type: "Reorg" {text}', shape)
    (y,), (grad,) = gradients(layer, x)
    expected = darknet_reorg(x.numpy(), stride, reverse)
    assert np.array_equal(y.detach().numpy(), expected)
    assert torch.equal(grad, torch.ones_like(x))
    assert meta_shapes(layer, shape) == [expected.shape]


def test_reorg_errors():
    with pytest.raises(LayerError, match="stride: must be set"):
        build('type: "Reorg"', (1, 4, 4, 4))
    with pytest.raises(LayerError, match="does not divide by stride 2"):
        build('type: "Reorg" reorg_param { stride: 2 }', (1, 4, 3, 4))
    with pytest.raises(LayerError, match="does not divide by stride 2"):
        build('type: "Reorg" reorg_param { stride: 2 reverse: true }', (1, 6, 4, 4))


@pytest.mark.parametrize(
    "text",
    [
        'type: "ShuffleChannel" shuffle_channel_param { group: 2 }',
        'type: "Reorg" reorg_param { stride: 2 }',
    ],
)
def test_compiles(text):
    shape = (1, 4, 4, 6)
    check_compiled(build(text, shape), build(text, shape), torch.randn(shape))
