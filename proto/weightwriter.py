"""Write a binary caffemodel: the net from its message, the numbers straight from the arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from caffeio.errors import WeightsError
from caffeio.proto.atomic import atomic_write
from caffeio.proto.blobs import Array
from caffeio.proto.stream import Blob, Part, blob_parts, field_parts, size_of, write_parts
from caffeio.proto.wire import BYTES, bytes_header, iter_places

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import NetParameter
    from caffeio.proto.dialect import Lost, Unknown

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
    parts = list(_splice(_encode(net, dialect, unknown, lost), payload))
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


def _encode(
    net: NetParameter, dialect: str, unknown: Iterable[Unknown], lost: list[Lost] | None
) -> bytes:
    """The net without blobs, in the dialect's numbers."""
    if any(layer.blobs for layer in net.layer) or any(layer.blobs for layer in net.layers):
        bare = type(net)()
        bare.CopyFrom(net)
        for layer in (*bare.layer, *bare.layers):
            layer.ClearField("blobs")
        net = bare
    from caffeio.proto.dialect import encode  # protobuf is slow to import: only for who writes

    return encode(net, dialect, unknown=unknown, lost=lost)


def _splice(encoded: bytes, payload: list[list[list[Part]]]) -> Iterator[Part]:
    """The encoded net with each layer's blobs put in their place, in the order of field numbers."""
    waiting = iter(payload)
    for number, wire_type, value, begin, end in iter_places(encoded):
        if number not in _BLOBS_OF or wire_type != BYTES or isinstance(value, int):
            yield encoded[begin:end]
            continue
        blobs_number = _BLOBS_OF[number]
        cut = _place_of(encoded, *value, blobs_number)
        blobs = [part for blob in next(waiting) for part in field_parts(blobs_number, blob)]
        before, behind = encoded[value[0] : cut], encoded[cut : value[1]]
        yield bytes_header(number, len(before) + size_of(blobs) + len(behind))
        yield before
        yield from blobs
        yield behind


def _place_of(encoded: bytes, start: int, end: int, number: int) -> int:
    """Where field `number` belongs: before the first field with a larger number."""
    for other, _, _, begin, _ in iter_places(encoded, start, end):
        if other > number:
            return begin
    return end
