"""Builds the nets of a trainer, with the lines that Caffe logs meanwhile.

Source: src/caffe/solver.cpp (Init, InitTrainNet, InitTestNets), tools/caffe.cpp (CopyLayers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from caffeio.data import Options
from caffeio.log.glog import Log
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.proto.text.text_format import format_message
from caffeio.proto.weights.load import Weights, load_weights
from caffeio.training.net_lines import (
    log_filtering,
    log_folding_of_weights,
    log_net,
    log_upgrade,
    log_upgrade_of_weights,
)

if TYPE_CHECKING:
    from caffeio.training.distributed import World
    from caffeio.training.trainer import Trainer


def log_start(trainer: Trainer, *, hint: bool) -> None:
    """What the tool and the solver log before they build anything.

    `hint`: nobody chose the device, so an idle GPU is worth a word.
    """
    log, job = trainer.log, trainer.job
    if not log:
        return
    for level, line in job.upgrade_log:
        log.write(level, "upgrade_proto.cpp:1108", line)
    log_device(log, trainer.world)
    log.note(f"Numbers of Caffe {job.profile.name!r} (--caffe chooses another)")
    if hint and trainer.world.device.type == "cpu" and torch.cuda.is_available():
        log.note("A GPU stands idle: --device cuda trains on it")
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


def build_nets(trainer: Trainer, *, allow_python: bool, data: Options) -> None:
    """Set `trainer.net` and `.test_nets`, weights loaded and shared."""
    job, log = trainer.job, trainer.log
    fill_placeholders(trainer)
    weights = [(name, job.find_weights(name)) for name in job.weights]
    early = job.profile.weights_in_solver
    text = "specified in {}." if job.train.inline else "from {}"
    log.info("solver.cpp:102", f"Creating training net {text.format(job.train.title)}")
    train = replace(job.train, allow_python=allow_python)
    trainer.net = _make(trainer, train, data)
    loaded = [(name, path, load_weights(path)) for name, path in weights]
    if early:
        _finetune(trainer, [trainer.net], loaded)
    for i, spec in enumerate(job.tests):
        log.info("solver.cpp:190", f"Creating test net (#{i}) specified by {spec.title}")
        net = _make(trainer, replace(spec, allow_python=allow_python), data)
        if early:
            _finetune(trainer, [net], loaded)
        trainer.test_nets.append(net)
    log.info("solver.cpp:57", "Solver scaffolding done.")
    if not early:
        _finetune(trainer, [trainer.net, *trainer.test_nets], loaded)
    trainer.share_with_tests()


def _make(trainer: Trainer, spec: NetRecipe, data: Options) -> Net:
    log_upgrade(trainer.log, spec.upgrade_log)
    log_filtering(trainer.log, spec.message, spec.state)
    debug = spec.message.debug_info or trainer.param.debug_info
    net = trainer.make_net(spec, data, fuse=not debug)
    trainer._nets.append(net)
    log_net(trainer.log, net, spec)
    return net


def _finetune(
    trainer: Trainer, nets: Sequence[Net], loaded: Sequence[tuple[str, str, Weights]]
) -> None:
    """Copy the files into the nets, as BVLC does for each net, Intel's and NVIDIA's for all."""
    log, profile = trainer.log, trainer.profile
    for name, path, weights in loaded:
        place = "solver.cpp:72" if profile.weights_in_solver else "caffe.cpp:219"
        log.info(place, f"Finetuning from {name}")
        for net in nets:
            log_upgrade_of_weights(log, path, profile)
            log_folding_of_weights(log, path, net)
            for ignored in net.copy_trained_layers_from(weights):
                log.info("net.cpp:744", f"Ignoring source layer {ignored}")


def fill_placeholders(trainer: Trainer) -> None:
    """Intel's multi-node paths: %# is this worker's number, %* how many there are."""
    if not trainer.profile.tests_on_all_workers:
        return
    world, param = trainer.world, trainer.param

    def filled(text: str) -> str:
        return text.replace("%#", str(world.rank)).replace("%*", str(world.size))

    if param.snapshot_prefix:
        param.snapshot_prefix = filled(param.snapshot_prefix)
    for spec in trainer.job.specs:
        for layer in spec.message.layer:
            for source in (layer.data_param, layer.image_data_param, layer.hdf5_data_param):
                if "%" in source.source:
                    source.source = filled(source.source)
