"""A caffemodel or solverstate of one Caffe for another.

    result = translate("fork.caffemodel", "plain.caffemodel", "bvlc")
    result.lost    # what BVLC's Caffe cannot express

Fields get the other dialect's numbers and enum values; weights go from file to file as they are,
except where the two Caffes store them differently (BatchNorm, NVIDIA's raw numbers). If nothing
has to change, the file is copied byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffeio.converters.netstate import (
    NetState,
    StateLayer,
    blob_for,
    history_order,
    located,
    modern_shape,
    read_state,
)
from caffeio.converters.rewrites.apply import rewrite_layers
from caffeio.converters.translate import adapt, batchnorm
from caffeio.converters.translate.modern import modernise, says_all
from caffeio.errors import CaffeIOError, UnsupportedError, WeightsError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.dialect import Detection, Lost, Unknown, check_name, detect
from caffeio.proto.dialect.schema import Schema
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import Array
from caffeio.proto.io.mapped import is_hdf5, map_file
from caffeio.proto.io.stream import Blob, write_parts
from caffeio.proto.io.wire import Buffer
from caffeio.proto.upgrade.upgrade import V1_TYPES
from caffeio.proto.weights.solverstate import read_solverstate, write_solverstate
from caffeio.proto.weights.write import write_caffemodel


@dataclass
class Translation:
    """What a translation came to.

    `done` says in a line each what was changed beside numbers and names, `lost` lists what the
    target cannot express. `history` gives, for each parameter blob of the new net in Caffe's
    order, the place of its old one, for `remap_history`. `copied` is true if the file was copied
    as it is.
    """

    source: str
    target: str
    detection: Detection | None = None
    done: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    copied: bool = False
    unsaid: list[str] = field(default_factory=list)  # layers that no form was found for, and why


def translate(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to_dialect: str,
    from_dialect: str | None = None,
    *,
    merge_batch_norm: bool = False,
    float32: bool = False,
    modern_shapes: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Translation:
    """Write the caffemodel `src` as `dst` in another dialect; weights are streamed.

    Layers that the other Caffe lacks are said by layers that it has, where that is exact
    (`converters.rewrites`); `input_shapes` gives shapes that some forms need and the file lacks.

    `merge_batch_norm` puts Scale layers into their BatchNorm, as Intel's MKL engines and NVIDIA's
    scale_bias have them. `float32` makes floats of double_data, `modern_shapes` gives legacy blobs
    of four dimensions the shape that today's Caffe expects.
    Raises DialectError if the source's dialect is not clear, ParseError or WeightsError for a
    broken file, UnsupportedError for HDF5, which holds no net.
    """
    check_name(to_dialect)
    data = map_file(src, WeightsError, "a caffemodel")
    if is_hdf5(data):
        raise UnsupportedError("an HDF5 file holds weights without a net", where=str(src))
    result = Translation(from_dialect or "", to_dialect)
    try:
        if from_dialect is None:
            result.detection = detect(data)
            result.source = result.detection.dialect
        if result.source == to_dialect and not (merge_batch_norm or float32 or modern_shapes):
            _copy(data, dst)
            result.copied = True
            return result
        state = read_state(data, result.source)
        before = history_order(state)
        adapt_state(state, result, merge_batch_norm, input_shapes)
        blobs = _blobs(state, result, float32, modern_shapes)
    except CaffeIOError as error:
        raise located(error, src) from None
    places = {origin: place for place, origin in enumerate(before)}
    result.history = [places[origin] for origin in history_order(state)]
    _write_state(state, dst, blobs, result)
    return result


def _copy(data: Buffer, dst: str | os.PathLike[str]) -> None:
    with atomic_write(dst, needed=len(data)) as file:
        write_parts(file, [memoryview(data)])


def adapt_state(
    state: NetState,
    result: Translation,
    merge: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Change what the two Caffes have otherwise.

    V1 nets are older than most such differences: they become today's only if they must.
    """
    source, target = schema.load(result.source), schema.load(result.target)
    if state.field == "layers":
        if says_all(state, target):
            return
        result.lost += modernise(state, result.source)
        result.done.append("the net is written with today's `layer` entries")
    mine, theirs = batchnorm.merged_form(source), batchnorm.merged_form(target)
    done = result.done
    if mine != theirs:
        done += batchnorm.split_merged(state)
    if theirs == "nvidia" and mine != "nvidia":
        done += batchnorm.divide_by_factor(state)
    if mine == "nvidia" and theirs != "nvidia":
        done += batchnorm.keep_nvidia_eps(state)
    done += adapt.unfuse(state, target)
    if merge and theirs is None:
        raise UnsupportedError(f"{result.target} keeps no scale and shift in BatchNorm layers")
    if merge and theirs is not None:
        done += batchnorm.merge_scales(state, theirs)
    said, result.unsaid = rewrite_layers(state, target, input_shapes)
    done += said
    done += adapt.respell(state, target)
    done += adapt.write_out_defaults(state, source, target)


