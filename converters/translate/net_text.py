"""A net of a prototxt, with or without weights, for another Caffe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffeio.converters.netstate import NetState, StateBlob, StateLayer
from caffeio.converters.translate.adapt import sort_lost
from caffeio.converters.translate.translate import Translation, adapt_state, lost_types
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.dialect import Lost, check_name, encode
from caffeio.proto.io.blobs import Array

Shapes = Mapping[str, Sequence[int]]


@dataclass
class Translated:
    """A net in another Caffe's words: canonical message, a list of blobs for each layer.

    `done` says what was changed, `matters` what the target cannot say and what changes numbers.
    """

    message: pb.NetParameter
    blobs: list[list[Array]]
    done: list[str] = field(default_factory=list)
    matters: list[str] = field(default_factory=list)

    def arrays(self) -> dict[str, list[Array]]:
        """The blobs by layer name; of layers with the same name the first."""
        out: dict[str, list[Array]] = {}
        for layer, blobs in zip(self.message.layer, self.blobs, strict=True):
            if blobs:
                out.setdefault(layer.name, blobs)
        return out


def translate_net(
    net: pb.NetParameter,
    blobs: Sequence[Sequence[Array]],
    source: str,
    target: str,
    input_shapes: Shapes | None = None,
) -> Translated:
    """Say a V2 net, with the blobs of each layer (or none), in dialect `target`.

    Raises DialectError for an unknown dialect, UnsupportedError as `translate` does.
    """
    check_name(target)
    rest = pb.NetParameter()
    rest.CopyFrom(net)
    rest.ClearField("layer")
    layers = []
    for index, (param, arrays) in enumerate(zip(net.layer, blobs, strict=True)):
        copy = pb.LayerParameter()
        copy.CopyFrom(param)
        copy.ClearField("blobs")
        places = [(index, k) for k in range(len(arrays))]
        own = [StateBlob(array=array) for array in arrays]
        layers.append(StateLayer(copy, own, source=index, origin=places))
    state = NetState(rest, layers, "layer", [])
    result = Translation(source, target)
    adapt_state(state, result, input_shapes=input_shapes)
    message = state.message()
    if "Input" not in schema.load(target).layer_types:
        _input_fields(state, schema.load(target), result.done)
        message = state.message()
    lost: list[Lost] = []
    encode(message, target, lost=lost)
    matters, notes = sort_lost(lost, message)
    matters += lost_types(state, schema.load(source), schema.load(target))
    arrays_of = [[blob.array() for blob in layer.blobs] for layer in state.layers]
    return Translated(
        message, arrays_of, [*result.done, *notes], [*result.unsaid, *map(str, matters)]
    )


def _input_fields(state: NetState, target: schema.Schema, done: list[str]) -> None:
    """Make `input` fields of Input layers, for a Caffe that is older than those."""
    for layer in [layer for layer in state.layers if layer.param.type == "Input"]:
        shapes = [list(shape.dim) for shape in layer.param.input_param.shape]
        tops = list(layer.param.top)
        if len(shapes) == 1:
            shapes *= len(tops)
        plain = "input_shape" not in target.messages["NetParameter"]
        if len(shapes) != len(tops) or (plain and any(len(shape) > 4 for shape in shapes)):
            continue
        state.layers.remove(layer)
        state.net.input.extend(tops)
        for shape in shapes:
            if plain:
                state.net.input_dim.extend(shape + [1] * (4 - len(shape)))
            else:
                state.net.input_shape.add(dim=shape)
        done.append(f"Input layer {layer.param.name!r} as input fields")
