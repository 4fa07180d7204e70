"""Weights that a file keeps as named tensors, held against the layers of a net that is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from caffeio.errors import WeightsError
from caffeio.net.step import Step
from caffeio.net.torch_names.convert import module_for_net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.blobs import Array
from caffeio.proto.weights.blob_names import blob_names
from caffeio.proto.weights.mapping import TENSORS, LayerEntry, Weights


class NamedNet(Protocol):
    """What is asked of the net that the weights are for."""

    steps: list[Step]


def weights_for(net: NamedNet, weights: Weights) -> Weights:
    """The weights by the net's layers: those of a PyTorch module get Caffe's forms and layers.

    A module's BatchNorm becomes a BatchNorm and the Scale behind it, for example. Tensors that have
    the names of a layer's blobs come in the order of these. All others are returned as they are.
    Raises WeightsError where a module does not fit the layer of its name.
    """
    if weights.module is not None:
        return module_for_net(weights.module(), _layers(net), weights.path)
    return _in_order(net, weights) if weights.format in TENSORS else weights


def _in_order(net: NamedNet, weights: Weights) -> Weights:
    """The weights with the blobs of a layer in the order in which the net's layer has these names.

    An LSTM's state_dict has names of its own, which no file keeps in order.
    """
    own = {step.node.name: step.layer.blobs.names for step in reversed(net.steps)}
    layers, orders = [], []
    for entry in weights.layers:
        names = own.get(entry.name, ())
        order = list(range(len(entry.blobs)))
        if entry.names and sorted(entry.names) == sorted(names):
            order = [entry.names.index(name) for name in names]
            blobs = [entry.blobs[i] for i in order]
            entry = entry._replace(blobs=blobs, names=tuple(names))
        layers.append(entry)
        orders.append(order)
    before = weights.fetch
    if before is None or layers == weights.layers:
        return weights

    def fetch(layer: int, blob: int, diff: bool) -> Array:
        return before(layer, orders[layer][blob], diff)

    return replace(weights, layers=layers, fetch=fetch)


def _layers(net: NamedNet) -> pb.NetParameter:
    """The net's layers without their blobs; a Scale that a BatchNorm has taken in stands behind."""
    found = pb.NetParameter()
    for step in net.steps:
        layer = found.layer.add()
        layer.CopyFrom(step.node.param)
        layer.ClearField("blobs")
        if step.node.merged_scale:
            top = layer.top[0]
            scale = found.layer.add(name=step.node.merged_scale, type="Scale")
            scale.bottom.append(top)
            scale.top.append(top)
            scale.scale_param.bias_term = layer.batch_norm_param.bias_term
    return found


def check_tensors(weights: Weights, entry: LayerEntry, kind: str, own: Sequence[str]) -> None:
    """Raise WeightsError for tensors of a layer that cannot be its blobs: by name, or no floats.

    `kind` is the type of the net's layer, `own` what it calls its blobs. Files that are no
    named tensors pass.
    """
    if weights.format not in TENSORS:
        return
    known = blob_names(kind, len(entry.blobs))
    for i, blob in enumerate(entry.blobs):
        if i >= len(own) and kind != "BatchNorm":
            return  # there are too many, which is told elsewhere
        name = entry.names[i] if entry.names else str(i)
        told = own[i] if i < len(own) else known[i]
        if name not in (str(i), told, known[i]):
            raise WeightsError(
                f"layer {entry.name!r} ({kind}) has a tensor {name!r} in place of blob {i}, which "
                f"is called {told!r}" + (f" or '{i}'" if told != str(i) else ""),
                where=str(weights.path),
            )
        if blob.dtype.kind != "f":
            raise WeightsError(
                f"layer {entry.name!r}, tensor {name!r} holds {blob.dtype}, and weights are floats",
                where=str(weights.path),
            )


def check_met(given: Weights, weights: Weights, ignored: Sequence[str]) -> None:
    """Raise WeightsError if a file of named tensors has no layer of the net at all.

    `given` is the file, `weights` the same by the net's layers, `ignored` the layers that the net
    lacks. Caffe trains on from the fillers then; with names of others it is surely a mistake.
    """
    if given.format in TENSORS and weights.layers and len(ignored) == len(weights.layers):
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        raise WeightsError(
            f"has no layer of the net: its tensors are of {', '.join(ignored[:3])}{more}",
            where=str(weights.path),
        )
