"""Weights of any format: one table, so that a new format is one entry."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from caffeio.converters.netstate import modern_shape
from caffeio.errors import UnsupportedError, WeightsError
from caffeio.net.graph import NetGraph
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.io.blobs import Array, BlobInfo
from caffeio.proto.upgrade.upgrade import V1_TYPES
from caffeio.proto.upgrade.v0 import V0_TYPES
from caffeio.proto.weights.load import Weights, load_weights, write_caffemodel_h5
from caffeio.proto.weights.mapping import weights_of_arrays

PathLike = str | os.PathLike[str]


class WeightFormat(NamedTuple):
    """Suffixes, what the format is for people, and the module with read() and write()."""

    suffixes: tuple[str, ...]
    title: str
    module: str | None  # None: Caffe's own, see `read_weights` and `write_weights`


FORMATS = {
    "caffemodel": WeightFormat((".caffemodel",), "Caffe's weights", None),
    "h5": WeightFormat((".h5", ".hdf5"), "Caffe's weights in HDF5", None),
    "safetensors": WeightFormat((".safetensors",), "safetensors", "safetensors"),
    "pt": WeightFormat((".pt", ".pth"), "a PyTorch state_dict", "pytorch"),
    "npz": WeightFormat((".npz",), "a NumPy archive", "npz"),
}


def read_weights(path: PathLike, kind: str, *, dialect: str | None = None) -> Weights:
    """Open weights of a format of FORMATS, old shapes of four axes as today's.

    Raises WeightsError.
    """
    module = FORMATS[kind].module
    if module is None:
        return _modern(load_weights(path, dialect=dialect))
    weights: Weights = _module(module).read(path)
    return weights


def _modern(weights: Weights) -> Weights:
    """Weights whose legacy shapes are those of today's Caffe, where the layer's type tells them."""
    if not any(blob.legacy for entry in weights.layers for blob in entry.blobs):
        return weights
    layers = []
    for entry in weights.layers:
        kind = V1_TYPES.get(V0_TYPES.get(entry.type, ""), entry.type)
        blobs = [_modern_blob(kind, i, blob) for i, blob in enumerate(entry.blobs)]
        layers.append(entry._replace(blobs=blobs))
    return replace(weights, layers=layers)


def _modern_blob(kind: str, index: int, blob: BlobInfo) -> BlobInfo:
    if not blob.legacy or (kind == "PReLU" and blob.count == 1):  # that one may have no axis
        return blob
    shape = modern_shape(kind, index, blob.shape)
    return blob if shape is None else replace(blob, shape=shape, legacy=False)


def write_weights(path: PathLike, kind: str, weights: Weights) -> list[str]:
    """Write weights in a format other than .caffemodel, which needs a net; returns notes."""
    if kind == "h5":
        return _write_h5(path, weights)
    module = FORMATS[kind].module
    if module is None:
        raise UnsupportedError("a .caffemodel needs a net", where=str(path))
    _module(module).write(path, weights)
    return []


def _module(name: str) -> Any:
    return import_module(f"caffeio.proto.weights.{name}")


def _write_h5(path: PathLike, weights: Weights) -> list[str]:
    """HDF5 as Caffe writes it: every layer is a group, shared parameters are with their owner."""
    net, owned = pb.NetParameter(), []
    owners = _owners(weights)
    seen: set[str] = set()
    notes = []
    for index, entry in enumerate(weights.layers):
        if entry.name in seen:
            notes.append(f"a second layer {entry.name!r} is left out: HDF5 has one of a name")
            continue
        seen.add(entry.name)
        net.layer.add(name=entry.name, type=entry.type)
        arrays = weights.arrays(index)
        own = any(owners.get((entry.name, i), True) for i in range(len(arrays)))
        owned.append(arrays if own else [])
    write_caffemodel_h5(path, net, owned)
    return notes


def _owners(weights: Weights) -> dict[tuple[str, int], bool]:
    """Of blobs that have a param name: whether their layer is the first to use it."""
    if weights.format != "binary":
        return {}
    owners: dict[tuple[str, int], bool] = {}
    names: set[str] = set()
    for layer in read_net(weights.path).message.layer:
        for i, spec in enumerate(layer.param):
            if spec.name:
                owners[layer.name, i] = spec.name not in names
                names.add(spec.name)
    return owners


def net_of(graph: NetGraph) -> pb.NetParameter:
    """The layers of a graph as Caffe's snapshots hold them, without blobs."""
    net = pb.NetParameter(name=graph.name)
    phase = pb.TRAIN if graph.phase == "TRAIN" else pb.TEST
    for node in graph.nodes:
        layer = net.layer.add()
        layer.CopyFrom(node.param)
        layer.ClearField("blobs")
        if not layer.HasField("phase"):
            layer.phase = phase
    return net


def with_blobs(
    graph: NetGraph, weights: Mapping[str, Sequence[Array]], path: PathLike
) -> tuple[pb.NetParameter, list[list[Array]]]:
    """The layers of `graph` as Caffe's snapshots hold them, and the blobs of each.

    Raises WeightsError if no layer of the net has weights there.
    """
    blobs = [list(arrays) for arrays in _with_shared(graph, weights)]
    if weights and not any(blobs):
        raise WeightsError(f"no layer of net {graph.name!r} has weights there", where=str(path))
    return net_of(graph), blobs


def weights_of(arrays: Mapping[str, Sequence[Array]], path: PathLike = "<memory>") -> Weights:
    """Arrays by layer name as if they had been read from a file."""
    return weights_of_arrays(arrays, Path(path))


def _with_shared(graph: NetGraph, weights: Mapping[str, Sequence[Array]]) -> list[Sequence[Array]]:
    """The blobs of every layer; one without any (HDF5) gets those that it shares by name."""
    owned: dict[str, Array] = {}
    out = []
    for node in graph.nodes:
        arrays = weights.get(node.name, ())
        names = [spec.name for spec in node.param.param]
        if not arrays and names and all(name in owned for name in names):
            arrays = [owned[name] for name in names]
        for name, array in zip(names, arrays, strict=False):
            if name:
                owned.setdefault(name, array)
        out.append(arrays)
    return out


__all__ = [
    "FORMATS",
    "WeightFormat",
    "net_of",
    "read_weights",
    "weights_of",
    "with_blobs",
    "write_weights",
]
