"""Copy trained blobs into a net by layer name, as Caffe does, with the forks' BatchNorms.

Sources: src/caffe/net.cpp (CopyTrainedLayersFrom), src/caffe/blob.cpp (ShapeEquals), Intel's
src/caffe/util/remove_batch_norm.cpp (merged BatchNorm), NVIDIA's src/caffe/net.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from caffeio.errors import WeightsError
from caffeio.net.named_tensors import check_met, check_tensors, weights_for
from caffeio.net.step import LearnableParam, Step, raw_blobs
from caffeio.profiles import Profile
from caffeio.proto.io.blobs import BlobInfo, shapes_match
from caffeio.proto.weights.load import LayerEntry, Weights
from caffeio.shape_text import caffe_shape

Plan = list[tuple[nn.Parameter, int, int]]  # target, source layer, source blob


class WeightsTarget(Protocol):
    """What is asked of the net that weights are copied into."""

    profile: Profile
    steps: list[Step]
    learnable: list[LearnableParam]


def copy_trained_layers(net: WeightsTarget, weights: Weights) -> list[str]:
    """Copy `weights` into `net`; returns the names of the file's layers that the net lacks.

    The first layer of a name receives; layers of the net that the file lacks keep what they
    have. Everything is checked before anything is copied. Raises WeightsError.
    """
    given, weights = weights, weights_for(net, weights)
    targets, merged = _targets(net)
    plan: Plan = []
    ignored: list[str] = []
    for index in range(len(weights.layers)):
        part = _plan_entry(net, weights, index, targets, merged)
        if part is None:
            ignored.append(weights.layers[index].name)
        else:
            plan += part
    check_met(given, weights, ignored)
    _copy(plan, weights)
    _norm_factors(net, weights, targets)
    return ignored


def _targets(net: WeightsTarget) -> tuple[dict[str, Step], dict[str, Step]]:
    """The first layer of each name, and the BatchNorms by the Scale that each has taken in."""
    targets: dict[str, Step] = {}
    for step in net.steps:
        targets.setdefault(step.node.name, step)
    return targets, {s.node.merged_scale: s for s in net.steps if s.node.merged_scale}


def replaced_blobs(net: WeightsTarget, weights: Weights) -> set[int]:
    """Find the ids of the net's blobs that `copy_trained_layers` would write; raises as it does."""
    weights = weights_for(net, weights)
    targets, merged = _targets(net)
    parts = [
        _plan_entry(net, weights, index, targets, merged) for index in range(len(weights.layers))
    ]
    return {id(target) for part in parts for target, _, _ in part or ()}


def mismatches(net: WeightsTarget, weights: Weights) -> list[str]:
    """What `copy_trained_layers` would raise, a message for every layer of the file."""
    try:
        weights = weights_for(net, weights)
    except WeightsError as error:
        return [str(error)]
    targets, merged = _targets(net)
    out = []
    for index in range(len(weights.layers)):
        try:
            _plan_entry(net, weights, index, targets, merged)
        except WeightsError as error:
            out.append(str(error))
    return out


def _plan_entry(
    net: WeightsTarget,
    weights: Weights,
    index: int,
    targets: dict[str, Step],
    merged: dict[str, Step],
) -> Plan | None:
    """Where the blobs of one layer of the file go; None if the net has no such layer."""
    entry = weights.layers[index]
    target = targets.get(entry.name)
    if target is None and entry.name in merged and len(entry.blobs) <= 2:
        check_tensors(weights, entry, "Scale", ("weight", "bias"))
        return _plan_scale(weights, index, entry, merged[entry.name])
    if target is None:
        return None
    check_tensors(weights, entry, target.node.type, target.layer.blobs.names)
    partial = entry.indices or not entry.blobs
    if weights.format == "hdf5" and partial:
        return _plan_hdf5(net, weights, index, entry, target)
    return _plan_layer(net, weights, index, entry, target)


def _plan_layer(
    net: WeightsTarget, weights: Weights, index: int, entry: LayerEntry, step: Step
) -> Plan:
    blobs = raw_blobs(step.layer)
    plan: Plan = []
    have = len(entry.blobs)
    if step.node.merged_scale and have == 3:
        return _match(weights, entry, index, step, blobs[:3], [0, 1, 2])
    extra = have - len(blobs)
    of_nvidia = step.node.type == "BatchNorm" and len(blobs) == 3 and extra in (1, 2)
    scale = _scale_behind(net, step) if of_nvidia else None
    if scale is not None:
        merged = raw_blobs(scale.layer)
        if extra > len(merged):
            raise _count_error(weights, entry.name, have, len(blobs))
        sources = list(range(3, have))
        plan += _match(weights, entry, index, scale, merged[:extra], sources)
        have = 3
    if have != len(blobs):
        raise _count_error(weights, entry.name, have, len(blobs))
    return plan + _match(weights, entry, index, step, blobs, list(range(have)))


