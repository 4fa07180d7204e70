from __future__ import annotations

import pytest
import torch

from caffeio.errors import LayerError
from tests.layers.build import build, gradients


def test_crop_center():
    x = torch.randn(2, 3, 6, 7)
    sizes = " ".join(f"crop_size: {n}" for n in (0, 1, 2, 3))
    layer = build(f'type: "CropCenter" crop_center_param {{ {sizes} }}', x.shape)
    (y,), (grad,) = gradients(layer, x)
    assert torch.equal(y, x[:, 1:2, 2:4, 3:4])
    assert grad.sum() == y.numel()
    with pytest.raises(LayerError, match="one size for each of 2 axes"):
        build(f'type: "CropCenter" crop_center_param {{ {sizes} }}', (2, 3))
    with pytest.raises(LayerError, match="nothing is left"):
        build(f'type: "CropCenter" crop_center_param {{ {sizes} }}', (2, 3, 4, 7))
