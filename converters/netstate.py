"""A caffemodel taken apart for changes: canonical layers, each with its blobs where they lie.

Nothing is read before it is needed: a blob that nobody changes goes from file to file as bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.layers.registry import find
from caffeio.proto.dialect.dialect import Decoded, Lost, Unknown, decode
from caffeio.proto.io.blobs import DOUBLE, FLOAT, Array, BlobInfo, scan_blob, view
from caffeio.proto.io.stream import Numbers, Part, blob_parts
from caffeio.proto.io.wire import Buffer, bytes_header, varint_field


class StateBlob:
    """One blob of a layer: a BlobProto in a file, or an array of ours."""

    def __init__(
        self,
        buf: Buffer = b"",
        span: tuple[int, int] | None = None,
        names: frozenset[str] = frozenset(),
        array: Array | None = None,
    ) -> None:
        """Either `span` in `buf` and the names of the fields that are there, or `array`."""
        self.buf, self.span, self.names, self._array = buf, span, names, array

    @property
    def info(self) -> BlobInfo | None:
        """What the file says of the blob; None for an array of ours."""
        return scan_blob(self.buf, *self.span) if self.span else None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, four axes for a legacy blob."""
        return info.shape if (info := self.info) else _given(self._array).shape

    def array(self) -> Array:
        """The values, a view of the file if they lie there."""
        info = self.info
        return view(self.buf, info.shape, info.data) if info else _given(self._array)

    def diff(self) -> Array | None:
        """The gradients, if the file has them."""
        info = self.info
        return view(self.buf, info.shape, info.diff) if info and info.diff.count else None

    def raw(self) -> memoryview | None:
        """The whole BlobProto as it lies in the file."""
        return memoryview(self.buf)[slice(*self.span)] if self.span else None


def _given(array: Array | None) -> Array:
    assert array is not None
    return array


@dataclass
class StateLayer:
    """A layer without blobs in its message, its blobs, and what its dialect did not know.

    `source` is its place in the file, None for a layer that was added; the paths of `unknown`
    begin within the layer.
    """

    param: Any
    blobs: list[StateBlob] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    source: int | None = None
    origin: list[tuple[int, int]] = field(default_factory=list)  # of each blob: layer, blob


@dataclass
class NetState:
    """A net: the message without layers, the layers, and the name of the field they are in."""

    net: Any
    layers: list[StateLayer]
    field: str
    unknown: list[Unknown]

    def message(self) -> Any:
        """The whole net, without blobs."""
        net = type(self.net)()
        net.CopyFrom(self.net)
        getattr(net, self.field).extend(layer.param for layer in self.layers)
        return net

    def all_unknown(self) -> list[Unknown]:
        """The unknown fields, with the paths that they have now."""
        out = list(self.unknown)
        for index, layer in enumerate(self.layers):
            head = (self.field, index)
            out += [item._replace(path=(*head, *item.path)) for item in layer.unknown]
        return out


def read_state(data: Buffer, dialect: str) -> NetState:
    """Take the net in `data` apart. Raises ParseError for broken bytes."""
    return state_of(data, decode(data, "NetParameter", dialect))


def state_of(data: Buffer, decoded: Decoded) -> NetState:
    """Take apart a net that has been decoded from `data`."""
    net = decoded.message
    name = "layers" if net.layers else "layer"
    if net.layers and net.layer:
        raise UnsupportedError("the net has both `layer` and `layers`, which no Caffe reads")
    if any(path[:1] != (name,) or not _of_layer(path) for path in decoded.blobs):
        raise UnsupportedError("the net has nets with weights inside its layers")
    layers = []
    for index, message in enumerate(getattr(net, name)):
        param = type(message)()
        param.CopyFrom(message)
        layer = StateLayer(param, source=index)
        v0 = name == "layers" and bool(param.layer.blobs)
        for k, blob in enumerate(message.layer.blobs if v0 else message.blobs):
            path = (name, index, *(("layer",) if v0 else ()), "blobs", k)
            names = {entry.name for entry, _ in blob.ListFields()}
            names |= {place.name for place in decoded.payload.get(path, ())}
            layer.blobs.append(StateBlob(data, decoded.blobs[path], frozenset(names)))
            layer.origin.append((index, k))
        (param.layer if v0 else param).ClearField("blobs")
        layers.append(layer)
    rest = []
    for item in decoded.unknown:
        if item.path[:1] != (name,):
            rest.append(item)
        elif not _of_layer(item.path):  # what is in a blob goes with its bytes
            layers[int(item.path[1])].unknown.append(item._replace(path=item.path[2:]))
    net.ClearField(name)
    return NetState(net, layers, name, rest)


