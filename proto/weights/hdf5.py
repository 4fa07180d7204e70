"""HDF5 weights and states as Caffe lays them out (Net::ToHDF5, SnapshotSolverStateToHDF5).

Weights: /data/<layer>/<index>, float data sets, a group for each layer even if it has no blobs, and
/diff likewise with snapshot_diff. Reading needs no HDF5 library for files in the default format and
gives views of the mapped file; h5py is needed to write, and to read chunked or compressed files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffeio.errors import CaffeIOError, ParseError, SnapshotError, WeightsError
from caffeio.memory import check_room
from caffeio.proto.io.blobs import MAX_AXES, NOTHING, Array, BlobInfo, Values
from caffeio.proto.io.wire import Buffer
from caffeio.proto.weights.hdf5_file import h5py_or_error, stored_bytes, write_h5
from caffeio.proto.weights.hdf5_reader import Dataset, ExoticError, Hdf5Group, read_tree
from caffeio.proto.weights.mapping import LayerEntry, Weights
from caffeio.proto.weights.write import per_layer

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import NetParameter

Path_ = str | os.PathLike[str]
_MAX_RATIO = 1100  # deflate cannot compress better; a smaller store cannot hold a data set


def load_weights_h5(path: Path_, buffer: Buffer) -> Weights:
    """Weights from an HDF5 file whose content is `buffer`; use `load_weights`.

    Layers come in the order of the file, which is that of their names; names with "/" are nested
    groups. Raises WeightsError as `load_weights` does.
    """
    root = read_group(path, buffer, WeightsError)
    data, diffs = root.members.get("data"), root.members.get("diff")
    if not isinstance(data, Hdf5Group):
        found = ", ".join(sorted(root.members)) or "nothing"
        message = f"has no group 'data', so it is not a Caffe HDF5 model (it has {found})"
        if "iter" in root.members:
            message = "is a solver state: give the .caffemodel.h5 that belongs to it"
        raise WeightsError(message, where=str(path))
    layers = []
    try:
        for name, group in _layer_groups(data, ""):
            layers.append(_entry(name, group, _find_group(diffs, name)))
    except ParseError as error:
        raise WeightsError(error.message, where=str(path)) from None

    def fetch(layer: int, blob: int, diff: bool) -> Array:
        number = layers[layer].number(blob)
        name = f"{'diff' if diff else 'data'}/{layers[layer].name}/{number}"
        return read_packed(path, name, layers[layer].blobs[blob].shape, WeightsError)

    return Weights(Path(path), "hdf5", "", layers, buffer, fetch)


def _layer_groups(group: Hdf5Group, prefix: str) -> Iterator[tuple[str, Hdf5Group]]:
    """The groups that are layers: those with data sets, and those with nothing in them."""
    for name, member in group.members.items():
        if isinstance(member, Hdf5Group):
            inner = member.members.values()
            if not inner or any(isinstance(m, Dataset) for m in inner):
                yield prefix + name, member
            yield from _layer_groups(member, f"{prefix}{name}/")


def _find_group(group: Hdf5Group | Dataset | None, name: str) -> Hdf5Group | None:
    for part in name.split("/"):
        group = group.members.get(part) if isinstance(group, Hdf5Group) else None
    return group if isinstance(group, Hdf5Group) else None


def _entry(layer: str, group: Hdf5Group, diffs: Hdf5Group | None) -> LayerEntry:
    """A layer: its data sets are named 0, 1, ...; those that another layer owns are not there."""
    blobs = []
    numbers = sorted(int(n) for n in group.members if n.isdecimal() and len(n) < 9)
    names = [str(n) for n in numbers]
    for i, dataset in zip(names, numbered(group, f"layer {layer!r}", names), strict=True):
        other = diffs.members.get(i) if diffs else None
        diff = values_of(other) if isinstance(other, Dataset) else NOTHING
        if isinstance(other, Dataset) and other.shape != dataset.shape:
            raise ParseError(
                f"layer {layer!r}, blob {i}: its shape is {dataset.shape}, "
                f"but its diff has the shape {other.shape}"
            )
        data = values_of(dataset)
        offset = dataset.offset if data.pieces else -1
        info = BlobInfo(dataset.shape, False, dataset.dtype, data.count, offset, data, diff)
        blobs.append(info)
    whole = numbers == list(range(len(numbers)))
    return LayerEntry(layer, "", blobs, indices=() if whole else tuple(numbers))


def numbered(group: Hdf5Group, what: str, names: list[str] | None = None) -> list[Dataset]:
    """The data sets `names` of a group, else "0", "1", ...; ParseError if others are there."""
    data = {n: m for n, m in group.members.items() if isinstance(m, Dataset)}
    wanted = [str(i) for i in range(len(data))] if names is None else names
    if set(wanted) != set(data):
        found = ", ".join(sorted(data)[:8])
        raise ParseError(f"{what} has data sets named {found}, not 0 to {len(data) - 1}")
    for i in wanted:
        if data[i].dtype.kind not in "fiu" or len(data[i].shape) > MAX_AXES:
            raise ParseError(f"{what}, blob {i}: type {data[i].dtype} is not one of numbers")
    return [data[i] for i in wanted]


def values_of(dataset: Dataset) -> Values:
    """Where the numbers of a data set lie."""
    count = math.prod(dataset.shape)
    if dataset.packed:
        return Values(dataset.dtype, count, ())
    if dataset.offset < 0 or not count:
        return Values(dataset.dtype, 0, ())
    return Values(dataset.dtype, count, ((dataset.offset, count, dataset.dtype.itemsize),))


def read_group(path: Path_, buffer: Buffer, error: type[CaffeIOError]) -> Hdf5Group:
    """The structure of an HDF5 file: by our own reader, by h5py if that does not know it."""
    try:
        return read_tree(buffer)
    except ParseError as problem:
        place = f" ({problem.where})" if problem.where else ""
        raise error(f"{problem.message}{place}", where=str(path)) from None
    except ExoticError as reason:
        h5py = h5py_or_error(path, str(reason), error)
    try:
        with h5py.File(path, "r") as file:
            return _h5py_group(file, 0)
    except (OSError, RuntimeError, KeyError, ValueError) as problem:
        raise error(f"the HDF5 library cannot read it: {problem}", where=str(path)) from None
    except ParseError as problem:
        raise error(problem.message, where=str(path)) from None


def _h5py_group(group: Any, depth: int) -> Hdf5Group:
    if depth > 64:
        raise ParseError("HDF5 groups are nested more than 64 deep")
    members: dict[str, Hdf5Group | Dataset] = {}
    for name in group:
        link = group.get(name, getlink=True)
        if type(link).__name__ != "HardLink":
            raise ParseError(f"HDF5: {group.name}/{name} is a link to elsewhere; not followed")
        member = group[name]
        if hasattr(member, "keys"):
            members[name] = _h5py_group(member, depth + 1)
        elif hasattr(member, "chunks"):
            members[name] = _h5py_dataset(member)
        else:
            raise ParseError(f"HDF5: {member.name} is neither group nor data set")
    return Hdf5Group(members)


def _h5py_dataset(dataset: Any) -> Dataset:
    """A data set, if what is stored of it can be all of it."""
    stored = dataset.id.get_storage_size()
    if dataset.external or dataset.is_virtual:
        raise ParseError(f"HDF5: {dataset.name} lies in another file; not followed")
    if dataset.nbytes > stored * _MAX_RATIO:
        return Dataset(dataset.name, dataset.shape, dataset.dtype, -1)
    return Dataset(dataset.name, dataset.shape, dataset.dtype, -1, packed=True)


def read_packed(path: Path_, name: str, shape: tuple[int, ...], error: type[CaffeIOError]) -> Array:
    """The numbers of a data set that only the HDF5 library can find."""
    h5py = h5py_or_error(path, "chunked data", error)
    check_room(8 * math.prod(shape), f"{path}: {name}")
    try:
        with h5py.File(path, "r") as file:
            array: Array = np.asarray(file[name][()]).reshape(shape)
    except (OSError, RuntimeError, KeyError, ValueError) as problem:
        raise error(f"{name} cannot be read: {problem}", where=str(path)) from None
    array.flags.writeable = False
    return array


def write_caffemodel_h5(
    path: Path_,
    net: NetParameter,
    blobs: Mapping[str, Sequence[Array | None]] | Sequence[Sequence[Array | None]],
    *,
    diffs: Mapping[str, Sequence[Array]] | Sequence[Sequence[Array]] | None = None,
    sync: bool = True,
) -> None:
    """Write weights as Caffe's HDF5: /data/<layer>/<index> for the blobs of `net`'s layers.

    `blobs` and `diffs` are given as for `write_caffemodel`; of shared parameters give the owner's
    only, as Caffe does (None in the others' places, or a shorter list); `diffs` may have those
    that `blobs` leaves out.
    float64 arrays stay float64, others become float32. The file appears when it is whole.
    Raises SnapshotError for a layer name with "/" (Caffe itself stops there) or a failed write.
    """
    names = [layer.name for layer in net.layer]
    groups = {"data": per_layer(blobs, names, "blobs", str(path))}
    if diffs is not None:
        groups["diff"] = per_layer(diffs, names, "diffs", str(path))
    for name in names:
        if "/" in name or not name or name == ".":
            raise SnapshotError(
                f"layer {name!r} cannot be written to HDF5, where '/' divides groups; Caffe stops "
                "here too: use snapshot_format: BINARYPROTO, or rename the layer",
                where=str(path),
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"two layers are named {twice!r}, which HDF5 cannot hold: use BINARYPROTO"
        raise SnapshotError(message, where=str(path))

    def fill(file: Any) -> None:
        for title, layers in groups.items():
            for name, arrays in zip(names, layers, strict=True):
                group = file.create_group(f"{title}/{name}")
                for i, array in enumerate(arrays):
                    if array is not None:
                        write_numbers(group, str(i), array)

    arrays = [a for layers in groups.values() for row in layers for a in row if a is not None]
    write_h5(path, fill, sync=sync, size=sum(map(stored_bytes, arrays)))


def write_numbers(group: Any, name: str, array: Array) -> None:
    """A data set of floats as H5LTmake_dataset_float (or _double) makes it."""
    dtype = "<f8" if array.dtype.kind == "f" and array.dtype.itemsize == 8 else "<f4"
    group.create_dataset(name, data=array, dtype=dtype, track_times=True)


def write_string(file: Any, name: str, text: str) -> None:
    """A scalar null-terminated string, as H5LTmake_dataset_string makes it."""
    h5py = h5py_or_error(name, "to write", SnapshotError)
    raw = text.encode("utf-8", "surrogateescape")
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(raw) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(raw, f"S{len(raw) + 1}"), kind)
