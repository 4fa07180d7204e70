"""Outputs that select rows: both what they select from and how they select it are compared.

DetectionOutput sorts by score. Where two scores are one float32 apart, two right runs order their
rows otherwise, and a box may suppress another one. The bottoms have no such leaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model
from caffeio.converters.onnx.told import told_layers
from caffeio.net.net import Net
from caffeio.net.step import Step

_PREFIX = "caffeio:selected:"


@dataclass
class Bottom:
    """One bottom of the layer: its blob, and the numbers of the net and of the model."""

    blob: str
    mine: Array
    theirs: Array


def selecting(net: Net, blob: str) -> Step | None:
    """The layer that makes a blob, if the data say how many rows it has."""
    maker = next((step for step in reversed(net.steps) if blob in step.tops), None)
    return maker if maker is not None and maker.layer.dynamic else None


def with_bottoms(model: Model) -> Model:
    """The model with the values that its metadata's layers read as further outputs."""
    graph, found = model.graph, {}
    outputs = {item.name for item in graph.output}
    known = {item.name for item in (*graph.input, *graph.initializer)} | set(model.weights)
    known |= {name for node in graph.node for name in node.output}
    for told in told_layers(model.proto):
        for output in outputs.intersection(told.tops) if known.issuperset(told.bottoms) else ():
            for index, value in enumerate(told.bottoms):
                found[f"{_PREFIX}{index}:{output}"] = value
    return model.with_outputs(found)


def bottoms_of(
    net: Net, step: Step, theirs: Mapping[str, Array], output: str
) -> list[Bottom] | None:
    """What a layer selects from; None if the model does not show all of it."""
    out = []
    for index, blob in enumerate(step.bottoms):
        wanted = theirs.get(f"{_PREFIX}{index}:{output}")
        mine = net.blobs[blob].detach().numpy()
        if wanted is None or wanted.size != mine.size:
            return None
        out.append(Bottom(blob, mine, np.asarray(wanted).reshape(mine.shape)))
    return out


def selected(step: Step, blob: str, bottoms: list[Bottom]) -> Array:
    """The rows that the net's layer selects from the model's numbers."""
    with torch.no_grad():
        made = step.layer(*(torch.from_numpy(np.array(one.theirs)) for one in bottoms))
    tops = made if isinstance(made, tuple | list) else (made,)
    rows: Array = tops[step.tops.index(blob)].numpy()
    return rows
