"""A layer's parameters in a few words: `3x3 /2 pad 1 -> 64`."""

from __future__ import annotations

from google.protobuf.message import Message

from caffeio.converters.diff.messages import flatten
from caffeio.converters.report.model import short_float
from caffeio.layers.registry import find, is_loss_type
from caffeio.proto.caffe_pb2 import LayerParameter


def layer_summary(param: LayerParameter) -> str:
    """Say what the layer does: as its class says it, else the parameters that are set."""
    cls = find(param.type)
    words = cls.summary(param) if cls is not None else None
    words = _plain(param) if words is None else words
    weights = [short_float(w) for w in param.loss_weight] if is_loss_type(param.type) else []
    if not weights or weights == ["1"]:
        return words
    return ", ".join(filter(None, [f"weight {', '.join(weights)}", words]))


def _plain(param: LayerParameter) -> str:
    """All parameters that are set, less fillers."""
    out = []
    for field, value in param.ListFields():
        if not field.name.endswith("_param") or not isinstance(value, Message):
            continue
        for path, text in flatten(value).items():
            if "filler" not in path:
                out.append(f"{path} {text}")
    text = ", ".join(out)
    return text if len(text) <= 80 else text[:77] + "..."


def short_type(type_name: str) -> str:
    """`Conv+BN+Scale+ReLU` for Convolution+BatchNorm+Scale+ReLU: for narrow screens."""
    classes = {name: find(name) for name in type_name.split("+")}
    return "+".join(cls.short_type or name if cls else name for name, cls in classes.items())