def _blobs(
    state: NetState, result: Translation, float32: bool, modern_shapes: bool
) -> list[list[Blob]]:
    """The blobs of each layer in the form that the target has."""
    source, target = schema.load(result.source), schema.load(result.target)
    known = {name: entry.number for name, entry in source.messages["BlobProto"].items()}
    wanted = {name: entry.number for name, entry in target.messages["BlobProto"].items()}
    out: list[list[Blob]] = []
    for layer in state.layers:
        shapes = [_shape(layer, k) if modern_shapes else None for k in range(len(layer.blobs))]
        out.append(
            [
                blob_for(blob, known, wanted, floats=float32, shape=shape)
                for blob, shape in zip(layer.blobs, shapes, strict=True)
            ]
        )
    return out


def _write_state(
    state: NetState, dst: str | os.PathLike[str], blobs: list[list[Blob]], result: Translation
) -> None:
    message = state.message()
    lost: list[Lost] = []
    source, target = schema.load(result.source), schema.load(result.target)
    keep = _unknown_to_keep(state, result, target)
    write_caffemodel(dst, message, blobs, dialect=result.target, unknown=keep, lost=lost)
    matters, notes = adapt.sort_lost(lost, message)
    result.lost += matters
    result.done += notes
    result.lost += lost_types(state, source, target)


def lost_types(state: NetState, source: Schema, target: Schema) -> list[Lost]:
    """The layers whose type the target does not have."""
    return [
        Lost(
            (state.field, index, "type"), layer.param.type, f"{target.name} has no such layer type"
        )
        for index, layer in enumerate(state.layers)
        if isinstance(layer.param.type, str)
        and layer.param.type in source.layer_types - target.layer_types
    ]


def _shape(layer: StateLayer, index: int) -> tuple[int, ...] | None:
    info = layer.blobs[index].info
    if info is None or not info.legacy:
        return None
    type_name = layer.param.type
    if isinstance(layer.param, pb.V1LayerParameter):
        type_name = V1_TYPES.get(pb.V1LayerParameter.LayerType.Name(type_name), "")
    return modern_shape(type_name, index, info.shape)


def _unknown_to_keep(state: NetState, result: Translation, target: Schema) -> list[Unknown]:
    """Unknown fields whose number the target leaves free; others would mean something else."""
    keep = []
    for item in state.all_unknown():
        numbers = {entry.number for entry in target.messages.get(item.message, {}).values()}
        if result.source == result.target or item.number not in numbers:
            keep.append(item)
        else:
            why = f"unknown to {result.source}, and the number means something else"
            result.lost.append(Lost(item.path, f"field {item.number}", why))
    return keep


# --- solver states


def translate_state(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to_dialect: str,
    history: Sequence[int] | None = None,
) -> Translation:
    """Write the solverstate `src` as `dst` for another Caffe.

    `history` is that of the translation of its caffemodel, if layers were split or merged. The
    two fields that Intel's, NVIDIA's and SSD's Caffe add are left out for those without them.
    """
    check_name(to_dialect)
    state = read_solverstate(src)
    extras = "minimum_loss" in schema.load(to_dialect).messages["SolverState"]
    had = state.minimum_loss is not None or state.iter_last_event is not None
    result = Translation("", to_dialect)
    same = history is None or list(history) == sorted(history)
    if same and (extras or not had):
        _copy(map_file(src, WeightsError, "a solverstate"), dst)
        result.copied = True
        return result
    if history is not None:
        state.history = remap_history(state.history, history)
    if had and not extras:
        result.done.append("dropped minimum_loss and iter_last_event: only plateau reads them")
    write_solverstate(Path(dst), state, profile_extras=extras and had)
    return result


def remap_history(history: Sequence[Array], order: Sequence[int]) -> list[Array]:
    """A solver's history in the order of another net's parameters.

    `history` has one tensor for each parameter, or a whole number of times as many (AdaDelta and
    Adam); `order[i]` is the old place of the new parameter i. Raises WeightsError if the lengths
    do not fit.
    """
    count = len(order)
    if not count or len(history) % count:
        raise WeightsError(
            f"{len(history)} history tensors do not belong to a net of {count} parameter blobs"
        )
    return [history[begin + i] for begin in range(0, len(history), count) for i in order]
