"""Builds the nets of a training, with the lines that Caffe logs meanwhile.

Source: src/caffe/solver.cpp (Init, InitTrainNet, InitTestNets), tools/caffe.cpp (CopyLayers).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from caffeio.boost_random import CaffeRng
from caffeio.data import Options
from caffeio.log.glog import Log
from caffeio.net.named_tensors import weights_for
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.net.step import raw_blobs
from caffeio.net.worker_batch import share_batches
from caffeio.proto.io.opened import opened_once
from caffeio.proto.text.text_format import format_message
from caffeio.proto.weights.load import Weights, load_weights
from caffeio.training.distributed import World
from caffeio.training.job import Job
from caffeio.training.net_lines import (
    log_filtering,
    log_folding_of_weights,
    log_net,
    log_upgrade,
    log_upgrade_of_weights,
)
from caffeio.training.training_net import build_net


def log_start(job: Job, world: World, log: Log, *, hint: bool) -> None:
    """What the tool and the solver log before they build anything.

    `hint`: given where no device was chosen: then an idle GPU is named.
    """
    if not log:
        return
    for level, line in job.upgrade_log:
        log.write(level, "upgrade_proto.cpp:1108", line)
    log_device(log, world)
    log.note(f"Numbers of Caffe {job.profile.name!r} (--caffe chooses another)")
    if hint and world.device.type == "cpu" and torch.cuda.is_available():
        log.note("A GPU stands idle: --device cuda trains on it")
    if world.size > 1 and job.profile.divides_batch:
        log.note(f"batch_size is that of all {world.size} workers together: each takes its part")
    for line in job.notes:
        log.note(line, level="W")
    text = "Initializing solver from parameters: \n"
    log.info("solver.cpp:45", text + format_message(job.param, dialect=job.dialect))


def log_device(log: Log, world: World) -> None:
    """CPU, or the GPUs of this machine's workers and their names."""
    if world.device.type == "cpu":
        log.info("caffe.cpp:197", "Use CPU.")
        return
    first = world.device.index or 0
    last = min(first + world.size, torch.cuda.device_count())
    log.info("caffe.cpp:204", f"Using GPUs {', '.join(map(str, range(first, last)))}")
    for i in range(first, last):
        log.info("caffe.cpp:209", f"GPU {i}: {torch.cuda.get_device_name(i)}")


@dataclass
class Nets:
    """The nets of a training, weights loaded and shared; `closing` closes their sources."""

    train: Net
    tests: list[Net]
    closing: ExitStack


@dataclass
class NetBuilder:
    """Builds the nets of one job."""

    job: Job
    world: World
    log: Log
    rng: CaffeRng | None
    data: Options

    @opened_once()
    def build(self) -> Nets:
        """The training net, then the test nets. Raises CaffeIOError; no source is open then."""
        job, log = self.job, self.log
        fill_placeholders(job, self.world)
        weights = [(name, job.find_weights(name)) for name in job.weights]
        early = job.profile.weights_in_solver
        text = "specified in {}." if job.train.inline else "from {}"
        log.info("solver.cpp:102", f"Creating training net {text.format(job.train.title)}")
        with ExitStack() as opened:
            train = self._net(job.train, opened)
            loaded = [(name, path, load_weights(path)) for name, path in weights]
            if early:
                self._finetune([train], loaded)
            tests = []
            for i, recipe in enumerate(job.tests):
                log.info("solver.cpp:190", f"Creating test net (#{i}) specified by {recipe.title}")
                tests.append(self._net(recipe, opened))
                if early:
                    self._finetune(tests[-1:], loaded)
            log.info("solver.cpp:57", "Solver scaffolding done.")
            if not early:
                self._finetune([train, *tests], loaded)
            self.share(train, tests)
            return Nets(train, tests, opened.pop_all())

    def make(self, recipe: NetRecipe) -> Net:
        """Build one net."""
        debug = recipe.message.debug_info or self.job.param.debug_info
        return build_net(recipe, world=self.world, rng=self.rng, data=self.data, fuse=not debug)

    def share(self, train: Net, tests: Sequence[Net]) -> None:
        """Let the test nets use the training net's tensors."""
        for net in tests:
            net.share_trained_layers_with(train)

    def own_batches(self, recipe: NetRecipe) -> NetRecipe:
        """Divide the batches by the workers, where a net's are those of all of them."""
        return share_batches(recipe, self.world.size)

    def _net(self, recipe: NetRecipe, opened: ExitStack) -> Net:
        recipe = self.own_batches(recipe)
        log_upgrade(self.log, recipe.upgrade_log)
        log_filtering(self.log, recipe.message, recipe.state)
        net = self.make(recipe)
        opened.enter_context(net)
        log_net(self.log, net, recipe)
        return net

    def _finetune(self, nets: Sequence[Net], loaded: Sequence[tuple[str, str, Weights]]) -> None:
        """Copy the files into the nets, as BVLC does for each net, Intel's and NVIDIA's for all."""
        log, profile = self.log, self.job.profile
        if loaded and nets[0].phase == "TRAIN" and (left := _not_in(loaded, nets[0])):
            log.note(f"Not in the file, start from their fillers: {', '.join(left)}")
        for name, path, weights in loaded:
            place = "solver.cpp:72" if profile.weights_in_solver else "caffe.cpp:219"
            log.info(place, f"Finetuning from {name}")
            for net in nets:
                log_upgrade_of_weights(log, path, profile)
                log_folding_of_weights(log, path, net)
                for ignored in net.copy_trained_layers_from(weights):
                    log.info("net.cpp:744", f"Ignoring source layer {ignored}")


def _not_in(loaded: Sequence[tuple[str, str, Weights]], net: Net) -> list[str]:
    """The layers with a blob that no file gives: neither under their name, nor to a sharer."""
    found = {name for _, _, given in loaded for name in weights_for(net, given)}
    blobs = [(step.node.name, {id(blob) for blob in raw_blobs(step.layer)}) for step in net.steps]
    given = set[int]().union(*(ids for name, ids in blobs if name in found))
    return [name for name, ids in blobs if name not in found and ids - given]


def fill_placeholders(job: Job, world: World) -> None:
    """Intel's multi-node paths: %# is this worker's number, %* how many there are."""
    if not job.profile.worker_in_paths:
        return
    param = job.param

    def filled(text: str) -> str:
        return text.replace("%#", str(world.rank)).replace("%*", str(world.size))

    if param.snapshot_prefix:
        param.snapshot_prefix = filled(param.snapshot_prefix)
    for spec in job.specs:
        for layer in spec.message.layer:
            for source in (layer.data_param, layer.image_data_param, layer.hdf5_data_param):
                if "%" in source.source:
                    source.source = filled(source.source)
