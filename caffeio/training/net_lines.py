"""What real Caffe logs while it builds a net and loads weights. Source: src/caffe/net.cpp."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence

from caffeio.errors import CaffeIOError
from caffeio.log.glog import Log
from caffeio.net.batch_norm_folding import Folded, fold_batch_norms
from caffeio.net.graph import LayerNode, is_included, state_meets_rule
from caffeio.net.net import Net, Step
from caffeio.net.recipe import NetRecipe
from caffeio.net.step import shown as blob_name
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.text.text_format import format_message
from caffeio.training.source_lines import log_mean_file, log_set_up, log_window_mean, tell_restarts

# Layers that make another layer through the factory while they are set up: one more line each.
_INNER = ("SoftmaxWithLoss", "InfogainLoss")
_SKIPS = (
    "Convolution", "Deconvolution", "BatchNorm", "Bias", "Embed", "InnerProduct", "PReLU", "Scale",
    "Parameter",
)  # fmt: skip
_DATABASES = {pb.DataParameter.LMDB: "lmdb", pb.DataParameter.LEVELDB: "leveldb"}


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
    if log and profile.upgrades_batch_norm and not os.fspath(path).endswith(".h5"):
        net = _net_of_weights(path)
        if net is not None and net.upgraded:
            log_upgrade(log, net.upgraded.log)


def log_folding_of_weights(log: Log, path: str | os.PathLike[str], net: Net) -> None:
    """Intel folds the layers of a weights file as it has folded the net that takes them."""
    folded = folding_of(net)
    if not log or folded is None or os.fspath(path).endswith(".h5"):
        return
    file = _net_of_weights(path)
    if file is not None:
        log_dropped(log, fold_batch_norms(file.message.layer, folded.kept_batch_norms))


def log_sharing(log: Log, net: Net, train: Net) -> None:
    """Name the layers of the train net that the test net does not have, at every test.

    Intel's folded test net cannot share the train net's blobs: it copies them.
    """
    if not log:
        return
    folded = folding_of(net)
    if folded is None or not folded.folds:
        names = {step.node.name for step in net.steps}
        for step in train.steps:
            if step.node.name not in names:
                log.info("net.cpp:676", f"Ignoring source layer {step.node.name}")
        return
    source = [step.node.param for step in train.steps]
    again = fold_batch_norms(source, folded.kept_batch_norms)
    log_dropped(log, again)
    names = {layer.name for layer in folded.layers}
    for layer in again.layers:
        if layer.name not in names:
            log.info("net.cpp:1882", f"Ignoring source layer {layer.name}")


def log_dropped(log: Log, folded: Folded) -> None:
    """One line for each layer that Intel's folding takes away."""
    for name in folded.dropped:
        log.info("remove_batch_norm.cpp:276", f"Dropped Layer: {name}")


def folding_of(net: Net) -> Folded | None:
    """How Intel Caffe would fold this net; None if it would not look."""
    if not net.profile.logs_compiled_net or net.phase != "TEST":
        return None
    return fold_batch_norms([step.node.param for step in net.steps])


def _net_of_weights(path: str | os.PathLike[str]):  # type: ignore[no-untyped-def]
    try:
        return read_net(path)
    except CaffeIOError:
        return None  # only the weights matter: a net of an unclear dialect is none of our business


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


def log_net(log: Log, net: Net, spec: NetRecipe) -> None:
    """All lines of a net's set-up but those of the filtering."""
    if not log:
        return
    steps = _log_parameters(log, net, spec)
    memory = 0
    for step, param in steps:
        memory = _log_layer(log, net, step, param, memory)
    for step, _ in reversed(steps):
        needs = step.logged_backward
        line = "needs backward computation." if needs else "does not need backward computation."
        log.info("net.cpp:200" if needs else "net.cpp:202", f"{step.node.name} {line}")
    for name in net.outputs:
        log.info("net.cpp:244", f"This network produces output {name}")
    log.info("net.cpp:257", "Network initialization done.")


