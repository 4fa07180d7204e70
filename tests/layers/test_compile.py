"""The layers of the usual nets can be traced as one graph, and give the same numbers."""

from __future__ import annotations

import pytest
import torch

from tests.harness import assert_close
from tests.layers.tools import make, random

MAP = (2, 4, 24, 24)  # more numbers than a blob has that is computed with the digits of C
LAYERS = [
    ('"Convolution" convolution_param { num_output: 4 kernel_size: 3 pad: 1 group: 2 }', 1),
    ('"Deconvolution" convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 }', 1),
    ('"Pooling" pooling_param { kernel_size: 3 stride: 2 }', 1),
    ('"Pooling" pooling_param { kernel_size: 1 stride: 3 }', 1),
    ('"Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 2 pool: AVE }', 1),
    ('"Pooling" pooling_param { global_pooling: true pool: AVE }', 1),
    ('"ReLU"', 1),
    ('"ReLU" relu_param { negative_slope: 0.1 }', 1),
    ('"PReLU"', 1),
    ('"LRN"', 1),
    ('"LRN" lrn_param { norm_region: WITHIN_CHANNEL }', 1),
    ('"BatchNorm"', 1),
    ('"BatchNorm" batch_norm_param { use_global_stats: true }', 1),
    ('"Scale" scale_param { bias_term: true }', 1),
    ('"InnerProduct" inner_product_param { num_output: 5 }', 1),
    ('"Dropout"', 1),
    ('"Eltwise"', 2),
    ('"Eltwise" eltwise_param { operation: MAX }', 2),
    ('"Eltwise" eltwise_param { operation: PROD stable_prod_grad: false }', 2),
    ('"Softmax"', 1),
    ('"MVN"', 1),
    ('"Power" power_param { power: 3 shift: 9 }', 1),
    ('"BN" bn_param { slope_filler { value: 1 } }', 1),
]


@pytest.mark.parametrize(("text", "bottoms"), LAYERS, ids=[text for text, _ in LAYERS])
def test_fullgraph(text: str, bottoms: int) -> None:
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        layer = make(f"type: {text}", *[MAP] * bottoms)
        with torch.no_grad():
            for i, blob in enumerate(layer.blobs):
                blob.copy_(random(*blob.shape, seed=i).abs())
        run = torch.compile(layer, fullgraph=True, backend="eager") if compiled else layer
        xs = [random(*MAP, seed=9 + i, grad=True) for i in range(bottoms)]
        torch.manual_seed(0)
        y = run(*xs)
        sources = [*xs, *(b for b in layer.blobs if b.requires_grad)]
        grads = torch.autograd.grad(y.sin().sum(), sources, allow_unused=True)
        results.append([y, *(g for g in grads if g is not None), *layer.blobs])
    assert len(results[0]) == len(results[1])
    for plain, traced in zip(*results, strict=True):
        assert_close(traced, plain.detach().numpy(), text, 1e-6)
