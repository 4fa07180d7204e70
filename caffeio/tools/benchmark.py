"""Layer by layer timing, as `caffe time` does it. Source: tools/caffe.cpp (time)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from caffeio.data import Options
from caffeio.log.glog import NULL_LOG, Log, stream_float
from caffeio.net.net import Net, Step
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import Profile
from caffeio.training.net_lines import log_filtering, log_net, log_upgrade


@dataclass
class LayerTime:
    """Mean milliseconds of one layer, and what it made in them."""

    name: str
    type: str
    forward: float
    backward: float
    top_shapes: list[list[int]] = field(default_factory=list)
    parameters: int = 0  # values in its blobs
    macs: int = 0  # multiply-accumulates of one forward pass


@dataclass
class Timing:
    """Mean milliseconds of a net, and the images that one batch holds."""

    layers: list[LayerTime]
    forward: float
    backward: float
    total: float
    images: int
    parameters: int = 0  # of the whole net, shared ones once
    macs: int = 0

    @property
    def images_per_s(self) -> float:
        """Images a second through forward and backward together."""
        both = self.forward + self.backward
        return 1000 * self.images / both if both else 0.0


def time_net(
    model: str | os.PathLike[str] | NetRecipe,
    *,
    iterations: int = 50,
    phase: str = "TRAIN",
    profile: str | Profile | None = None,
    stages: Sequence[str] = (),
    level: int = 0,
    device: str = "cpu",
    log: Log = NULL_LOG,
    allow_python: bool = False,
    synthetic: bool = False,
    ignore_unknown: bool = False,
) -> Timing:
    """Run `iterations` forward and backward passes, layer by layer.

    Data layers read their source, as in Caffe; with `synthetic` they are fed with noise of the
    shape they have, or would have. Input layers always are. `model` may be a recipe, which was
    read with options of its own. Raises CaffeIOError, ValueError for no iterations.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, not {iterations}")
    recipe = model if isinstance(model, NetRecipe) else NetRecipe.of_tool(
        model, phase=phase, level=level, stages=stages, profile=profile,
        allow_python=allow_python, ignore_unknown=ignore_unknown,
    )  # fmt: skip
    data = Options(device=torch.device(device))
    with recipe.build(device=device, data=data, missing_data_ok=True) as net:
        log_upgrade(log, recipe.upgrade_log)
        log_filtering(log, recipe.message, recipe.state)
        log_net(log, net, recipe)
        if not synthetic:
            for error in net.source_errors.values():
                hint = "To time the net on noise instead: --synthetic"
                raise type(error)(f"{error.message}. {hint}", where=error.where)
        return _time(net, fake_data(net, device, synthetic), iterations, device, log)


def _time(net: Net, data: dict[str, Tensor], iterations: int, device: str, log: Log) -> Timing:
    log.info("caffe.cpp:351", "Performing Forward")
    net(data)
    log.info("caffe.cpp:356", f"Initial loss: {stream_float(net.loss.item())}")
    log.info("caffe.cpp:357", "Performing Backward")
    _pass(net, _same_batch(net, data), [0.0] * len(net.steps), [0.0] * len(net.steps), device)
    log.info("caffe.cpp:365", "*** Benchmark begins ***")
    log.info("caffe.cpp:366", f"Testing for {iterations} iterations.")
    forward, backward = [0.0] * len(net.steps), [0.0] * len(net.steps)
    started = time.perf_counter()
    for i in range(iterations):
        begin = time.perf_counter()
        _pass(net, data, forward, backward, device)
        spent = 1000 * (time.perf_counter() - begin)
        log.info(
            "caffe.cpp:394", f"Iteration: {i + 1} forward-backward time: {stream_float(spent)} ms."
        )
    total = 1000 * (time.perf_counter() - started)
    return _log_timing(net, forward, backward, total, iterations, log)