def _plan_scale(weights: Weights, index: int, entry: LayerEntry, norm: Step) -> Plan:
    """A Scale layer of the file goes into blobs 3 and 4 of the BatchNorm that took it in."""
    blobs = raw_blobs(norm.layer)[3:]
    if len(entry.blobs) != len(blobs):
        raise _count_error(weights, entry.name, len(entry.blobs), len(blobs))
    plan: Plan = []
    for i, (target, blob) in enumerate(zip(blobs, entry.blobs, strict=True)):
        if not shapes_match(blob, norm.layer.blob_specs[3 + i].shape):
            raise WeightsError(
                f"cannot copy param {i} weights from layer {entry.name!r} into {norm.node.name!r}; "
                f"shape mismatch: {caffe_shape(blob.shape)}, {caffe_shape(target.shape)}",
                where=str(weights.path),
            )
        plan.append((target, index, i))
    return plan


def _plan_hdf5(
    net: WeightsTarget, weights: Weights, index: int, entry: LayerEntry, step: Step
) -> Plan:
    """HDF5 files hold owners only: a blob may be missing where another layer owns it here too."""
    blobs = raw_blobs(step.layer)
    owned = {id(p.tensor) for p in net.learnable if p.layer == step.node.name}
    place = {entry.number(k): k for k in range(len(entry.blobs))}
    missing = [i for i in range(len(blobs)) if i not in place]
    if set(place) - set(range(len(blobs))) or any(id(blobs[i]) in owned for i in missing):
        raise _count_error(weights, entry.name, len(entry.blobs), len(blobs))
    present = [i for i in range(len(blobs)) if i in place]
    targets = [blobs[i] for i in present]
    return _match(weights, entry, index, step, targets, [place[i] for i in present], present)


def _count_error(weights: Weights, name: str, have: int, expected: int) -> WeightsError:
    return WeightsError(
        f"incompatible number of blobs for layer {name!r}: the file has {have}, the net {expected}",
        where=str(weights.path),
    )


def _match(
    weights: Weights,
    entry: LayerEntry,
    index: int,
    step: Step,
    targets: Sequence[nn.Parameter],
    sources: Sequence[int],
    numbers: Sequence[int] | None = None,
) -> Plan:
    """Pair blobs of the file with those of the net (`numbers`, else 0, 1, ...) by shape."""
    plan: Plan = []
    own = [spec.kept_shape or spec.shape for spec in step.layer.blob_specs]
    if numbers is not None:
        own = [own[i] for i in numbers]
    for i, (target, source) in enumerate(zip(targets, sources, strict=True)):
        blob: BlobInfo = entry.blobs[source]
        old_nvidia = step.node.type == "BatchNorm" and tuple(blob.shape) == (1, *own[i], 1, 1)
        averages = step.layer.profile.batch_norm == "averages"
        if not shapes_match(blob, own[i]) and not (old_nvidia and averages):
            hint = "; older files of NVIDIA's Caffe have it so: --caffe nvidia reads them"
            raise WeightsError(
                f"cannot copy param {source} weights from layer {entry.name!r}; shape mismatch: "
                f"the file's is {caffe_shape(blob.shape)}, the net's is {caffe_shape(own[i])}. To "
                "learn this layer's parameters from scratch rather than copying them from a saved "
                f"net, rename the layer{hint if old_nvidia else ''}",
                where=str(weights.path),
            )
        plan.append((target, index, source))
    return plan


def _copy(plan: Plan, weights: Weights) -> None:
    arrays: dict[int, list[np.ndarray]] = {}
    with torch.no_grad():
        for target, layer, blob in plan:
            if layer not in arrays:
                arrays[layer] = weights.arrays(layer)
            copy_into(target, arrays[layer][blob])


def copy_into(target: torch.Tensor, values: np.ndarray) -> None:
    """Copy an array of any number type and alignment into a tensor of the same count."""
    if target.device.type == "cpu" and target.dtype == torch.float32 and target.is_contiguous():
        np.copyto(target.detach().view(-1).numpy(), values.reshape(-1), casting="unsafe")
        return
    owned = np.ascontiguousarray(values, dtype=np.float32)
    owned = owned if owned is not values else owned.copy()
    target.copy_(torch.from_numpy(np.require(owned, requirements="W")).view(target.shape))


def _scale_behind(net: WeightsTarget, norm: Step) -> Step | None:
    """The Scale layer with one bottom that reads this BatchNorm's top first, if there is one."""
    after = net.steps[net.steps.index(norm) + 1 :]
    for step in after:
        if norm.tops[0] in step.bottoms:
            plain = step.node.type == "Scale" and len(step.bottoms) == 1
            return step if plain else None
    return None


def _norm_factors(net: WeightsTarget, weights: Weights, targets: dict[str, Step]) -> None:
    """NVIDIA's BatchNorm stores the statistics themselves: divide a BVLC file's sums."""
    if net.profile.batch_norm != "averages":
        return
    for entry in weights.layers:
        step = targets.get(entry.name)
        if step is None or step.node.type != "BatchNorm" or len(entry.blobs) < 3:
            continue
        mean, variance, factor = raw_blobs(step.layer)[:3]
        with torch.no_grad():
            safe = torch.where(factor == 0, torch.ones_like(factor), factor)
            mean.div_(safe)
            variance.div_(safe)
            factor.fill_(1)
