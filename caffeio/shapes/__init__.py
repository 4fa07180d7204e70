"""Shapes, parameter counts and MACs of nets without running them, and without torch.

`infer(type, param, bottom_shapes, profile)` answers for one layer, `infer_net(graph)` for a net.
"""

from caffeio.shapes import detection, loss, resample, reshape, same, window  # noqa: F401  (register rules)
from caffeio.shapes.base import (
    RULES,
    UNKNOWN,
    LayerShapes,
    Shape,
    format_shape,
    infer,
    is_known,
    product,
)
from caffeio.shapes.net import NetShapes, infer_net
from caffeio.shapes.sources import DATA_LAYERS, SOURCES, first_datum, image_shape, item_shape

__all__ = [
    "DATA_LAYERS",
    "RULES",
    "SOURCES",
    "UNKNOWN",
    "LayerShapes",
    "NetShapes",
    "Shape",
    "first_datum",
    "format_shape",
    "image_shape",
    "infer",
    "infer_net",
    "is_known",
    "item_shape",
    "product",
]