def _of_layer(path: Sequence[str | int]) -> bool:
    """Whether a path leads to a blob of a layer, or of the V0 layer within it."""
    return path[2:3] == ("blobs",) or path[2:4] == ("layer", "blobs")


def located(error: CaffeIOError, path: str | os.PathLike[str]) -> CaffeIOError:
    """The same error with the file's name in front of its place."""
    where = f"{path}, {error.where}" if error.where else str(path)
    return type(error)(error.message, where=where)


def history_order(state: NetState) -> list[tuple[int, int]]:
    """For each history tensor of a solver, the (layer, blob) of the file that it belonged to.

    The order is Caffe's: the blobs of all layers in the net's order, without those that share the
    memory of an earlier one by the name of their ParamSpec.
    """
    return [layer.origin[k] for layer, k in _owners(state) if k < len(layer.origin)]


def _owners(state: NetState) -> Iterable[tuple[StateLayer, int]]:
    seen: set[str] = set()
    for layer in state.layers:
        specs = getattr(layer.param, "param", ())
        for k in range(len(layer.blobs)):
            name = specs[k] if k < len(specs) else ""
            shared = name if isinstance(name, str) else name.name
            if shared and shared in seen:
                continue
            seen.add(shared)
            yield layer, k


# --- blobs in the form that another dialect has


def blob_for(
    blob: StateBlob,
    source_numbers: Mapping[str, int],
    target_numbers: Mapping[str, int],
    *,
    floats: bool = False,
    shape: tuple[int, ...] | None = None,
) -> Array | memoryview | bytes:
    """The blob as an array or as the bytes of a BlobProto, for a dialect's BlobProto fields.

    `source_numbers` and `target_numbers` are those of BlobProto's fields in the file's dialect
    and in the target's; if they agree the bytes stay as they are. Raw and packed numbers become
    floats; `floats` makes floats of doubles too. `shape` replaces a legacy shape.
    """
    raw = blob.raw()
    if raw is not None and shape is None:
        same = all(source_numbers[name] == target_numbers.get(name) for name in blob.names)
        doubles = floats and bool(blob.names & {"double_data", "double_diff"})
        if same and not doubles:
            return raw
    array, info = blob.array(), blob.info
    keep = array.dtype == np.float64 and not floats and "double_data" in target_numbers
    if array.dtype == np.float64 and not keep:
        array = array.astype(np.float32)  # other types become floats while they are written
    array = array.reshape(shape) if shape is not None else array
    diff = blob.diff()
    if diff is None and not (info and info.legacy and shape is None):
        return array
    diff = None if diff is None else diff.astype(array.dtype, copy=False).reshape(array.shape)
    if info and info.legacy and shape is None:
        return _joined(_legacy_parts(array, diff))
    return _joined(blob_parts(array, diff))


def _legacy_parts(array: Array, diff: Array | None) -> list[Part]:
    """A BlobProto of four dimensions, fields 1 to 4, as Caffe wrote it until 2014."""
    head: list[Part] = [varint_field(1 + axis, n) for axis, n in enumerate(array.shape)]
    doubles = array.dtype == np.float64
    dtype = DOUBLE if doubles else FLOAT
    body: list[Part] = []
    for number, values in ((8 if doubles else 5, array), (9 if doubles else 6, diff)):
        if values is not None:
            numbers = Numbers(values, dtype)
            body += [bytes_header(number, numbers.nbytes), numbers]
    return [*head, *body]


def _joined(parts: Iterable[Part]) -> bytes:
    return b"".join(
        np.ascontiguousarray(p.array, p.dtype).tobytes() if isinstance(p, Numbers) else bytes(p)
        for p in parts
    )


def modern_shape(layer_type: str, index: int, legacy: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that today's Caffe gives blob `index` of a layer, from the old four dimensions.

    None if the layer type or the dimensions do not tell. Source: each layer's LayerSetUp.
    """
    cls = find(layer_type)
    axes = cls.blob_axes[index] if cls is not None and index < len(cls.blob_axes) else None
    if axes is None or any(n != 1 for n in legacy[: 4 - axes]):
        ones = [n for n in legacy if n != 1]
        return (math.prod(legacy),) if axes == 1 and len(ones) <= 1 else None
    return legacy[4 - axes :]


__all__ = [
    "Lost",
    "NetState",
    "StateBlob",
    "StateLayer",
    "blob_for",
    "history_order",
    "located",
    "modern_shape",
    "read_state",
    "state_of",
]
