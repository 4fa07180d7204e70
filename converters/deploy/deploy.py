"""A training net as a net for use: data layers become inputs, losses go.

What remains is what leads from the inputs to the predictions. A data layer's top is an input if
it reaches a layer with weights; what only labels reach (targets, metrics) is left out.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from caffeio.converters.deploy.hints import shape_hint
from caffeio.converters.report.model import listed
from caffeio.converters.splits import heal_splits
from caffeio.errors import LayerError, UnsupportedError
from caffeio.layers.base import SAME_AGAIN
from caffeio.layers.registry import find, is_data_type, is_loss_type, is_metric_type
from caffeio.net.shapes import infer
from caffeio.proto import caffe_pb2 as pb

_PHASE_ONLY = ("include", "exclude", "phase", "loss_weight", "propagate_down")
_SSD_NOTE = "DetectionOutput has the usual nms 0.45, top_k 400, keep_top_k 200, confidence 0.01"
Shape = Sequence[int]


def deploy(net: Any, input_shapes: Mapping[str, Shape] | None = None) -> list[str]:
    """Make a deploy net of a V2 net (blobs with shapes, Splits healed); return notes on it.

    `input_shapes` gives shapes by blob name where the file has none, or others. Raises
    UnsupportedError if a shape is not known.
    """
    shapes = dict(input_shapes or {})
    notes: list[str] = []
    layers = [layer for layer in net.layer if not is_metric_type(layer.type)]
    inputs = _inputs(layers)
    kept = _living(layers, inputs)
    notes += _constants(layers, inputs)
    out = [_input_layer(layers, name, shapes, kept) for name in inputs]
    losses = [layer for layer in kept if is_loss_type(layer.type)]
    for layer in kept:
        if is_loss_type(layer.type):
            ends = _ends(layer, last=layer is losses[-1])
            notes += [] if ends else [f"{layer.type} {layer.name!r} left out"]
            notes += [_SSD_NOTE] if layer.type == "MultiBoxLoss" and ends else []
            out += ends
        else:
            out.append(_bare(layer))
    if unused := shapes.keys() - set(inputs) - _input_tops(out):
        names = ", ".join(sorted(unused))
        raise UnsupportedError(f"shapes are given for {names}, which are no inputs of the net")
    for layer in out:
        _override(layer, shapes)
    del net.layer[:]
    net.layer.extend(out)
    for name in ("state", "debug_info", "force_backward"):
        net.ClearField(name)
    return notes


def from_snapshot(net: Any) -> list[str]:
    """Make the layers of a snapshot those of a net of any phase; return notes.

    A snapshot holds the layers of the net that was trained: their phases and rules go, and the
    Splits that Caffe put in. `use_global_stats: false` of a BatchNorm is how training ran: in TEST
    the statistics count that the snapshot was made to keep.
    """
    heal_splits(net)
    told = []
    for layer in net.layer:
        for name in ("phase", "include", "exclude"):
            layer.ClearField(name)
        p = layer.batch_norm_param
        if layer.type == "BatchNorm" and p.HasField("use_global_stats"):
            told += [] if p.use_global_stats else [layer.name]
            p.ClearField("use_global_stats")
            if not p.ListFields():
                layer.ClearField("batch_norm_param")
    note = (
        f"use_global_stats: false of {listed(told)} is how the snapshot's net was trained: the "
        "stored statistics are used"
    )
    return [note] if told else []


def _inputs(layers: Sequence[Any]) -> list[str]:
    """The tops of data layers that reach weights; without any weights, their first tops."""
    tops = [top for layer in layers if is_data_type(layer.type) for top in layer.top]
    weighted = [top for top in dict.fromkeys(tops) if _reaches_weights(layers, top)]
    firsts = [layer.top[0] for layer in layers if is_data_type(layer.type) and layer.top]
    return weighted or list(dict.fromkeys(firsts))


def _constants(layers: Sequence[Any], inputs: Sequence[str]) -> list[str]:
    """Notes on inputs that are constants in Caffe, where the net has another input as well."""
    if len({*inputs, *_input_tops(layers)}) < 2:
        return []  # the net's picture
    notes = []
    for layer in layers:
        if layer.type != "DummyData":
            continue
        fillers = list(layer.dummy_data_param.data_filler) or [pb.FillerParameter()]
        for i, top in enumerate(layer.top):
            filler = fillers[min(i, len(fillers) - 1)]
            if top in inputs and filler.type == "constant":
                notes.append(
                    f"{top!r} is an input now: give it {filler.value:g} everywhere, as DummyData "
                    f"{layer.name!r} does"
                )
    return notes


def _reaches_weights(layers: Sequence[Any], source: str) -> bool:
    reached = {source}
    for layer in layers:
        if reached & set(layer.bottom):
            if layer.blobs:
                return True
            reached |= set(layer.top)
    return False


def _living(layers: Sequence[Any], inputs: Sequence[str]) -> list[Any]:
    """The layers that an input, an Input layer or a layer without bottoms reaches."""
    alive = set(inputs)
    kept = []
    for layer in layers:
        if is_data_type(layer.type):
            continue
        if not layer.bottom or alive & set(layer.bottom):
            kept.append(layer)
            if not is_loss_type(layer.type):
                alive |= set(layer.top)
    return kept


def _input_layer(
    layers: Sequence[Any], name: str, shapes: Mapping[str, Shape], kept: Sequence[Any]
) -> Any:
    shape = shapes.get(name) or _shape_of(layers, name, kept)
    if shape is None:
        hint = shape_hint(name, kept, _channels(kept, name))
        message = f"the shape of input {name!r} is not in the file; {hint}"
        raise UnsupportedError(message)
    layer = pb.LayerParameter(name=name, type="Input", top=[name])
    layer.input_param.shape.add(dim=shape)
    return layer


def _shape_of(layers: Sequence[Any], name: str, kept: Sequence[Any]) -> Shape | None:
    """The shape (of one example) that a data layer gives to its top `name`; None if unknown.

    How many channels an image has, the weights tell; else the layer, if it does not just assume it.
    """
    layer = next(layer for layer in layers if is_data_type(layer.type) and name in layer.top)
    try:
        told = infer(layer.type, _with_old_sizes(layer), [])
    except LayerError:
        return None
    shape = told.tops[list(layer.top).index(name)]
    if shape is None:
        return None
    item = list(shape[1:])
    if len(item) == 3 and told.note:  # the records' own
        t = layer.transform_param
        assumed = "channels" in told.note or t.force_color or t.force_gray
        item[0] = _channels(kept, name) or (-1 if assumed and layer.type == "Data" else item[0])
    return (1, *item) if all(size > 0 for size in item) else None


def _with_old_sizes(layer: Any) -> Any:
    """The layer with the crop that old files give in data_param or window_data_param."""
    for message in ("data_param", "window_data_param"):
        crop = getattr(layer, message).crop_size
        if crop and not layer.transform_param.crop_size:
            copy = type(layer)()
            copy.CopyFrom(layer)
            copy.transform_param.crop_size = crop
            return copy
    return layer


def _channels(layers: Sequence[Any], name: str) -> int | None:
    """The channels that the first convolution behind a blob has weights for."""
    reached = {name}
    for layer in layers:
        if reached & set(layer.bottom):
            if layer.type == "Convolution" and layer.blobs:
                shape = layer.blobs[0].shape.dim
                per_group = shape[1] if len(shape) > 1 else layer.blobs[0].channels
                return int(per_group * layer.convolution_param.group)
            if layer.blobs and layer.type not in ("BatchNorm", "Scale", "Bias"):
                return None
            reached |= set(layer.top)
    return None


def _ends(loss: Any, *, last: bool) -> list[Any]:
    """What stands for a loss: Softmax or Sigmoid of its predictions, SSD's detections, or none."""
    if loss.type == "MultiBoxLoss" and len(loss.bottom) > 2:
        return _detections(loss)
    cls = find(loss.type)
    type_name = cls.predicts if cls is not None else ""
    if not type_name or not loss.bottom:
        return []
    name = "prob" if last else f"prob_{loss.name}"
    layer = pb.LayerParameter(name=name, type=type_name, bottom=loss.bottom[:1], top=[name])
    if type_name == "Softmax" and loss.HasField("softmax_param") and loss.softmax_param.axis != 1:
        layer.softmax_param.axis = loss.softmax_param.axis
    return [layer]


