"""The net to be exported: a prototxt in its TEST phase, made a deploy net, with its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffeio.converters.deploy.deploy import deploy as make_deploy
from caffeio.converters.translate.splits import heal_splits
from caffeio.data import SOURCE_TYPES, make_source
from caffeio.errors import CaffeIOError, UnsupportedError
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
class Options:
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


def load_deploy_net(
    prototxt: PathLike, weights: Weights | PathLike | None, options: Options
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
    places = {layer.name: file.where("layer", i) for i, layer in enumerate(file.message.layer)}
    message, notes = deployed(file, arrays, options, chosen)
    net = NetRecipe(
        message,
        net_state(message, "TEST", options.level, options.stages),
        chosen,
        file.dialect,
        search_path=folders_of(file.path),
        where=lambda i: places.get(message.layer[i].name, ""),
        allow_python=options.allow_python,
        input_shapes=options.input_shapes,
    ).build()
    if arrays is not None:
        net.copy_trained_layers_from(arrays)
    return net, notes


def deployed(
    file: NetFile, arrays: Weights | None, options: Options, profile: Profile
) -> tuple[pb.NetParameter, list[str]]:
    """The layers of the TEST phase, made a deploy net if that is wanted; and notes on it.

    A binary net has the layers of one phase only, mostly TRAIN: all of them are taken.
    """
    if file.text is None:
        message = pb.NetParameter()
        message.CopyFrom(file.message)
        heal_splits(message)
    else:
        message = active(file, options)
    if not options.deploy:
        return message, []
    notes = _deploy(message, arrays, options.input_shapes, profile, folders_of(file.path))
    if file.text is not None:  # only lent to show which layers have weights
        for layer in message.layer:
            layer.ClearField("blobs")
    return message, notes


def active(file: NetFile, options: Options) -> pb.NetParameter:
    """A copy of the net with the layers of its TEST phase only; unknown fields there are errors."""
    state = net_state(file.message, "TEST", options.level, options.stages)
    refuse_unknown(of_active_layers(file.unknown, file.message, state))
    message = pb.NetParameter()
    message.CopyFrom(file.message)
    del message.layer[:]
    for index, layer in enumerate(file.message.layer):
        if is_included(layer, state, file.where("layer", index)):
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
    except UnsupportedError:
        found = _shapes_of_data(plain, profile, folder)
        if not found.keys() - shapes.keys():
            raise
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
    message: pb.NetParameter, profile: Profile, folder: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes, for one example, of the first tops of the data layers whose data can be opened."""
    found = {}
    for layer in message.layer:
        if layer.type not in SOURCE_TYPES or not layer.top:
            continue
        try:
            source = make_source(layer, phase="TEST", profile=profile, search_path=folder)
        except CaffeIOError:
            continue
        with source:
            found[layer.top[0]] = (1, *source.top_shapes[0][1:])
    return found
