"""A net of a solver with its data attached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from caffeio.boost_random import CaffeRng
from caffeio.net.graph import build_graph
from caffeio.net.net import Net, open_sources
from caffeio.net.step import raw_blobs
from caffeio.profiles import Profile
from caffeio.training.distributed import World
from caffeio.training.net_specs import NetSpec


def build_net(
    spec: NetSpec,
    *,
    profile: Profile,
    world: World,
    rng: CaffeRng | None = None,
    allow_python: bool = False,
    data_options: Mapping[str, Any] | None = None,
    with_sources: bool = True,
    fuse: bool = True,
) -> Net:
    """Open the data sources, build the net on the world's device and fill its blobs.

    `fuse` joins BatchNorm + Scale (+ ReLU); debug_info needs them apart.
    Without `with_sources` the data must be given to every forward.
    With `rng` everything random is drawn from Caffe's own generator, in Caffe's order.
    """
    graph = build_graph(
        spec.message,
        state=spec.state,
        where=spec.where,
        merge_scales=profile.merge_batch_norm_scale,
    )
    sources = {}
    if with_sources:
        sources = open_sources(
            graph,
            profile,
            spec.search_path,
            rank=world.rank,
            world=world.size,
            device=world.device,
            **(data_options or {}),
        )
    try:
        net = Net(
            graph,
            profile=profile,
            sources=sources,
            allow_python=allow_python,
            search_path=spec.search_path,
        )
        net.materialize(world.device, rng)
    except BaseException:
        for source in sources.values():
            source.close()
        raise
    if graph.phase == "TRAIN":
        _freeze_unreached(net)
    if _is_vision(net):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if fuse:
        net.fuse()
    net.keep_blobs = False
    return net


def _freeze_unreached(net: Net) -> None:
    """Params of layers that no loss sees get no gradient: Caffe does not run them backward."""
    reached = {
        id(blob)
        for step in net.steps
        if step.needs_backward or net.graph.force_backward
        for blob in raw_blobs(step.layer)
    }
    for item in net.learnable:
        if id(item.tensor) not in reached:
            item.tensor.requires_grad_(False)


def _is_vision(net: Net) -> bool:
    """Whether channels-last pays: the net convolves images.

    Not where layers read an owner's blob in another shape: that needs its plain layout.
    """
    viewed = any(step.layer.blobs.has_views for step in net.steps)
    return not viewed and any(kind == "Convolution" for kind in net.layer_types)