def _detections(loss: Any) -> list[Any]:
    """SSD's end of a deploy net: probabilities of the classes, then DetectionOutput."""
    p = loss.multibox_loss_param
    places, scores, priors = loss.bottom[:3]

    def after(type_name: str, suffix: str, bottom: str) -> Any:
        name = f"{scores}_{suffix}"
        return pb.LayerParameter(name=name, type=type_name, bottom=[bottom], top=[name])

    reshape = after("Reshape", "reshape", scores)
    reshape.reshape_param.shape.dim.extend((0, -1, p.num_classes))
    if p.conf_loss_type == p.LOGISTIC:
        chance = after("Sigmoid", "sigmoid", reshape.top[0])
    else:
        chance = after("Softmax", "softmax", reshape.top[0])
        chance.softmax_param.axis = 2
    flatten = after("Flatten", "flatten", chance.top[0])
    flatten.flatten_param.axis = 1
    found = pb.LayerParameter(name="detection_out", type="DetectionOutput", top=["detection_out"])
    found.bottom.extend((places, flatten.top[0], priors))
    q = found.detection_output_param
    q.num_classes, q.share_location = p.num_classes, p.share_location
    q.background_label_id, q.code_type = p.background_label_id, p.code_type
    q.variance_encoded_in_target = p.encode_variance_in_target
    q.nms_param.nms_threshold, q.nms_param.top_k = 0.45, 400
    q.keep_top_k, q.confidence_threshold = 200, 0.01
    return [reshape, chance, flatten, found]


