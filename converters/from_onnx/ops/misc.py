"""Cast, and what has no family."""

from __future__ import annotations

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Node
from caffeio.converters.from_onnx.ops.logic import COMPARISONS
from caffeio.converters.from_onnx.patterns.told import KIND
from caffeio.converters.from_onnx.table import operator


@operator(KIND)
def told_layer(w: Writer, node: Node) -> list[str]:
    """A layer that the model's metadata tell: as it was."""
    param = node.attrs["layer"]
    messages = {f.name: v for f, v in param.ListFields() if f.name.endswith("_param")}
    shapes = [w.graph.shapes[name] for name in node.outputs]
    bottoms = [w.blob(name) for name in node.inputs]
    tops: list[str] = w.layer(param.type, bottoms, shapes, blobs=node.attrs["blobs"], **messages)
    return tops


@operator("MaxRoiPool")
def max_roi_pool(w: Writer, node: Node) -> str:
    """ROIPooling of forks: ONNX took the operator from there."""
    rows, columns = node.attrs["pooled_shape"]
    fields = {
        "pooled_h": rows, "pooled_w": columns,
        "spatial_scale": float(node.attrs.get("spatial_scale", 1.0)),
    }  # fmt: skip
    out = node.outputs[0]
    shape, batch = w.graph.shapes[out], w.graph.batch_axis(out)
    blobs = [w.blob(name) for name in node.inputs]
    return str(w.layer("ROIPooling", blobs, shape, batch=batch, roi_pooling_param=fields))


_INTEGERS = (2, 3, 4, 5, 6, 7, 12, 13)
_LOOKS_UP = ("Gather",)


@operator("Cast")
def cast(w: Writer, node: Node) -> str:
    """Caffe's numbers are floats: only what looks rows up truncates them."""
    x = w.blob(node.inputs[0])
    readers = [n for n in w.graph.nodes if node.outputs[0] in n.inputs]
    indices = all(n.op in _LOOKS_UP and n.inputs[1] == node.outputs[0] for n in readers)
    if node.attrs["to"] in _INTEGERS and readers and indices:
        return x
    maker = w.graph.makers().get(node.inputs[0])
    if (
        maker is not None
        and maker.op in (*COMPARISONS, "Cast")
        and node.attrs["to"] in (1, 9, *_INTEGERS)
    ):
        return x
    raise Refused(f"it makes numbers of type {node.attrs['to']}; Caffe's are float32")
