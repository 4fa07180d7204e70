"""Old nets and solvers in today's form, step by step as Caffe does it on load.

Source: src/caffe/util/upgrade_proto.cpp (UpgradeNetAsNeeded, UpgradeSolverAsNeeded).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from caffeio.errors import Locator, NetError, SolverError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.upgrade.v0 import upgrade_v0_net
from caffeio.proto.upgrade.v1 import V1_TYPES, upgrade_v1_net

M = TypeVar("M", bound=Message)

# Caffes whose loader leaves the specs of BatchNorm layers as they are
_KEEP_BATCH_NORM_SPECS = (
    "sara", "intel", "intel-2016", "intel-2017",
    "nvidia", "nvidia-0.14", "nvidia-0.15", "nvidia-0.16", "borisgin",
)  # fmt: skip

_MOVED = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
}
_V0_WARNING = (
    "Note that future Caffe releases will not support V0NetParameter; use "
    "./build/tools/upgrade_net_proto_text for prototxt and "
    "./build/tools/upgrade_net_proto_binary for model weights upgrade "
    "this and any other net protos to the new format."
)
_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
SOLVER_TYPES = {
    "SGD": "SGD", "NESTEROV": "Nesterov", "ADAGRAD": "AdaGrad", "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta", "ADAM": "Adam",
}  # fmt: skip


@dataclass
class Upgraded(Generic[M]):
    """What an upgrade came to.

    `message` is the upgraded message: the given one itself where nothing was to be done. `done`
    says in a line each what was done, `problems` what could not be carried over, `log` holds
    Caffe's own log lines, each with its severity letter (I, W, E). `origin[i]` is the place that
    layer i had in the old list (`field`: "layer" or "layers"); None for an inserted layer.
    """

    message: M
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    origin: list[int | None] = field(default_factory=list)
    field: str = "layer"

    @cached_property
    def places(self) -> dict[int, int]:
        """Where a layer of the old list is now, by its place there; read when all is done."""
        return {old: new for new, old in reversed([*enumerate(self.origin)]) if old is not None}

    def _begin(self, what: str) -> None:
        self.log.append(("I", f"Attempting to upgrade {what}"))

    def _end(self, what: str, warning: str = "") -> None:
        self.log.append(("I", f"Successfully upgraded {what}"))
        if warning:
            self.log.append(("W", f"Note that future Caffe releases will {warning}"))

    def _fail(self, what: str, lines: list[str]) -> None:
        self.problems += lines
        self.log += [("E", line) for line in lines]
        self.log.append(("E", f"Warning: had one or more problems upgrading {what}"))


def upgrade_net(
    net: pb.NetParameter,
    *,
    dialect: str = "bvlc",
    path: str = "<net>",
    locate: Locator | None = None,
    batch_norm: bool | None = None,
) -> Upgraded[pb.NetParameter]:
    """A net in today's form: V0, V1, transform fields, input fields, BatchNorm specs, in order.

    `path` is named in the log lines; `locate("layers", 3)` gives a place for errors. `batch_norm`
    says whether BatchNorm layers with three specs get lr_mult 0 and decay_mult 0 (BVLC does so,
    the Intel and NVIDIA Caffes do not: the default follows `dialect`).
    Raises NetError where Caffe gives up too.
    """
    place = locate or (lambda *_: path)
    out = Upgraded(net, origin=list(range(len(net.layer))))
    if net.layers:
        out.field, out.origin = "layers", list(range(len(net.layers)))
    if any(layer.HasField("layer") for layer in net.layers):
        _from_v0(out, path, place)
    if _has_old_transforms(out.message):
        _move_transforms(out, path)
    if out.message.layers:
        _from_v1(out, path, place)
    if out.message.input:
        _move_inputs(out, path, place)
    if batch_norm if batch_norm is not None else dialect not in _KEEP_BATCH_NORM_SPECS:
        _freeze_batch_norm(out, path)
    return out


def _own(out: Upgraded[pb.NetParameter]) -> pb.NetParameter:
    """The message, copied before its first change."""
    if not out.done:
        copy = pb.NetParameter()
        copy.CopyFrom(out.message)
        out.message = copy
    return out.message


def _from_v0(out: Upgraded[pb.NetParameter], path: str, locate: Locator) -> None:
    out._begin(f"input file specified using deprecated V0LayerParameter: {path}")
    before = len(out.message.layers)
    out.message, origin, problems = upgrade_v0_net(out.message, locate)
    out.origin = list(origin)
    if problems:
        out._fail("V0NetParameter to NetParameter (see above); continuing anyway.", problems)
    else:
        out._end("file specified using deprecated V0LayerParameter")
    out.log.append(("W", _V0_WARNING))
    out.done.append(f"{before} V0 layers to {len(origin)} V1 layers")


def _has_old_transforms(net: pb.NetParameter) -> bool:
    return any(_old_transforms(layer) for layer in net.layers)


def _old_transforms(layer: Any) -> list[str]:
    """The transform fields that a V1 data layer still has in its data parameter."""
    name = _MOVED.get(pb.V1LayerParameter.LayerType.Name(layer.type))
    data = getattr(layer, name) if name else None
    return [key for key in _TRANSFORM if data is not None and data.HasField(key)]


def _move_transforms(out: Upgraded[pb.NetParameter], path: str) -> None:
    out._begin(f"input file specified using deprecated transformation parameters: {path}")
    moved = 0
    for layer in _own(out).layers:
        name = _MOVED.get(pb.V1LayerParameter.LayerType.Name(layer.type))
        if name is None:
            continue
        layer.transform_param.SetInParent()  # as in Caffe, both messages are there afterwards
        data = getattr(layer, name)
        data.SetInParent()
        for key in _old_transforms(layer):
            setattr(layer.transform_param, key, getattr(data, key))
            data.ClearField(key)
            moved += 1
    out._end(
        "file specified using deprecated data transformation parameters.",
        "only support transform_param messages for transformation fields.",
    )
    out.done.append(f"{moved} transform fields moved into transform_param")


def _from_v1(out: Upgraded[pb.NetParameter], path: str, locate: Locator) -> None:
    old = out.message
    if old.layer:
        raise NetError(
            "the net has both `layer` (current) and `layers` (V1) entries: write all of them as "
            '`layer { type: "Name" ... }`',
            where=locate("layers", 0),
        )
    out._begin(f"input file specified using deprecated V1LayerParameter: {path}")
    new = upgrade_v1_net(old, lambda i: locate("layers", out.origin[i] or 0))
    out.message = new
    out._end("file specified using deprecated V1LayerParameter")
    out.done.append(f"{len(new.layer)} V1 layers to current ones")


def _move_inputs(out: Upgraded[pb.NetParameter], path: str, locate: Locator) -> None:
    out._begin(f"input file specified using deprecated input fields: {path}")
    net = _own(out)
    layer = None
    if net.input_shape or net.input_dim:
        layer = pb.LayerParameter(name="input", type="Input", top=net.input)
        for i in range(len(net.input)):
            layer.input_param.shape.append(_input_shape(net, i, locate))
    extra = net.input_dim[4 * len(net.input) :] if not net.input_shape else ()
    if extra:
        listed = ", ".join(map(str, extra))
        out.problems.append(f"input_dim {listed} is left out: Caffe takes four for an input")
    done = "input fields removed: without shapes they mean nothing"
    if layer is not None:
        layers = [layer, *net.layer]
        del net.layer[:]
        net.layer.extend(layers)
        out.origin.insert(0, None)
        done = f"{len(net.input)} input fields to an Input layer"
    for key in ("input", "input_shape", "input_dim"):
        net.ClearField(key)
    out._end(
        "file specified using deprecated input fields.",
        "only support input layers and not input fields.",
    )
    out.done.append(done)


def _input_shape(net: pb.NetParameter, i: int, locate: Locator) -> pb.BlobShape:
    """The shape of input i; four input_dim entries each where there is no input_shape."""
    if net.input_shape and i < len(net.input_shape):
        return net.input_shape[i]
    dims = net.input_dim[4 * i : 4 * i + 4]
    if net.input_shape or len(dims) < 4:
        have = f"{len(net.input_shape)} input_shape" if net.input_shape else ""
        raise NetError(
            f"{len(net.input)} inputs need an input_shape, or four input_dim, each: there are "
            f"{have or f'{len(net.input_dim)} input_dim'}",
            where=locate("input", i),
        )
    return pb.BlobShape(dim=dims)


def _freeze_batch_norm(out: Upgraded[pb.NetParameter], path: str) -> None:
    """The statistics of BatchNorm layers with three specs are not to be learnt or decayed."""
    old = [
        i for i, x in enumerate(out.message.layer) if x.type == "BatchNorm" and len(x.param) == 3
    ]
    if not old:
        return
    out._begin(f"batch norm layers using deprecated params: {path}")
    changed = 0
    net = _own(out) if any(not _frozen(out.message.layer[i]) for i in old) else out.message
    for i in old:
        changed += not _frozen(net.layer[i])
        for spec in net.layer[i].param:
            if not _frozen_spec(spec):
                spec.lr_mult = spec.decay_mult = 0
    out._end("batch norm layers using deprecated params.")
    if changed:
        out.done.append(f"{changed} BatchNorm layers: lr_mult 0 and decay_mult 0 for statistics")


def _frozen(layer: Any) -> bool:
    return all(map(_frozen_spec, layer.param))


def _frozen_spec(spec: Any) -> bool:
    return bool(
        spec.HasField("lr_mult")
        and spec.HasField("decay_mult")
        and spec.lr_mult == 0
        and spec.decay_mult == 0
    )


def upgrade_solver(
    solver: pb.SolverParameter, *, path: str = "<solver>", locate: Locator | None = None
) -> Upgraded[pb.SolverParameter]:
    """A solver in today's form: the enum solver_type becomes the string type."""
    out = Upgraded(solver)
    if not solver.HasField("solver_type"):
        return out
    if solver.HasField("type"):
        raise SolverError(
            "both solver_type (an enum, deprecated) and type (a string) are given: keep type",
            where=locate("solver_type") if locate else path,
        )
    new = pb.SolverParameter()
    new.CopyFrom(solver)
    old = pb.SolverParameter.SolverType.Name(solver.solver_type)
    if old not in SOLVER_TYPES:
        raise SolverError(
            f"solver_type {old} has no name as type",
            where=locate("solver_type") if locate else path,
        )
    new.type = SOLVER_TYPES[old]
    new.ClearField("solver_type")
    out.message = new
    out._begin(f"input file specified using deprecated 'solver_type' field (enum)': {path}")
    out._end(
        "file specified using deprecated 'solver_type' field (enum) to 'type' field (string).",
        "only support 'type' field (string) for a solver's type.",
    )
    out.done.append(f'solver_type: {old} to type: "{new.type}"')
    return out


__all__ = ["SOLVER_TYPES", "V1_TYPES", "Upgraded", "upgrade_net", "upgrade_solver"]
