"""Nets of Caffe's first age: `layers { layer { type: "conv" ... } }` to the V1 form.

Source: src/caffe/util/upgrade_proto.cpp (UpgradeV0PaddingLayers, UpgradeV0LayerParameter).
"""

from __future__ import annotations

from typing import Any

from caffeio.errors import Locator, NetError
from caffeio.proto import caffe_pb2 as pb

V0_TYPES = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION",
    "data": "DATA", "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN", "hdf5_data": "HDF5_DATA", "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL", "images": "IMAGE_DATA", "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT", "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS", "pool": "POOLING", "relu": "RELU",
    "sigmoid": "SIGMOID", "softmax": "SOFTMAX", "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT", "tanh": "TANH", "window_data": "WINDOW_DATA",
}  # fmt: skip

_CONV, _IP = {"conv": "convolution_param"}, {"innerproduct": "inner_product_param"}
_POOL, _LRN = {"pool": "pooling_param"}, {"lrn": "lrn_param"}
_DATA, _IMAGES = {"data": "data_param"}, {"images": "image_data_param"}
_WINDOW, _HDF5 = {"window_data": "window_data_param"}, {"hdf5_data": "hdf5_data_param"}
_SOURCES = {**_DATA, **_HDF5, **_IMAGES, **_WINDOW}

# V0 field -> its V1 name, and the parameter message that takes it by V0 type ("": every type)
_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _CONV | _IP),
    "biasterm": ("bias_term", _CONV | _IP),
    "weight_filler": ("weight_filler", _CONV | _IP),
    "bias_filler": ("bias_filler", _CONV | _IP),
    "pad": ("pad", _CONV | _POOL),
    "kernelsize": ("kernel_size", _CONV | _POOL),
    "group": ("group", _CONV),
    "stride": ("stride", _CONV | _POOL),
    "pool": ("pool", _POOL),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", _LRN),
    "alpha": ("alpha", _LRN),
    "beta": ("beta", _LRN),
    "k": ("k", _LRN),
    "source": ("source", _SOURCES | {"infogain_loss": "infogain_loss_param"}),
    "scale": ("scale", {"": "transform_param"}),
    "meanfile": ("mean_file", {"": "transform_param"}),
    "batchsize": ("batch_size", _SOURCES),
    "cropsize": ("crop_size", {"": "transform_param"}),
    "mirror": ("mirror", {"": "transform_param"}),
    "rand_skip": ("rand_skip", _DATA | _IMAGES),
    "shuffle_images": ("shuffle", _IMAGES),
    "new_height": ("new_height", _IMAGES),
    "new_width": ("new_width", _IMAGES),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", _WINDOW),
    "det_bg_threshold": ("bg_threshold", _WINDOW),
    "det_fg_fraction": ("fg_fraction", _WINDOW),
    "det_context_pad": ("context_pad", _WINDOW),
    "det_crop_mode": ("crop_mode", _WINDOW),
    "hdf5_output_param": ("", {"hdf5_output": "hdf5_output_param"}),
}
_LISTS = ("blobs", "blobs_lr", "weight_decay")
_KEPT = ("name", "force_backward")  # of the net; with its inputs, all that survives


def upgrade_v0_net(
    net: pb.NetParameter, locate: Locator
) -> tuple[pb.NetParameter, list[int], list[str]]:
    """A V0 net in V1 form, each new layer's old index, and what could not be carried over.

    Raises NetError for a type that V0 does not have and for padding in front of what cannot pad.
    """
    padded, origin = remove_padding_layers(net, locate)
    out, problems = pb.NetParameter(), []
    for key in _KEPT:
        if net.HasField(key):
            setattr(out, key, getattr(net, key))
    out.input.extend(net.input)
    out.input_dim.extend(net.input_dim)
    for layer, old in zip(padded.layers, origin, strict=True):
        problems += _upgrade_layer(layer, out.layers.add(), locate("layers", old))
    return out, origin, problems


def remove_padding_layers(
    net: pb.NetParameter, locate: Locator
) -> tuple[pb.NetParameter, list[int]]:
    """The net with its "padding" layers folded into their consumers, and old layer indices.

    The consumers get `pad` and the padding layer's bottom; the layers themselves go.
    """
    out = pb.NetParameter()
    out.CopyFrom(net)
    del out.layers[:]
    origin: list[int] = []
    last_top = dict.fromkeys(net.input, -1)
    for i, layer in enumerate(net.layers):
        if layer.layer.type != "padding":
            out.layers.append(layer)
            origin.append(i)
        for j, blob in enumerate(layer.bottom):
            if blob not in last_top:
                raise NetError(
                    f"layer {layer.layer.name!r}: unknown bottom {blob!r}",
                    where=locate("layers", i),
                )
            source = net.layers[last_top[blob]] if last_top[blob] >= 0 else None
            if source is not None and source.layer.type == "padding":
                _check_padding(layer, source, locate("layers", i))
                out.layers[-1].layer.pad = source.layer.pad
                out.layers[-1].bottom[j] = source.bottom[0]
        last_top.update(dict.fromkeys(layer.top, i))
    return out, origin


def _check_padding(layer: Any, source: Any, where: str) -> None:
    name, type_ = layer.layer.name, layer.layer.type
    if type_ not in ("conv", "pool"):
        raise NetError(
            f"layer {name!r}: a {type_} layer cannot follow a padding layer", where=where
        )
    if len(layer.bottom) != 1 or len(source.bottom) != 1 or len(source.top) != 1:
        raise NetError(
            f"layer {name!r}: it and the padding layer {source.layer.name!r} in front of it need "
            "one bottom each, and the padding layer one top",
            where=where,
        )


def _upgrade_layer(old: Any, new: Any, where: str) -> list[str]:
    """Fill a V1 layer from a connection with a V0 layer in it; returns the problems."""
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if not old.HasField("layer"):
        return []
    v0, problems = old.layer, []
    if v0.HasField("name"):
        new.name = v0.name
    if v0.HasField("type"):
        if v0.type not in V0_TYPES:
            raise NetError(f"layer {v0.name!r}: unknown V0 layer type {v0.type!r}", where=where)
        new.type = pb.V1LayerParameter.LayerType.Value(V0_TYPES[v0.type])
    for key in _LISTS:
        getattr(new, key).extend(getattr(v0, key))
    for descriptor, value in v0.ListFields():
        if descriptor.name not in _FIELDS:
            continue
        name, takers = _FIELDS[descriptor.name]
        taker = takers.get(v0.type) or takers.get("")
        if taker is None:
            shown = "shuffle" if descriptor.name == "shuffle_images" else descriptor.name
            problems.append(f"Unknown parameter {shown} for layer type {v0.type}")
        else:
            _put(getattr(new, taker), name, descriptor, value)
    return problems


def _put(message: Any, name: str, descriptor: Any, value: Any) -> None:
    if not name:
        message.CopyFrom(value)
        return
    target = message.DESCRIPTOR.fields_by_name[name]
    if target.enum_type is not None:
        label = descriptor.enum_type.values_by_number[value].name
        value = target.enum_type.values_by_name[label].number
    if target.is_repeated:
        getattr(message, name).append(value)
    elif target.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)