def _log_parameters(log: Log, net: Net, spec: NetRecipe) -> list[tuple[Step, pb.LayerParameter]]:
    """The net as text; returns the layers that the log shows, with their parameters."""
    shown = pb.NetParameter()
    shown.CopyFrom(spec.message)
    shown.state.CopyFrom(spec.state)
    del shown.layer[:]
    title = "Initializing net from parameters: \n"
    if not net.profile.logs_compiled_net:
        shown.layer.extend(la for la in spec.message.layer if is_included(la, spec.state))
        log.info("net.cpp:53", title + format_message(shown, dialect=spec.dialect))
        return [(step, step.node.param) for step in net.steps]
    nodes = spec.graph().nodes
    for node in nodes:
        if node.merged_scale:
            log.info("net.cpp:649", f"Dropped layer: {node.merged_scale}")
    compiled = shown.compile_net_state
    layers: Sequence[pb.LayerParameter] = [node.param for node in nodes]
    kept = list(range(len(layers)))
    if folding_of(net) is not None:
        folded = fold_batch_norms(layers)
        log_dropped(log, folded)
        compiled.kept_bn_layers.extend(folded.kept_batch_norms)
        compiled.bn_scale_remove = folded.folds
        layers, kept = folded.layers, folded.kept
    else:
        compiled.bn_scale_remove = False
    compiled.bn_scale_merge = any(node.merged_scale for node in nodes)
    shown.layer.extend(layers)
    log.info("net.cpp:206", title)
    log.info("net.cpp:207", "\n" + format_message(shown, dialect=spec.dialect))
    return [(net.steps[i], layer) for i, layer in zip(kept, layers, strict=True)]


def _log_layer(log: Log, net: Net, step: Step, param: pb.LayerParameter, memory: int) -> int:
    node, name = step.node, step.node.name
    log.info("layer_factory.hpp:77", f"Creating layer {name}")
    early = not net.profile.data_reader_thread
    if early:
        _log_database(log, net, step.node)
    log.info("net.cpp:86", f"Creating Layer {name}")
    for bottom in step.bottoms:
        log.info("net.cpp:408", f"{name} <- {bottom}")
    for i, top in enumerate((*param.top, *step.tops[len(param.top) :])):
        if i in node.in_place:
            log.info("net.cpp:369", f"{name} -> {top} (in-place)")
        else:
            shown = blob_name(top)
            log.info("net.cpp:382", f"{name} -> {shown}")
    if not early:
        _log_database(log, net, step.node)
    if len(param.blobs) and node.type in _SKIPS:
        log.info("base_conv_layer.cpp:157", "Skipping parameter initialization")
    if _makes_inner(param):
        log.info("layer_factory.hpp:77", f"Creating layer {name}")
        if len(param.blobs) and node.type == "Scale":  # the layer that adds the bias
            log.info("bias_layer.cpp:13", "Skipping parameter initialization")
    _log_source(log, net, step, param)
    log.info("net.cpp:124", f"Setting up {name}")
    for shape, weight in zip(step.layer.top_shapes, step.loss_weights, strict=True):
        count = math.prod(shape)
        log.info("net.cpp:131", "Top shape: " + "".join(f"{n} " for n in shape) + f"({count})")
        if weight:
            log.info("net.cpp:134", f"    with loss weight {weight:g}")
        memory += count
    log.info("net.cpp:139", f"Memory required for data: {memory * 4}")
    for spec in param.param:
        owner = net.owner_of(spec.name) if spec.name else None
        if owner is not None and owner[0] is not step:
            log.info(
                "net.cpp:467",
                f"Sharing parameters '{spec.name}' owned by layer '{owner[0].node.name}', "
                f"param index {owner[1]}",
            )
    return memory


def _log_source(log: Log, net: Net, step: Step, param: pb.LayerParameter) -> None:
    """What a data layer says while it is set up."""
    node = step.node
    source = net.sources.get(node.key)
    log_mean_file(log, param)
    if source is not None:
        log_set_up(log, param, source)
        if node.type == "Data" and not net.profile.data_reader_thread:
            tell_restarts(log, source)
    if node.type in ("Data", "ImageData", "AnnotatedData", "WindowData") and step.layer.top_shapes:
        sizes = ",".join(map(str, step.layer.top_shapes[0]))
        log.info("data_layer.cpp:45", f"output data size: {sizes}")
    log_window_mean(log, param)


def _log_database(log: Log, net: Net, node: LayerNode) -> None:
    """Intel's reader thread opens the database, a little later than BVLC's layer."""
    param = node.param
    if node.key in net.sources and param.type in ("Data", "AnnotatedData"):
        kind = _DATABASES[param.data_param.backend]
        log.info(f"db_{kind}.cpp:35", f"Opened {kind} {param.data_param.source}")
        if param.data_param.shuffle and net.profile.data_reader_thread:
            log.info("data_reader.cpp:195", "Shuffling data")


def _makes_inner(param: pb.LayerParameter) -> bool:
    if param.type == "Scale":
        return bool(param.scale_param.bias_term)
    return param.type in _INNER
