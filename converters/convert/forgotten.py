"""Weights that were forgotten on the command line: told before torch is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffeio.converters.report.model import count, listed
from caffeio.converters.request import Request
from caffeio.errors import UnsupportedError
from caffeio.layers.base import SAME_AGAIN
from caffeio.layers.registry import find
from caffeio.net.graph import is_included, net_state
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net


def refuse_forgotten_weights(path: Path, request: Request) -> None:
    """Raise UnsupportedError for a net whose layers have learned weights, given without any."""
    if request.untrained or request.input_blob or request.output_blob:
        return
    net = read_net(path, dialect=request.dialect).message
    state = net_state(net, "TEST", request.level, request.stage)
    names = [layer.name for layer in net.layer if is_included(layer, state) and _is_learned(layer)]
    if names:
        have = "has some" if len(names) == 1 else "have some"
        raise UnsupportedError(
            f"no weights are given, and {count(len(names), 'layer')} {have} ({listed(names)}): "
            "give the weights' file too, or say --untrained"
        )


def _is_learned(layer: pb.LayerParameter) -> bool:
    """Whether a layer's first blob is what only a training makes, and the text does not hold it.

    All that a net lacks is counted when it is built (deploy_net.py); this is about files that
    nobody meant, so only a `weight_filler` is looked at, where the type's message has one.
    """
    kind = find(layer.type)
    if kind is None or not kind.has_blobs or layer.blobs:
        return False
    for message in kind.fields:
        param = getattr(layer, message)
        if "weight_filler" in param.DESCRIPTOR.fields_by_name:
            return _is_random_or_zero(param)
    return False


def _is_random_or_zero(param: Any) -> bool:
    filler = param.weight_filler
    if not param.HasField("weight_filler"):
        return True  # all 0
    return filler.type not in SAME_AGAIN or (filler.type == "constant" and filler.value == 0)
