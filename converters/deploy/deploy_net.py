"""The net to be exported: a prototxt in its TEST phase, made a deploy net, with its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffeio.converters.deploy.deploy import deploy as make_deploy
from caffeio.converters.deploy.deploy import from_snapshot
from caffeio.converters.report.model import listed
from caffeio.converters.weight_match import fill_in
from caffeio.data import SOURCE_TYPES, make_source
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.layers.registry import find
from caffeio.net.graph import is_included, net_state
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe, folders_of
from caffeio.net.unknown_fields import of_active_layers, refuse_unknown
from caffeio.profiles import Profile, choose_profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.weights.load import Weights, load_weights

Shapes = Mapping[str, Sequence[int]]
PathLike = str | os.PathLike[str]


@dataclass
class DeployOptions:
    """How a net is built for an export; all as for `caffeio.load_net` but for `deploy`.

    With `deploy` data layers become inputs (one example, unless `input_shapes` says otherwise),
    SoftmaxWithLoss becomes Softmax, and metrics and other losses go.
    """

    input_shapes: Shapes = field(default_factory=dict)
    deploy: bool = True
    stages: Sequence[str] = ()
    level: int = 0
    dialect: str | None = None
    profile: str | Profile | None = None
    allow_python: bool = False
    outputs: Sequence[str] = ()  # only what these blobs need takes part; (): the whole net
    inputs: Sequence[str] = ()  # blobs at which the net begins; what only makes them goes
    untrained: bool = False  # layers that the weights lack are no error
    need_weights: bool = False  # without any weights a net is an error, unless `untrained`

    def recipe(
        self, message: pb.NetParameter, file: NetFile, profile: Profile, shapes: Shapes
    ) -> NetRecipe:
        """Say how a net of (changed) layers of `file` is built; errors name their lines there.

        `shapes` are those of its inputs.
        """
        places = {layer.name: file.locate("layer", i) for i, layer in enumerate(file.message.layer)}
        return NetRecipe(
            message,
            net_state(message, "TEST", self.level, self.stages),
            profile,
            file.dialect,
            search_path=folders_of(file.path),
            locate=lambda i: places.get(message.layer[i].name, ""),
            allow_python=self.allow_python,
            input_shapes=shapes,
        )


def load_deploy_net(
    prototxt: PathLike, weights: Weights | PathLike | None, options: DeployOptions
) -> tuple[Net, list[str]]:
    """Build the net, fill it, copy the weights; return it and notes on what was left out.

    `prototxt` may also be a binary net (.caffemodel), whose inserted Splits go. Raises
    UnsupportedError if an input's shape is unknown, and what `caffeio.load_net` raises.
    """
    file = read_net(prototxt, dialect=options.dialect)
    arrays = weights
    if weights is not None and not isinstance(weights, Weights):
        arrays = load_weights(weights, dialect=options.dialect)
    assert arrays is None or isinstance(arrays, Weights)
    chosen = choose_profile(options.profile, file.dialect)
    places = {layer.name: file.locate("layer", i) for i, layer in enumerate(file.message.layer)}
    message, notes = deployed(file, arrays, options, chosen)
    notes += _cut(message, options, chosen, file)
    _check_labels(message, file.message, places)
    net = options.recipe(message, file, chosen, options.input_shapes).build()
    match = fill_in(net, arrays, places)
    if arrays is not None:
        match.refuse(str(arrays.path), untrained=options.untrained)
        notes += match.notes()
    elif match.useless and options.need_weights:
        if not options.untrained:
            raise UnsupportedError(
                f"no weights are given, and {len(match.useless)} layers have some "
                f"({listed(match.useless)}): give the weights' file too, or say --untrained"
            )
        notes.append(
            f"UNTRAINED: no weights are given; {len(match.lacking)} layers hold what their fillers "
            "make"
        )
    return net, notes


def _cut(
    message: pb.NetParameter, options: DeployOptions, profile: Profile, file: NetFile
) -> list[str]:
    """Keep what the wanted outputs need, from the wanted inputs on; returns notes on it."""
    made = _tops(message)
    if options.outputs and made.issuperset(options.outputs):
        keep_needed(message, options.outputs)
    if not options.inputs:
        return []
    if lost := [b for b in options.inputs if b in made - _tops(message)]:
        raise UnsupportedError(f"no output that is wanted depends on blob {lost[0]!r}")
    return [cut_inputs(message, options, profile, file.dialect, folders_of(file.path))]


def _tops(message: pb.NetParameter) -> set[str]:
    return {top for layer in message.layer for top in layer.top}


def _with_meta(
    message: pb.NetParameter, options: DeployOptions, profile: Profile, dialect: str,
    folders: tuple[str, ...],
) -> Net:  # fmt: skip
    """The net of a message without values, which knows all shapes."""
    return NetRecipe(
        message,
        net_state(message, "TEST", options.level, options.stages),
        profile,
        dialect,
        search_path=folders,
        allow_python=options.allow_python,
        input_shapes=options.input_shapes,
    ).build(device="meta")


def cut_inputs(
    message: pb.NetParameter, options: DeployOptions, profile: Profile, dialect: str,
    folders: tuple[str, ...],
) -> str:  # fmt: skip
    """Let the net begin at the blobs `options.inputs`, as they end up; returns a note.

    Layers that are not needed any more go. Raises UnsupportedError for blobs that are not there,
    and where an earlier value of one is read.
    """
    whole = _with_meta(message, options, profile, dialect, folders)
    last = {top: i for i, layer in enumerate(message.layer) for top in layer.top}
    for blob in options.inputs:
        if blob not in last:
            raise UnsupportedError(f"there is no blob {blob!r} at which to cut the input")
    wanted = list(options.outputs) or _reached(message, options.inputs, last, whole.outputs)
    needed, kept = set(wanted) - set(options.inputs), []
    for i in reversed(range(len(message.layer))):
        layer = message.layer[i]
        if not needed.intersection(layer.top):
            continue
        if early := [b for b in layer.bottom if b in options.inputs and i <= last[b]]:
            raise UnsupportedError(
                f"layer {layer.name!r} reads {early[0]!r} before its last value: cut elsewhere"
            )
        needed.difference_update(layer.top)
        needed.update(b for b in layer.bottom if b not in options.inputs)
        kept.append(pb.LayerParameter.FromString(layer.SerializeToString()))
    del message.layer[:]
    for blob in options.inputs:
        new = message.layer.add(name=f"{blob} (input)", type="Input", top=[blob])
        new.input_param.shape.add(dim=whole.blob_shapes[blob])
    message.layer.extend(kept[::-1])
    more = [t for layer in kept if not layer.bottom for t in layer.top if t not in options.inputs]
    rest = f"; {listed(more)} is still read" if more else ""
    return f"the net begins at {listed(list(options.inputs))}{rest}"


def _reached(
    message: pb.NetParameter, inputs: Sequence[str], last: Mapping[str, int], outputs: Sequence[str]
) -> list[str]:
    """The outputs that depend on the blobs `inputs`."""
    alive = set(inputs)
    for i, layer in enumerate(message.layer):
        if any(b in alive and (b not in inputs or i > last[b]) for b in layer.bottom):
            alive.update(layer.top)
    found = [blob for blob in outputs if blob in alive - set(inputs)]
    if not found:
        raise UnsupportedError(f"no output of the net depends on {listed(list(inputs))}")
    return found


def _check_labels(net: pb.NetParameter, given: pb.NetParameter, places: Mapping[str, str]) -> None:
    """Refuse layers that read a data layer's top which a net for use has not, such as labels."""
    data = {top for layer in given.layer if not layer.bottom for top in layer.top}
    made = {top for layer in net.layer for top in layer.top}
    for layer in net.layer:
        for bottom in layer.bottom:
            if bottom in data - made:
                cut = next((name for name in layer.bottom if name in made), None)
                hint = f": name an output with --output-blob, e.g. {cut}" if cut else ""
                raise UnsupportedError(
                    f"layer {layer.name!r} ({layer.type}) reads {bottom!r}, which a deploy net has "
                    f"not{hint}",
                    where=places.get(layer.name) or None,
                )


