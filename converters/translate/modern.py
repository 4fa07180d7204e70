"""Old nets (`layers`) in today's form, where another Caffe cannot say them as they are."""

from __future__ import annotations

from caffeio.converters.netstate import NetState, StateLayer
from caffeio.converters.translate.adapt import sort_lost
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import Lost, encode
from caffeio.proto.dialect.schema import Schema
from caffeio.proto.upgrade.upgrade import upgrade_net

_INPUTS = ("input", "input_shape", "input_dim")


def says_all(state: NetState, target: Schema) -> bool:
    """Whether a dialect can say all of a net that changes numbers, as it is written."""
    if any(layer.param.HasField("layer") for layer in state.layers):
        return False  # V0
    lost: list[Lost] = []
    message = state.message()
    encode(message, target.name, lost=lost)
    return not sort_lost(lost, message)[0]


def modernise(state: NetState, source: str) -> list[Lost]:
    """Make `layer` entries of a net's V0 or V1 `layers`, as Caffe does on load.

    Blobs keep their places. Returns the unknown fields: their numbers mean something else now.
    """
    message = state.message()
    inputs = pb.NetParameter()  # these stay fields, which every Caffe reads
    for name in _INPUTS:
        getattr(inputs, name).extend(getattr(message, name))
    upgraded = upgrade_net(message, dialect=source, batch_norm=False)
    unknown = [item for item in state.all_unknown() if item.path[:1] == ("layers",)]
    olds = state.layers
    state.layers = []
    for param, place in zip(upgraded.message.layer, upgraded.origin, strict=True):
        if place is None:  # the Input layer
            continue
        old, new = olds[place], pb.LayerParameter()
        new.CopyFrom(param)
        state.layers.append(StateLayer(new, old.blobs, source=old.source, origin=old.origin))
    rest = upgraded.message
    rest.ClearField("layer")
    for name in _INPUTS:
        rest.ClearField(name)
    rest.MergeFrom(inputs)
    state.net, state.field = rest, "layer"
    why = f"unknown to {source}, and today's layers have other numbers"
    return [Lost(item.path, f"field {item.number}", why) for item in unknown]