def _same_batch(net: Net, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """`data`, and what the data layers read for the forward that was just run."""
    tops = [top for step in net.steps if step.layer.is_source for top in step.tops]
    return {top: net.blobs[top].detach() for top in tops if top in net.blobs} | data


def fake_data(net: Net, device: str, synthetic: bool) -> dict[str, Tensor]:
    """Noise for inputs (and data tops), zeros for what looks like a label (fewer than 3 axes)."""
    data = {}
    for step in net.steps:
        if step.layer.is_source and (synthetic or step.node.key not in net.sources):
            for top, shape in zip(step.tops, step.layer.top_shapes, strict=True):
                like = torch.randn if len(shape) > 2 else torch.zeros
                data[top] = like(shape, device=device)
    return data


def _sync(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _clock(work: Callable[[], object], device: str) -> float:
    _sync(device)
    begin = time.perf_counter()
    work()
    _sync(device)
    return 1000 * (time.perf_counter() - begin)


def _pass(
    net: Net, data: dict[str, Tensor], forward: list[float], backward: list[float], device: str
) -> None:
    """One forward and backward through every layer, each layer a graph of its own."""
    blobs: dict[str, Tensor] = {}
    graphs: list[tuple[list[Tensor], list[Tensor]]] = []
    for i, step in enumerate(net.steps):
        bottoms = [_leaf(blobs[name], step) for name in step.bottoms]
        tops: list[Tensor] = []
        forward[i] += _clock(partial(_run_step, net, step, bottoms, tops, data), device)
        graphs.append((bottoms, tops))
        for name, value in zip(step.tops, tops, strict=True):
            blobs[name] = value.detach()
    for i in range(len(net.steps) - 1, -1, -1):
        roots = [top for top in graphs[i][1] if top.requires_grad and top.grad_fn is not None]
        if roots:
            ones = [torch.ones_like(top) for top in roots]
            backward[i] += _clock(partial(torch.autograd.backward, roots, ones), device)


def _leaf(blob: Tensor, step: Step) -> Tensor:
    return blob.detach().requires_grad_(step.layer.differentiable and blob.is_floating_point())


def _run_step(
    net: Net, step: Step, bottoms: list[Tensor], tops: list[Tensor], data: dict[str, Tensor]
) -> None:
    if step.layer.is_source:
        tops += net.read_data(step, data)
    elif step.node.type == "Split":
        tops += [bottoms[0].view_as(bottoms[0]) for _ in step.tops]
    else:
        result = step.layer(*bottoms)
        tops += result if isinstance(result, tuple) else (result,)


def layer_facts(step: Step, forward: float = 0.0, backward: float = 0.0) -> LayerTime:
    """Make the row of a layer of a built net."""
    layer = step.layer
    return LayerTime(
        step.node.name, step.node.type, forward, backward,
        [list(shape) for shape in layer.top_shapes],
        sum(blob.numel() for blob in layer.blobs),
        layer.macs(),
    )  # fmt: skip


def _log_timing(
    net: Net, forward: list[float], backward: list[float], total: float, n: int, log: Log
) -> Timing:
    rows = []
    log.info("caffe.cpp:397", "Average time per layer: ")
    for step, f, b in zip(net.steps, forward, backward, strict=True):
        name = step.node.name
        rows.append(layer_facts(step, f / n, b / n))
        log.info("caffe.cpp:400", f"{name:>10}\tforward: {stream_float(f / n)} ms.")
        log.info("caffe.cpp:403", f"{name:>10}\tbackward: {stream_float(b / n)} ms.")
    images = next((s[0][0] for s in (x.layer.top_shapes for x in net.steps) if s and s[0]), 0)
    timing = Timing(
        rows, sum(forward) / n, sum(backward) / n, total, images,
        parameters=sum(item.tensor.numel() for item in net.learnable),
        macs=sum(row.macs for row in rows),
    )  # fmt: skip
    log.info("caffe.cpp:408", f"Average Forward pass: {stream_float(timing.forward)} ms.")
    log.info("caffe.cpp:410", f"Average Backward pass: {stream_float(timing.backward)} ms.")
    log.info("caffe.cpp:412", f"Average Forward-Backward: {stream_float(total / n)} ms.")
    log.info("caffe.cpp:414", f"Total Time: {stream_float(total)} ms.")
    log.info("caffe.cpp:415", "*** Benchmark ends ***")
    return timing