def _bare(layer: Any) -> Any:
    """A layer without what only training needs: phases and rates; what it computes stays."""
    out = type(layer)()
    out.CopyFrom(layer)
    for name in _PHASE_ONLY:
        out.ClearField(name)
    if any(spec.name for spec in out.param):
        for spec in out.param:
            shared = spec.name
            spec.Clear()
            spec.name = shared
    else:
        out.ClearField("param")
    return out


def drop_fillers(net: Any, trained: Container[str] | None) -> None:
    """Remove the fillers of a deploy net that no run can need.

    `trained` names the layers whose weights are known; a filler of another layer is what it
    computes with, and stays. Without `trained` only random fillers go. BatchNorm keeps its
    fillers: in NVIDIA's Caffe they tell whether it has a scale and a shift.
    """
    for layer in net.layer:
        if layer.type == "BatchNorm" or (trained is not None and layer.name not in trained):
            continue
        for entry, value in layer.ListFields():
            if entry.message_type is None or entry.is_repeated:
                continue
            for inner, filler in value.ListFields():
                is_filler = inner.name == "filler" or inner.name.endswith("_filler")
                if is_filler and (trained is not None or filler.type not in SAME_AGAIN):
                    value.ClearField(inner.name)


def _input_tops(layers: Sequence[Any]) -> set[str]:
    return {top for layer in layers if layer.type == "Input" for top in layer.top}


def _override(layer: Any, shapes: Mapping[str, Shape]) -> None:
    """Give an Input layer of the file the shapes that are asked for."""
    if layer.type != "Input":
        return
    known = layer.input_param.shape
    for index, top in enumerate(layer.top):
        if top in shapes and known:
            if len(known) == 1 and len(layer.top) > 1:
                known.extend([known[0]] * (len(layer.top) - 1))
            del known[index].dim[:]
            known[index].dim.extend(shapes[top])
