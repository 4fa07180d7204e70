"""A whole net's weights as a module's state_dict, and a state_dict as a net's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffeio.errors import WeightsError
from caffeio.net.torch_names.forms import Named, to_caffe, to_torch
from caffeio.net.torch_names.mapfile import NameMap
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.blobs import Array
from caffeio.proto.weights.mapping import Weights, weights_of_arrays

_STATISTICS = ("num_batches_tracked",)


def _layers(net: pb.NetParameter) -> list[pb.LayerParameter]:
    """One layer a name, the first."""
    return list({layer.name: layer for layer in reversed(net.layer)}.values())[::-1]


def _with_norms(net: pb.NetParameter, names: NameMap) -> dict[str, str]:
    """Scale layer -> BatchNorm whose top it reads, where the map does not name its module."""
    out: dict[str, str] = {}
    makers: dict[str, pb.LayerParameter] = {}
    for layer in net.layer:
        source = makers.get(layer.bottom[0]) if layer.bottom else None
        plain = layer.type == "Scale" and len(layer.bottom) == 1 and layer.name not in names.modules
        if plain and source is not None and source.type == "BatchNorm":
            out[layer.name] = source.name
        made_by = source if layer.type == "Split" and source is not None else layer
        makers.update((top, made_by) for top in layer.top)
    return out


def module_to_caffe(
    tensors: Mapping[str, Array], net: pb.NetParameter, names: NameMap, path: Path
) -> Weights:
    """The blobs of the layers of `net` out of a module's state_dict.

    BatchNorm2d becomes BatchNorm (statistics with a factor of 1) and the Scale behind it. Raises
    WeightsError for a map that names layers or modules which are not there, and for tensors that
    nobody takes, unless the map skips them.
    """
    arrays, left = _by_layer(tensors, net, names, path)
    if left:
        raise WeightsError(_left_over(left, tensors, arrays), where=str(path))
    return weights_of_arrays(arrays, path)


def module_for_net(tensors: Mapping[str, Array], net: pb.NetParameter, path: Path) -> Weights:
    """The blobs of the layers of a net that is built, out of a module's state_dict of their names.

    Modules that the net does not have stay in the result under their own names, so that they are
    told. Raises WeightsError for tensors of the net's own layers that these have no place for, and
    for numbers that are no floats.
    """
    known = {layer.name for layer in net.layer}
    arrays, left = _by_layer(tensors, net, NameMap(), path)
    extra: dict[str, list[Array]] = {}
    homeless = []
    for name in left:
        module = name.rpartition(".")[0] or name
        if module in known:
            homeless.append(name)
        else:
            extra.setdefault(module, []).append(tensors[name])
    if homeless:
        raise WeightsError(
            f"the net's layers have no place for {len(homeless)} tensors of their modules: "
            f"{_listed(homeless)}",
            where=str(path),
        )
    for name in tensors:
        module, _, last = name.rpartition(".")
        if module in known and last not in _STATISTICS and tensors[name].dtype.kind != "f":
            message = f"tensor {name!r} holds {tensors[name].dtype}, and weights are floats"
            raise WeightsError(message, where=str(path))
    return weights_of_arrays({**arrays, **extra}, path)


def _by_layer(
    tensors: Mapping[str, Array], net: pb.NetParameter, names: NameMap, path: Path
) -> tuple[dict[str, Sequence[Array]], list[str]]:
    """The blobs of each layer, and the tensors that no layer takes."""
    groups: dict[str, Named] = {}
    for name, array in tensors.items():
        module, _, last = name.rpartition(".")
        groups.setdefault(module, {})[last] = array
    norms, used = _with_norms(net, names), set[str]()
    _check_map(net, names, groups)
    arrays: dict[str, Sequence[Array]] = {}
    for layer in _layers(net):
        module = names.module(layer.name)
        if layer.name in norms and module not in groups:
            module = names.module(norms[layer.name])
        if module not in groups:
            continue
        try:
            blobs, taken = to_caffe(layer, groups[module])
        except (ValueError, IndexError) as error:
            message = f"module {module!r} does not fit layer {layer.name!r} ({layer.type}): {error}"
            raise WeightsError(message, where=str(path)) from None
        if blobs:
            arrays[layer.name] = [np.asarray(blob, _float(blob)) for blob in blobs]
        used.update(f"{module}.{last}" if module else last for last in taken)
    left = [
        name
        for name in tensors
        if name not in used and name.rpartition(".")[2] not in _STATISTICS and not names.skips(name)
    ]
    return arrays, left


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _float(array: Array) -> np.dtype:
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.float32)


def _check_map(net: pb.NetParameter, names: NameMap, groups: Mapping[str, Named]) -> None:
    known = {layer.name for layer in net.layer}
    for layer, module in names.modules.items():
        if layer not in known:
            raise WeightsError(f"the net has no layer {layer!r}", where=names.places[layer])
        if names.prefix + module not in groups:
            raise WeightsError(
                f"the file has no tensor of module {names.prefix + module!r}",
                where=names.places[layer],
            )


def _left_over(left: list[str], tensors: Mapping[str, Array], arrays: Mapping[str, object]) -> str:
    text = (
        f"{len(left)} tensors belong to no layer of the net: {_listed(left)}. Say in a --map "
        "FILE whose they are (LAYER = MODULE), or `skip = PATTERN`"
    )
    first = {name.partition(".")[0] for name in tensors}
    if not arrays and len(first) == 1:
        text += f"; all names begin with `{first.pop()}.`: `prefix` in the map takes that away"
    return text


def caffe_to_module(
    weights: Mapping[str, Sequence[Array]], net: pb.NetParameter, names: NameMap
) -> tuple[Named, list[str]]:
    """A state_dict of the net's weights as a PyTorch module has them; and notes.

    BatchNorm and the Scale behind it are one module: weight, bias, running_mean, running_var,
    num_batches_tracked. A layer type without a PyTorch form keeps Caffe's blobs by index.
    """
    norms, out, notes = _with_norms(net, names), dict[str, Array](), list[str]()
    weights = _folded(weights, net, names)
    for layer in _layers(net):
        blobs = weights.get(layer.name)
        if not blobs:
            continue
        named = to_torch(layer, blobs)
        if named is None:
            notes.append(f"layer {layer.name!r} ({layer.type}) has no PyTorch form: Caffe's blobs")
            named = {str(i): np.asarray(blob) for i, blob in enumerate(blobs)}
        module = names.module(norms.get(layer.name, layer.name))
        for last, array in named.items():
            key = f"{module}.{last}"
            if key in out:
                raise WeightsError(f"two layers would be called {key!r}: layer {layer.name!r}")
            out[key] = array
    for norm in (layer for layer in _layers(net) if layer.type == "BatchNorm"):
        key = names.module(norm.name)
        if f"{key}.running_mean" in out and f"{key}.weight" not in out:
            notes.append(f"module {key!r} is one without a weight: affine=False")
    return out, notes


def _folded(
    weights: Mapping[str, Sequence[Array]], net: pb.NetParameter, names: NameMap
) -> Mapping[str, Sequence[Array]]:
    """The weights with the biases that the map folds taken off the means behind them.

    (Wx + b - m) is (Wx - (m - b)): the numbers stay. Raises WeightsError where no BatchNorm reads
    the layer.
    """
    if not names.fold:
        return weights
    out = dict(weights.items())
    for name in names.fold:
        top = next((x.top[0] for x in net.layer if x.name == name), None)
        reader = next((x for x in net.layer if top in x.bottom), None)
        if reader is None or reader.type != "BatchNorm" or reader.name not in out:
            raise WeightsError(f"no BatchNorm reads layer {name!r}, so its bias cannot be folded")
        if len(out.get(name, ())) < 2:
            continue
        weight, bias = (np.asarray(a) for a in out[name])
        mean, variance, factor = (np.asarray(a, np.float32) for a in out[reader.name][:3])
        moved = mean - bias.reshape(-1) * (factor.reshape(-1)[0] if factor.any() else 0)
        if not factor.any():
            moved, factor = -bias.reshape(-1), np.ones_like(factor)
        out[name] = [weight]
        out[reader.name] = [moved, variance, factor, *out[reader.name][3:]]
    return out
