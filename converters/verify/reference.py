"""The net that a conversion is held against: the layers of the user's files, as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffeio.converters.deploy.deploy_net import (
    DeployOptions,
    as_given,
    deployed,
    drop_shapes,
    keep_needed,
)
from caffeio.converters.weight_match import fill_in
from caffeio.data import SOURCE_TYPES, make_source
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.net.recipe import folders_of
from caffeio.profiles import Profile, choose_profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile
from caffeio.proto.weights.load import Weights

Shapes = Mapping[str, Sequence[int]]


def reference_net(
    file: NetFile,
    weights: Weights | None,
    options: DeployOptions,
    outputs: Sequence[str],
    shapes: Shapes,
) -> Net:
    """The net of `file` in TEST as `load_net` builds it, with `weights` (or what fillers make).

    Nothing of a layer is changed. Only layers that the blobs `outputs` need take part, so that
    losses and labels do not; a Softmax or Sigmoid that a conversion puts in a loss's place, and
    SSD's detections, are added behind the layers of the file. `shapes` gives the shapes of inputs
    (tops of Input and data layers, which read no source here).
    """
    message, _ = as_given(file, options)
    profile = choose_profile(options.profile, file.dialect)
    message.layer.extend(_added(file, message, weights, options, profile, shapes))
    keep_needed(message, outputs)
    drop_shapes(message)
    net = options.recipe(message, file, profile, _source_shapes(message.layer, shapes)).build()
    match = fill_in(net, weights)
    if weights is not None:
        match.refuse(str(weights.path), untrained=True)
    return net


def predictions(
    file: NetFile, weights: Weights | None, options: DeployOptions
) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """The blobs that a net for use ends in, and the shapes of its inputs; nothing is run.

    Raises UnsupportedError if a shape is not known, or if the net computes nothing.
    """
    profile = choose_profile(options.profile, file.dialect)
    message, _ = deployed(file, weights, options, profile)
    if options.outputs:
        keep_needed(message, options.outputs)
    net = options.recipe(message, file, profile, options.input_shapes).build(device="meta")
    made = {top for step in net.steps if not step.layer.is_source for top in step.tops}
    outputs = list(options.outputs) or [blob for blob in net.outputs if blob in made]
    if not outputs:
        raise UnsupportedError("the net computes nothing")
    sources = [top for step in net.steps if step.layer.is_source for top in step.tops]
    return outputs, {top: net.blob_shapes[top] for top in sources}


def _added(
    file: NetFile,
    given: pb.NetParameter,
    weights: Weights | None,
    options: DeployOptions,
    profile: Profile,
    shapes: Shapes,
) -> list[Any]:
    """What stands in a deploy net for the losses of the file."""
    if not options.deploy:
        return []
    known = {(layer.name, layer.type) for layer in given.layer}
    tops = {top for layer in given.layer for top in layer.top}
    chosen = DeployOptions(**{**vars(options), "input_shapes": _known_inputs(given, shapes)})
    message, _ = deployed(file, weights, chosen, profile)
    return [
        layer
        for layer in message.layer
        if (layer.name, layer.type) not in known
        and layer.type != "Input"
        and layer.top[0] not in tops
    ]


def _known_inputs(given: pb.NetParameter, shapes: Shapes) -> dict[str, Sequence[int]]:
    tops = {top for layer in given.layer if not layer.bottom for top in layer.top}
    return {name: shape for name, shape in shapes.items() if name in tops}


def _source_shapes(layers: Sequence[Any], shapes: Shapes) -> Shapes:
    """Shapes of all tops of the layers that make data, also of those that nothing reads."""
    out = {name: tuple(shape) for name, shape in shapes.items()}
    batch = next((shape[0] for shape in shapes.values() if shape), 1)
    for layer in layers:
        if layer.bottom or not set(layer.top) & shapes.keys():
            continue
        own = [tuple(shape.dim) for shape in layer.input_param.shape]
        for i, top in enumerate(layer.top):
            out.setdefault(top, own[min(i, len(own) - 1)] if own else (batch,))
    return out


def own_data(
    net: Net, file: NetFile, options: DeployOptions, shapes: Shapes
) -> dict[str, Any] | None:
    """The first examples of the net's own data for the inputs `shapes`; None if there are none."""
    found: dict[str, Any] = {}
    given, _ = as_given(file, options)
    for layer in given.layer:
        if layer.type not in SOURCE_TYPES or not set(layer.top) & shapes.keys():
            continue
        try:
            source = make_source(
                layer, phase="TEST", profile=net.profile, search_path=folders_of(file.path)
            )
            with source:
                tops = dict(zip(layer.top, source.next(), strict=False))
        except CaffeIOError:
            return None
        found.update({name: value for name, value in tops.items() if name in shapes})
    arrays = {}
    for name, shape in shapes.items():
        if name not in found or found[name].shape[1:] != tuple(shape[1:]):
            return None
        if found[name].shape[0] < shape[0]:
            return None
        arrays[name] = found[name][: shape[0]].numpy().astype("float32")
    return arrays or None
