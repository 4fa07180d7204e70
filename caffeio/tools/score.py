"""Scoring of models: what `caffe test` prints, and ensembles of several models.

Source: tools/caffe.cpp (test). An ensemble's class probabilities are the mean of its members'.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from caffeio.data import Options
from caffeio.errors import NetError
from caffeio.log.glog import NULL_LOG, Log, stream_float
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.net.step import Step
from caffeio.profiles import Profile
from caffeio.proto.io.opened import opened_once
from caffeio.proto.weights.load import load_weights
from caffeio.training.distributed import ALONE, World
from caffeio.training.net_lines import (
    log_filtering,
    log_folding_of_weights,
    log_net,
    log_upgrade,
    log_upgrade_of_weights,
)
from caffeio.training.training_net import build_net

_SCORED = ("SoftmaxWithLoss", "Softmax", "Accuracy")


@dataclass
class Score:
    """The means over all batches of one model, or of an ensemble."""

    title: str
    loss: float
    outputs: dict[str, np.ndarray]  # by blob name; float32
    batches: list[dict[str, np.ndarray]] = field(default_factory=list)


@opened_once()
def score(
    model: str | os.PathLike[str] | NetRecipe,
    weights: Sequence[str | os.PathLike[str]],
    *,
    iterations: int = 50,
    overrides: Sequence[str] = (),
    profile: str | Profile | None = None,
    world: World = ALONE,
    stages: Sequence[str] = (),
    level: int = 0,
    log: Log = NULL_LOG,
    allow_python: bool = False,
    data_options: Options | None = None,
    ignore_unknown: bool = False,
) -> list[Score]:
    """Score each of `weights` on the same `iterations` batches, and all together if several.

    `model` may be a recipe, which was read with options of its own: `overrides`, `profile`,
    `stages`, `level`, `allow_python` and `ignore_unknown` do not count then. Returns one Score a
    weights file, in order, then the ensemble's. Raises CaffeIOError.
    """
    recipe = model if isinstance(model, NetRecipe) else NetRecipe.of_tool(
        model, phase="TEST", level=level, stages=stages, profile=profile, overrides=overrides,
        allow_python=allow_python, ignore_unknown=ignore_unknown,
    )  # fmt: skip
    log_upgrade(log, recipe.upgrade_log)
    log_filtering(log, recipe.message, recipe.state)
    nets = [build_net(recipe, world=world, data=data_options or Options())]
    try:
        nets += [build_net(recipe, world=world) for _ in weights[1:]]
        _load_weights(nets, weights, recipe, log)
        return _score_batches(nets, [os.fspath(path) for path in weights], iterations, log)
    finally:
        nets[0].close()


def _load_weights(
    nets: Sequence[Net],
    weights: Sequence[str | os.PathLike[str]],
    recipe: NetRecipe,
    log: Log,
) -> None:
    """A file for each net; the log shows the first net only."""
    for i, (net, path) in enumerate(zip(nets, weights, strict=True)):
        if i == 0:
            log_net(log, net, recipe)
        log_upgrade_of_weights(log, path, recipe.profile)
        log_folding_of_weights(log, path, net)
        for ignored in net.copy_trained_layers_from(load_weights(path)):
            log.info("net.cpp:744", f"Ignoring source layer {ignored}")


def _score_batches(
    nets: Sequence[Net], titles: Sequence[str], iterations: int, log: Log
) -> list[Score]:
    """Feed the first net's data to all of them, batch by batch."""
    ends = _ends(nets[0]) if len(nets) > 1 else []
    for net in nets:
        net.keep_blobs = len(nets) > 1
        net.prepare(not net.keep_blobs)
    names = [*titles, *(["ensemble of the " + str(len(nets)) + " models"] if ends else [])]
    losses = [[0.0] for _ in names]
    batches: list[list[dict[str, np.ndarray]]] = [[] for _ in names]
    for _ in range(iterations):
        data = nets[0].read_inputs()
        with torch.no_grad():
            results = [(net(data), net.loss) for net in nets]
            if ends:
                results.append(_ensemble(nets, ends))
        for i, (outputs, loss) in enumerate(results):
            losses[i].append(float(loss))
            batches[i].append({k: v.float().cpu().numpy() for k, v in outputs.items()})
    scores = []
    for title, sums, rows in zip(names, losses, batches, strict=True):
        scores.append(_log_scores(nets[0], title, sums, rows, log, alone=len(names) == 1))
    return scores


