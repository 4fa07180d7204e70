"""build_net: makes a Net out of a NetRecipe and opens its data sources."""

from __future__ import annotations

from dataclasses import replace

import torch

from caffeio.boost_random import CaffeRng
from caffeio.data import Options
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.net.step import raw_blobs
from caffeio.training.distributed import World


def build_net(
    recipe: NetRecipe,
    *,
    world: World,
    rng: CaffeRng | None = None,
    data: Options | None = None,
    fuse: bool = True,
) -> Net:
    """Build the net on the world's device, and prepare it for many fast iterations.

    `fuse` joins BatchNorm + Scale (+ ReLU); debug_info needs them apart.
    `data` says how the sources are read, apart from this worker's share and device, which are
    filled in; without it none is opened, and their tops must be given to every forward.
    With `rng` everything random is drawn from Caffe's own generator, in Caffe's order.
    """
    if data is not None:
        data = replace(data, rank=world.rank, world=world.size, device=world.device)
    net = recipe.build(device=world.device, rng=rng, data=data)
    if net.phase == "TRAIN":
        _freeze_unreached(net)
    if _is_vision(net):
        net._apply(_channels_last)
    if fuse:
        net.fuse()
    net.keep_blobs = False
    return net


def _channels_last(blob: torch.Tensor) -> torch.Tensor:
    """A blob of four axes with its channels last in memory; nn.Module.to raises at five axes."""
    return blob.to(memory_format=torch.channels_last) if blob.dim() == 4 else blob


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
