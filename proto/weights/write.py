"""Write a binary caffemodel: the net from its message, the numbers straight from the arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from caffeio.errors import WeightsError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import Array
from caffeio.proto.io.stream import Blob, Part, blob_parts, field_parts, size_of, write_parts
from caffeio.proto.io.wire import bytes_header, iter_places

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import NetParameter
    from caffeio.proto.dialect.dialect import Lost, Unknown

T = TypeVar("T")
Blobs = Mapping[str, Sequence[Blob]] | Sequence[Sequence[Blob]]
Diffs = Mapping[str, Sequence[Array | None]] | Sequence[Sequence[Array | None]]

_BLOBS_OF = {100: 7, 2: 6}  # NetParameter.layer: LayerParameter.blobs; the same of V1


def write_caffemodel(
    path: str | os.PathLike[str],
    net: NetParameter,
    blobs: Blobs,
    *,
    diffs: Diffs | None = None,
    dialect: str = "bvlc",
    raw_data: bool = False,
    unknown: Iterable[Unknown] = (),
    lost: list[Lost] | None = None,
    sync: bool = True,
) -> None:
    """Write `net` with its weights, byte for byte as Caffe's serializer does.

    `blobs` gives the arrays of each layer, either as a list parallel to `net.layer` (Splits
    included) or by layer name; `diffs` the same for snapshot_diff. float64 arrays are stored as
    double_data, others as float32 (`raw_data`: in their own type, as NVIDIA's fork does). Instead
    of an array, the bytes of a BlobProto may stand (`Weights.raw_blobs`): they are copied as they
    are. Arrays may have any strides; they are never copied whole, and files may exceed 4 GB.
    A net of V1 `layers` is written as such. `unknown` and `lost` are those of `dialect.encode`.

    The file appears at `path` when it is whole (`sync`: and on the disk), else nothing changes.
    Raises WeightsError if blobs and layers do not belong together, SnapshotError if it cannot be
    written, naming the space needed and free, and what `encode` raises.
    """
    where = str(path)
    names = [layer.name for layer in (net.layer or net.layers)]
    if any(layer.HasField("layer") for layer in net.layers):
        raise WeightsError("a net of nested V0 layers is not written: upgrade it", where=where)
    data = per_layer(blobs, names, "blobs", where)
    diff = per_layer(diffs, names, "diffs", where) if diffs is not None else [()] * len(names)
    payload = []
    for name, arrays, gradients in zip(names, data, diff, strict=True):
        if gradients and len(gradients) != len(arrays):
            message = f"layer {name!r} has {len(arrays)} blobs, but {len(gradients)} diffs"
            raise WeightsError(message, where=where)
        payload.append(_layer_blobs(name, arrays, gradients, raw_data, where))
    parts = list(_fill(_template(net, dialect, unknown, lost), payload))
    total = size_of(parts)
    with atomic_write(path, sync=sync, needed=total) as file:
        write_parts(file, parts, sync=sync)


def per_layer(
    given: Mapping[str, Sequence[T]] | Sequence[Sequence[T]],
    names: Sequence[str],
    what: str,
    where: str,
) -> list[Sequence[T]]:
    """One list a layer of the net, whichever way they are given."""
    if isinstance(given, Mapping):
        if unknown := sorted(set(given) - set(names)):
            raise WeightsError(
                f"{what} of {unknown[0]!r}, which is no layer of the net", where=where
            )
        return [given.get(name, ()) for name in names]
    if len(given) != len(names):
        raise WeightsError(
            f"{what} of {len(given)} layers, but the net has {len(names)}", where=where
        )
    return list(given)


def _layer_blobs(
    name: str, arrays: Sequence[Blob], diffs: Sequence[Array | None], raw: bool, where: str
) -> list[list[Part]]:
    """The BlobProtos of a layer."""
    out = []
    for i, array in enumerate(arrays):
        try:
            out.append(blob_parts(array, diffs[i] if diffs else None, raw=raw))
        except ValueError as problem:
            message = f"layer {name!r}, blob {i} cannot be written: {problem}"
            raise WeightsError(message, where=where) from None
    return out


class _Layer(NamedTuple):
    """An encoded layer, cut where its blobs belong."""

    number: int  # of the layer in NetParameter
    before: bytes
    behind: bytes


_Template = tuple[_Layer | bytes, ...]


def _template(
    net: NetParameter, dialect: str, unknown: Iterable[Unknown], lost: list[Lost] | None
) -> _Template:
    """The net in the dialect's numbers, without blobs, cut where they belong."""
    if any(layer.blobs for layer in net.layer) or any(layer.blobs for layer in net.layers):
        bare = type(net)()
        bare.CopyFrom(net)
        for layer in (*bare.layer, *bare.layers):
            layer.ClearField("blobs")
        net = bare
    if lost is None and not (unknown := list(unknown)):
        return _template_again(net.SerializeToString(deterministic=True), dialect)
    from caffeio.proto.dialect.dialect import encode

    return _cut(encode(net, dialect, unknown=unknown, lost=lost))


@lru_cache(maxsize=4)
def _template_again(canonical: bytes, dialect: str) -> _Template:
    """Encode a net once for all snapshots of a training (18 ms for the layers of ResNet-50)."""
    from caffeio.proto.caffe_pb2 import NetParameter  # slow to import: only for who writes
    from caffeio.proto.dialect.dialect import encode

    return _cut(encode(NetParameter.FromString(canonical), dialect))


def _cut(encoded: bytes) -> _Template:
    pieces: list[_Layer | bytes] = []
    for number, _, value, begin, end in iter_places(encoded):
        if number not in _BLOBS_OF or isinstance(value, int):
            pieces.append(encoded[begin:end])
            continue
        first, last = value
        cut = _place_of(encoded, first, last, _BLOBS_OF[number])
        pieces.append(_Layer(number, encoded[first:cut], encoded[cut:last]))
    return tuple(pieces)


def _place_of(encoded: bytes, start: int, end: int, number: int) -> int:
    """Where field `number` belongs: before the first field with a larger number."""
    for other, _, _, begin, _ in iter_places(encoded, start, end):
        if other > number:
            return begin
    return end


def _fill(template: _Template, payload: list[list[list[Part]]]) -> Iterator[Part]:
    """The net with each layer's blobs in their place: the order of field numbers, as in C++."""
    waiting = iter(payload)
    for piece in template:
        if isinstance(piece, bytes):
            yield piece
            continue
        number = _BLOBS_OF[piece.number]
        blobs = [part for blob in next(waiting) for part in field_parts(number, blob)]
        size = len(piece.before) + size_of(blobs) + len(piece.behind)
        yield bytes_header(piece.number, size) + piece.before
        yield from blobs
        yield piece.behind