def keep_needed(net: pb.NetParameter, outputs: Sequence[str]) -> None:
    """Leave the layers, in their order, that the blobs `outputs` (as they end up) come from."""
    needed, kept = set(outputs), []
    for layer in reversed(net.layer):
        if needed.intersection(layer.top):
            needed.difference_update(layer.top)
            needed.update(layer.bottom)
            kept.append(pb.LayerParameter.FromString(layer.SerializeToString()))
    del net.layer[:]
    net.layer.extend(kept[::-1])


def deployed(
    file: NetFile, arrays: Weights | None, options: DeployOptions, profile: Profile
) -> tuple[pb.NetParameter, list[str]]:
    """The layers of the TEST phase, made a deploy net if that is wanted; and notes on it.

    A binary net has the layers of one phase only, mostly TRAIN: all of them are taken.
    """
    message, notes = as_given(file, options)
    if not options.deploy:
        drop_shapes(message)
        return message, notes
    notes += _deploy(message, arrays, options.input_shapes, profile, folders_of(file.path))
    drop_shapes(message, lent=file.text is not None)
    return message, notes


def drop_shapes(net: pb.NetParameter, *, lent: bool = False) -> None:
    """Take blobs without values out of a net: they tell shapes, and are no values to begin with.

    In a binary net they stay where their number says which form a layer has (BatchNorm and Scale in
    one); not if they were only `lent`, to show which layers of a text have weights.
    """
    for layer in net.layer:
        cls = find(layer.type)
        kept = cls is not None and cls.count_tells and not lent
        if not kept and any(not (len(b.data) or len(b.double_data)) for b in layer.blobs):
            layer.ClearField("blobs")


