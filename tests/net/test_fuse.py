"""Layers that run as one in training: the same bits as apart, forward and backward."""

from __future__ import annotations

import pytest
import torch

from caffeio import load_net
from caffeio.net import Net
from tests.net.test_prepared import FOUR, conv, layer

RELU = layer("r", "ReLU", "c", "c")
DENSE = 'inner_product_param { num_output: 7 axis: %d weight_filler { type: "xavier" } }'
OPERATION = "eltwise_param { operation: %s }"


def summed(operation: str) -> str:
    return conv("a", "x", "a") + layer("e", "Eltwise", "a x", "c", OPERATION % operation) + RELU


def sloped(slope: float) -> str:
    param = f"relu_param {{ negative_slope: {slope} }}"
    return conv("c", "x", "c") + layer("r", "ReLU", "c", "c", param)


NETS = {  # text, steps that are left of Input, Split and the rest
    "convolution": (conv("c", "x", "c") + RELU, 2),
    "leaky": (sloped(0.1), 2),
    "negative slope": (sloped(-0.5), 3),
    "batch norm": (layer("b", "BatchNorm", "x", "c") + RELU, 3),
    "scale": (layer("s", "Scale", "x", "c", "scale_param { bias_term: true }") + RELU, 2),
    "sum": (summed("SUM"), 4),
    "product": (summed("PROD"), 4),
    "maximum": (summed("MAX"), 4),
    "unstable product": (summed("PROD stable_prod_grad: false"), 5),
    "dense": (layer("i", "InnerProduct", "x", "c", DENSE % 1) + RELU, 2),
    "dense, last axis": (layer("i", "InnerProduct", "x", "c", DENSE % 3) + RELU, 2),
    "relu under scale": (conv("c", "x", "c") + RELU + layer("s", "Scale", "c", "c"), 4),
    "two readers": (conv("c", "x", "c") + RELU + conv("d", "c", "d") + conv("e", "c", "e"), 5),
}


def run(net: Net) -> list[torch.Tensor]:
    """Outputs, the gradient of the input, and all gradients of blobs."""
    shape, random = net.blob_shapes["x"], torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=random).requires_grad_()
    outputs = net({"x": x})
    torch.stack([(v * v).sum() + v.sum() for v in outputs.values()]).sum().backward()
    grads = [x.grad, *(p.grad for p in net.parameters())]
    return [*(v.detach() for v in outputs.values()), *(g for g in grads if g is not None)]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_fused_steps_have_the_same_bits(name: str, small: bool) -> None:
    text, left = NETS[name]
    text = FOUR + text
    if small:
        text = text.replace("dim: 9 dim: 8", "dim: 1 dim: 1").replace(
            "kernel_size: 3 pad: 1", "kernel_size: 1"
        )
    apart, joined = (load_net(text, phase="TRAIN", seed=1) for _ in range(2))
    joined.fuse()
    assert len(joined._plan) == left
    first, second = run(apart), run(joined)
    assert len(first) == len(second) > 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
