"""What real Caffe logs while it builds a net. Source: src/caffe/net.cpp (Net::Init)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

from caffeio.errors import CaffeIOError
from caffeio.graph import is_included, state_meets_rule
from caffeio.log import Log
from caffeio.net import Net, Step
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.text import format_message
from caffeio.steps import AUTOMATIC

# Layers that make another layer through the factory while they are set up: one more line each.
_INNER = {"SoftmaxWithLoss": lambda p: True, "InfogainLoss": lambda p: True}


def log_filtering(log: Log, net: pb.NetParameter, state: pb.NetState) -> None:
    """The lines of FilterNet: why a rule is not met."""
    if not log:
        return
    for layer in net.layer:
        rules: Iterable[pb.NetStateRule] = layer.include or layer.exclude
        for rule in rules:
            if state_meets_rule(state, rule):
                break
            log.info("net.cpp:296", _unmet(layer.name, rule, state))


def log_upgrade(log: Log, lines: Iterable[tuple[str, str]]) -> None:
    """What UpgradeNetAsNeeded says; each line comes with its severity."""
    for level, text in lines:
        log.write(level, "upgrade_proto.cpp:79", text)


def log_upgrade_of_weights(log: Log, path: str | os.PathLike[str], profile: Profile) -> None:
    """The same for the net inside a binary weights file, which Caffe upgrades too."""
    if not log or not profile.upgrades_batch_norm or os.fspath(path).endswith(".h5"):
        return
    try:
        upgraded = read_net(path).upgraded
    except CaffeIOError:
        return  # only the weights matter: a net of an unclear dialect is none of our business
    log_upgrade(log, upgraded.log if upgraded else [])


def _unmet(name: str, rule: pb.NetStateRule, state: pb.NetState) -> str:
    if rule.HasField("phase") and rule.phase != state.phase:
        return (
            f"The NetState phase ({state.phase}) differed from the phase ({rule.phase}) "
            f"specified by a rule in layer {name}"
        )
    if rule.HasField("min_level") and state.level < rule.min_level:
        return (
            f"The NetState level ({state.level}) is above the min_level ({rule.min_level}) "
            f"specified by a rule in layer {name}"
        )
    if rule.HasField("max_level") and state.level > rule.max_level:
        return (
            f"The NetState level ({state.level}) is above the max_level ({rule.max_level}) "
            f"specified by a rule in layer {name}"
        )
    for stage in rule.stage:
        if stage not in state.stage:
            return (
                f"The NetState did not contain stage '{stage}' specified by a rule in layer {name}"
            )
    stage = next(s for s in rule.not_stage if s in state.stage)
    return f"The NetState contained a not_stage '{stage}' specified by a rule in layer {name}"


def log_net(log: Log, net: Net, message: pb.NetParameter, state: pb.NetState) -> None:
    """All lines of a net's set-up; `message` is the net as it was read, `state` the merged one."""
    if not log:
        return
    filtered = pb.NetParameter()
    filtered.CopyFrom(message)
    filtered.state.CopyFrom(state)
    del filtered.layer[:]
    filtered.layer.extend(layer for layer in message.layer if is_included(layer, state))
    log.info("net.cpp:53", "Initializing net from parameters: \n" + format_message(filtered))
    memory = 0
    for step in net.steps:
        memory = _log_layer(log, net, step, memory)
    for step in reversed(net.steps):
        needs = step.needs_backward
        line = "needs backward computation." if needs else "does not need backward computation."
        log.info("net.cpp:200" if needs else "net.cpp:202", f"{step.node.name} {line}")
    for name in net.outputs:
        log.info("net.cpp:244", f"This network produces output {name}")
    log.info("net.cpp:257", "Network initialization done.")


def _log_layer(log: Log, net: Net, step: Step, memory: int) -> int:
    node, name = step.node, step.node.name
    log.info("layer_factory.hpp:77", f"Creating layer {name}")
    log.info("net.cpp:86", f"Creating Layer {name}")
    for bottom in step.bottoms:
        log.info("net.cpp:408", f"{name} <- {bottom}")
    for i, top in enumerate(step.tops):
        if i in node.in_place:
            log.info("net.cpp:369", f"{name} -> {top} (in-place)")
        else:
            shown = AUTOMATIC if top.startswith(AUTOMATIC) else top
            log.info("net.cpp:382", f"{name} -> {shown}")
    if _makes_inner(node.param):
        log.info("layer_factory.hpp:77", f"Creating layer {name}")
    if node.type in ("Data", "ImageData", "AnnotatedData") and step.layer.top_shapes:
        sizes = ",".join(map(str, step.layer.top_shapes[0]))
        log.info("data_layer.cpp:45", f"output data size: {sizes}")
    log.info("net.cpp:124", f"Setting up {name}")
    for shape, weight in zip(step.layer.top_shapes, step.loss_weights, strict=True):
        count = math.prod(shape)
        log.info("net.cpp:131", "Top shape: " + "".join(f"{n} " for n in shape) + f"({count})")
        if weight:
            log.info("net.cpp:134", f"    with loss weight {weight:g}")
        memory += count
    log.info("net.cpp:139", f"Memory required for data: {memory * 4}")
    for spec in node.param.param:
        owner = net.owner_of(spec.name) if spec.name else None
        if owner is not None and owner[0] is not step:
            log.info(
                "net.cpp:467",
                f"Sharing parameters '{spec.name}' owned by layer '{owner[0].node.name}', "
                f"param index {owner[1]}",
            )
    return memory


def _makes_inner(param: pb.LayerParameter) -> bool:
    if param.type == "Scale":
        return bool(param.scale_param.bias_term)
    return param.type in _INNER