def as_given(file: NetFile, options: DeployOptions) -> tuple[pb.NetParameter, list[str]]:
    """The layers that take part in TEST, unchanged; and notes on what had to be understood.

    A snapshot holds the layers of the net that was trained, each with the phase it ran in: all of
    them are taken, without their phases and without the Splits that Caffe put in.
    """
    snapshot = file.text is None and not _has_test_rule(file.message)
    if not snapshot:
        message = active(file, options)
        if not all(layer.HasField("phase") for layer in message.layer):
            return message, []
        return message, from_snapshot(message)
    message = pb.NetParameter()
    message.CopyFrom(file.message)
    return message, from_snapshot(message)


def _has_test_rule(net: pb.NetParameter) -> bool:
    """Whether a layer is for TEST only: then the file is no snapshot, which has one phase."""
    rules = (rule for layer in net.layer for rule in layer.include)
    return any(rule.HasField("phase") and rule.phase == pb.TEST for rule in rules)


def active(file: NetFile, options: DeployOptions) -> pb.NetParameter:
    """A copy of the net with the layers of its TEST phase only; unknown fields there are errors."""
    state = net_state(file.message, "TEST", options.level, options.stages)
    refuse_unknown(of_active_layers(file.unknown, file.message, state))
    message = pb.NetParameter()
    message.CopyFrom(file.message)
    del message.layer[:]
    for index, layer in enumerate(file.message.layer):
        if is_included(layer, state, file.locate("layer", index)):
            message.layer.add().CopyFrom(layer)
    return message


def _deploy(
    message: pb.NetParameter,
    arrays: Weights | None,
    shapes: Shapes,
    profile: Profile,
    folder: Sequence[str],
) -> list[str]:
    """Make a deploy net of `message`; shapes that it does not tell are those of the data."""
    if arrays is not None:
        _add_shapes(message, arrays)
    plain = pb.NetParameter()
    plain.CopyFrom(message)
    try:
        notes = make_deploy(message, shapes)
    except UnsupportedError as error:
        problems: list[str] = []
        found = _shapes_of_data(plain, profile, folder, problems)
        if not found.keys() - shapes.keys():
            more = f" (and its data cannot be opened: {problems[0]})" if problems else ""
            raise UnsupportedError(error.message + more, where=error.where) from None
        message.CopyFrom(plain)
        notes = make_deploy(message, {**found, **shapes})
    return notes


def _add_shapes(message: pb.NetParameter, arrays: Weights) -> None:
    """Note the blobs' shapes in the message: they tell which layers have weights."""
    for layer in message.layer:
        if layer.blobs:
            continue
        for array in arrays.get(layer.name, ()):
            layer.blobs.add().shape.dim.extend(array.shape)


def _shapes_of_data(
    message: pb.NetParameter, profile: Profile, folder: Sequence[str], problems: list[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes, for one example, of the first tops of the data layers whose data can be opened."""
    found = {}
    for layer in message.layer:
        if layer.type not in SOURCE_TYPES or not layer.top:
            continue
        try:
            source = make_source(layer, phase="TEST", profile=profile, search_path=folder)
        except CaffeIOError as error:
            problems.append(str(error))
            continue
        with source:
            found[layer.top[0]] = (1, *source.top_shapes[0][1:])
    return found
