"""What the weights tell of the shape of an input that a file does not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.proto import caffe_pb2 as pb

# sides of square inputs that nets are made for
SIDES = (
    12,
    16,
    24,
    28,
    32,
    36,
    40,
    48,
    60,
    64,
    80,
    96,
    100,
    112,
    128,
    144,
    160,
    192,
    200,
    224,
    227,
)
LARGE = (224, 227, 229, 231, 240, 256, 299, 300, 320, 331, 384, 416, 448, 480, 512, 608, 640)


def shape_hint(name: str, layers: Sequence[Any], channels: int | None) -> str:
    """How to give the shape of input `name`: what is known of it, and an example where all is.

    `layers` are those that the input reaches; they have the shapes of their blobs.
    """
    if channels is None:
        return f"give it as --input-shape {name}=N,C,H,W"
    known = f"its first convolution takes {channels} channel{'s' * (channels != 1)}"
    side = _side(name, layers, channels)
    if side is None:
        return f"{known}: give it as --input-shape {name}=1,{channels},HEIGHT,WIDTH"
    return (
        f"{known}, and {side} x {side} fits its first InnerProduct: give it as --input-shape "
        f"{name}=1,{channels},{side},{side}"
    )


def _side(name: str, layers: Sequence[Any], channels: int) -> int | None:
    """The smallest usual side of a square input at which the first InnerProduct fits."""
    net = pb.NetParameter()
    net.layer.add(name="input", type="Input", top=[name]).input_param.shape.add(dim=[1])
    wanted = None
    for layer in layers:
        net.layer.add().CopyFrom(layer)
        if layer.type == "InnerProduct" and layer.blobs:
            shape = list(layer.blobs[0].shape.dim)
            wanted = shape[0 if layer.inner_product_param.transpose else -1] if shape else None
            break
    if wanted is None:
        return None
    net.layer[-1].ClearField("blobs")
    try:
        graph = build_graph(net, phase="TEST")
    except CaffeIOError:
        return None
    for side in (*SIDES, *LARGE):
        found = infer_net(graph, {name: (1, channels, side, side)})
        blobs = found.layers[-1].blobs
        if not found.problems and blobs and blobs[0][-1] == wanted:
            return side
    return None