def _log_scores(
    net: Net,
    title: str,
    losses: Sequence[float],
    rows: list[dict[str, np.ndarray]],
    log: Log,
    *,
    alone: bool,
) -> Score:
    if not alone:
        log.info("caffe.cpp:281", f"Scoring {title}")
    log.info("caffe.cpp:281", f"Running for {len(rows)} iterations.")
    sums: dict[str, np.ndarray] = {}
    for i, row in enumerate(rows):
        for name, value in row.items():
            for element in value.reshape(-1):
                log.info("caffe.cpp:304", f"Batch {i}, {name} = {stream_float(float(element))}")
            sums[name] = value.copy() if name not in sums else sums[name] + value
    count = np.float32(len(rows))
    total = np.float32(0)
    for loss in losses:
        total += np.float32(loss)
    # 0 / 0 of an x86 processor, and of glog's print, has a sign
    mean_loss = float(total / count) if count else -math.nan
    log.info("caffe.cpp:309", f"Loss: {stream_float(mean_loss)}")
    means = {name: value / count for name, value in sums.items()}
    for name, value in means.items():
        weight = net.loss_weight_of(name)
        for element in value.reshape(-1):
            text = f"{name} = {stream_float(float(element))}"
            if weight:
                product = stream_float(float(np.float32(weight) * element))
                text += f" (* {stream_float(weight)} = {product} loss)"
            log.info("caffe.cpp:321", text)
    return Score(title, mean_loss, means, rows)


# -- ensembles ---------------------------------------------------------------------------------


def _ends(net: Net) -> list[Step]:
    """The layers that score class probabilities: an ensemble runs these on the mean."""
    outputs = set(net.outputs)
    ends = [
        step
        for step in net.steps
        if step.node.type in _SCORED and step.tops and outputs.issuperset(step.tops)
    ]
    if not ends:
        raise NetError(
            "an ensemble needs class probabilities: no output of this net comes from a layer of "
            f"type {', '.join(_SCORED)}"
        )
    return ends


def _ensemble(nets: Sequence[Net], ends: Sequence[Step]) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs and loss of the scoring layers on the members' mean class probabilities."""
    outputs: dict[str, Tensor] = {}
    loss = torch.zeros(())
    for step in ends:
        scores = [net.blobs[step.bottoms[0]] for net in nets]
        axis = step.node.param.softmax_param.axis
        if step.node.type == "Accuracy":
            axis = step.node.param.accuracy_param.axis
        given = _makes_probabilities(nets[0], step.bottoms[0])
        parts = scores if given else [torch.softmax(s, dim=axis) for s in scores]
        mean = torch.stack(parts).mean(0)
        if step.node.type == "Softmax" and not given:
            tops: tuple[Tensor, ...] = (mean,)
        else:
            first = mean if step.node.type == "Accuracy" else mean.log()
            rest = [nets[0].blobs[name] for name in step.bottoms[1:]]
            result = step.layer(first, *rest)
            tops = result if isinstance(result, tuple) else (result,)
        for name, value, weight in zip(step.tops, tops, step.loss_weights, strict=True):
            outputs[name] = value
            if weight:
                loss = loss + weight * value.sum()
    return {name: outputs[name] for name in nets[0].outputs if name in outputs}, loss


def _makes_probabilities(net: Net, blob: str) -> bool:
    """Whether a Softmax layer makes `blob` (looking through splits)."""
    for step in reversed(net.steps):
        if blob in step.tops:
            if step.node.type == "Split":
                return _makes_probabilities(net, step.bottoms[0])
            return step.node.type == "Softmax"
    return False
