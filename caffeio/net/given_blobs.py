"""Blobs whose values the net's text gives: `layer { blobs { shape { dim: 2 } data: 1 data: 2 } }`.

Caffe copies them when it makes the layer, which then fills nothing: no random number is drawn. They
keep the shape that they are given in, the four-dimensional one of old files included.
Sources: include/caffe/layer.hpp (Layer), src/caffe/blob.cpp (FromProto), LayerSetUp of the layers.
"""

from __future__ import annotations

from math import prod

import numpy as np

from caffeio.layers.base import BlobSpec, Shape
from caffeio.net.graph import LayerNode
from caffeio.ops.module import Layer
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape


def take_given_blobs(node: LayerNode, layer: Layer, *, is_text: bool) -> None:
    """Let the layer begin with the blobs of the net's message.

    Those of a binary net tell only shapes, for its values are elsewhere: they are passed over.
    Raises LayerError where their number, shape or values are not those of the layer's blobs.
    """
    given = list(node.param.blobs)
    if not given or not layer.takes_blobs:
        return
    bare = not any(len(b.data) or len(b.double_data) for b in given)
    if bare and (layer.count_tells or not is_text):
        return
    if node.type == "Scale" and len(given) == 1 and len(layer.blob_specs) == 2:
        given *= 2  # the layer inside that adds the bias is made with the same text
    layer.check(
        len(given) == len(layer.blob_specs),
        f"has {len(layer.blob_specs)} blobs, and {len(given)} are given",
        field="blobs",
    )
    for i, (proto, spec) in enumerate(zip(given, layer.blob_specs, strict=True)):
        _take(proto, spec, i, layer)


def _take(proto: pb.BlobProto, spec: BlobSpec, index: int, layer: Layer) -> None:
    shape = _shape_of(proto)
    values = proto.double_data if len(proto.double_data) else proto.data
    layer.check(
        all(size >= 0 for size in shape) and prod(shape) == len(values),
        f"blob {index} of shape {caffe_shape(shape)} is given {len(values)} values",
        field="blobs",
    )
    same = shape == spec.shape if layer.insists_on_shape else len(values) == prod(spec.shape)
    layer.check(
        same,
        f"blob {index} must be of shape {caffe_shape(spec.shape)}, not {caffe_shape(shape)}",
        field="blobs",
    )
    spec.filler, spec.default = None, 0.0
    spec.initial = np.array(values, np.float32).reshape(spec.shape)
    if shape != spec.shape:
        spec.kept_shape = shape


def _shape_of(proto: pb.BlobProto) -> Shape:
    legacy = ("num", "channels", "height", "width")
    if any(proto.HasField(name) for name in legacy):
        return tuple(int(getattr(proto, name)) for name in legacy)
    return tuple(int(size) for size in proto.shape.dim)
