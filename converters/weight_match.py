"""Weights into a net that can run: what it lacks, and what its fillers make of that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zlib import crc32

import torch

from caffeio.converters.weight_names import Match
from caffeio.fillers import fill
from caffeio.layers.base import SAME_AGAIN
from caffeio.net.copy_weights import mismatches
from caffeio.net.graph import Readers
from caffeio.net.named_tensors import weights_for
from caffeio.net.net import Net
from caffeio.net.step import Step, raw_blobs
from caffeio.proto.weights.load import Weights


def match_weights(net: Net, weights: Weights | None, known: Iterable[str] = ()) -> Match:
    """Hold a net against the weights for it; nothing is copied.

    `known` names layers of the file that are not missed in the net (those of another phase).
    """
    match = Match()
    if weights is not None:
        match.wrong = mismatches(net, weights)
        weights = weights if match.wrong else weights_for(net, weights)
    names = {step.node.name for step in net.steps}
    fed = {} if weights is None else _fed(net, weights)
    for step in net.steps:
        name = step.node.name
        if len(step.layer.blobs) and name not in fed and name not in match.lacking:
            match.lacking[name], useful = _as_filled(step)
            if not useful:
                match.useless.append(name)
    if weights is not None:
        merged = {step.node.merged_scale for step in net.steps}
        taken = {*names, *merged, *known}
        match.unused = list(dict.fromkeys(n for n in weights if n not in taken))
    return match


def fill_in(net: Net, weights: Weights | None, known: Iterable[str] = ()) -> Match:
    """Copy `weights` into a net that has memory; layers that they lack get repeatable numbers.

    What such a layer's fillers draw depends on its name only, so that two nets that share it agree.
    """
    match = match_weights(net, weights, known)
    for step in net.steps:
        if step.node.name not in match.lacking:
            continue
        for i, spec in enumerate(step.layer.blob_specs):
            target = raw_blobs(step.layer)[i]
            if spec.initial is not None or tuple(target.shape) != spec.shape:
                continue
            draws = torch.Generator().manual_seed(crc32(f"{step.node.name}.{i}".encode()))
            with torch.no_grad():
                fill(target, spec.filler, spec.default, draws, owner=step.layer)
    if weights is not None and not match.wrong:
        net.copy_trained_layers_from(weights)
    return match


def _fed(net: Net, weights: Weights) -> dict[str, Any]:
    """The layers that get all their blobs from the file, under their own name or another's."""
    fed: dict[str, Any] = dict.fromkeys(name for name in weights)
    owners = {id(item.tensor): item.layer for item in net.learnable}
    readers = Readers([step.node.param for step in net.steps])
    for i, step in enumerate(net.steps):
        name = step.node.name
        merged = step.node.type == "BatchNorm" and len(step.layer.blobs) == 3
        if merged and len(weights.get(name, ())) > 3:  # the Scale behind takes the rest
            reader = readers.first(step.tops[0], i + 1)
            if reader is not None and net.steps[reader].node.type == "Scale":
                fed[net.steps[reader].node.name] = None
        if name not in fed and len(step.layer.blobs):
            theirs = [owners.get(id(blob)) for blob in raw_blobs(step.layer)]
            if all(owner is not None and owner != name and owner in fed for owner in theirs):
                fed[name] = None
    return fed


def _as_filled(step: Step) -> tuple[str, bool]:
    """What the blobs of a layer hold that no file gives, and whether it can be meant."""
    told: list[str] = []
    useful = []
    for spec in step.layer.blob_specs:
        value = spec.default
        if spec.initial is not None:
            told.append(f"{spec.name} as the layer sets it")
            value = 1.0
        elif spec.filler is None:
            told.append(f"{spec.name} {value:g}")
        elif spec.filler.type == "constant":
            value = spec.filler.value
            told.append(f"{spec.name} {value:g} by its filler")
        elif spec.filler.type in SAME_AGAIN:
            told.append(f"{spec.name} {spec.filler.type} by its filler")
            value = 1.0
        else:
            return f"{spec.name} is drawn at random ({spec.filler.type} filler)", False
        useful.append(value != 0)
    return ", ".join(told), useful[0]  # a bias alone is not what the layer is for
