"""Run what a conversion has written, and the user's own files, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffeio.converters.weightfiles import read_weights
from caffeio.errors import CaffeIOError, NetError, UnsupportedError, WeightsError
from caffeio.net.recipe import NetRecipe
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.weights.load import Weights

if TYPE_CHECKING:
    from caffeio.converters.deploy.deploy_net import DeployOptions
    from caffeio.converters.request import Outcome
    from caffeio.converters.verify.check import Checked


def conclude(
    outcome: Outcome, checked: Checked, target: Path, who: str, limit: float | None = None
) -> None:
    """Say what was compared; raise CaffeIOError if the two do not compute the same.

    `limit` is that of the relative difference where it is not float32's.
    """
    from caffeio.converters.verify.check import LIMIT

    outcome.checked = checked
    limit = limit or LIMIT
    if not checked.worst <= limit:
        table = "\n".join(checked.lines())
        raise CaffeIOError(
            f"{who}'s outputs differ by {checked.worst:.3g} of the largest value (limit "
            f"{limit:g}); nothing is written (--no-verify writes it all the same)\n{table}",
            where=str(target),
        )
    outcome.messages += checked.lines()
    outcome.messages.append(f"largest relative difference against {who}: {checked.worst:.2g}")


def attempt(
    outcome: Outcome,
    run: Callable[[], Checked],
    target: Path,
    who: str,
    *,
    strict: bool = False,
    limit: float | None = None,
) -> None:
    """Compare; if that cannot be done, say so and why.

    With `strict` a net that cannot be built as it was given is an error, as it is for Caffe.
    """
    from caffeio.converters.verify.models import DoesNotRunError

    try:
        checked = run()
    except (WeightsError, DoesNotRunError):
        raise
    except CaffeIOError as error:
        if strict and isinstance(error, NetError):
            raise
        outcome.warnings.append(f"NOT COMPARED with the net as given: {error}")
        return
    conclude(outcome, checked, target, who, limit)


def prove_deploy(
    file: NetFile, weights: Weights | None, options: DeployOptions, text: str
) -> Checked:
    """A deploy prototxt with the weights, against the net of the user's files."""
    from caffeio.converters.verify.check import check
    from caffeio.converters.verify.models import NetModel
    from caffeio.converters.verify.reference import own_data, reference_net
    from caffeio.converters.weight_match import fill_in

    recipe = NetRecipe.of_file(
        read_net(text, dialect=file.dialect),
        profile=options.profile,
        allow_python=options.allow_python,
    )
    mine = recipe.build()
    model = NetModel(mine)
    made = {top for step in mine.steps if not step.layer.is_source for top in step.tops}
    outputs = [blob for blob in mine.outputs if blob in made]
    if not outputs:
        raise UnsupportedError("the net computes nothing")
    reference = reference_net(file, weights, options, outputs, model.inputs)
    if weights is None:
        mine.share_trained_layers_with(reference)
    else:
        fill_in(mine, weights).refuse(str(weights.path), untrained=options.untrained)
    return check(reference, model, outputs, own_data(reference, file, options, model.inputs))


def prove_nets(
    first: tuple[NetFile, Weights | None],
    second: tuple[NetFile, Weights | None],
    options: DeployOptions,
    other: DeployOptions,
) -> Checked:
    """Two nets with weights, each as given, on what the first predicts."""
    from caffeio.converters.verify.check import check
    from caffeio.converters.verify.models import NetModel
    from caffeio.converters.verify.reference import own_data, predictions, reference_net

    outputs, shapes = predictions(*first, options)
    reference = reference_net(*first, options, outputs, shapes)
    mine = reference_net(*second, other, outputs, shapes)
    own = own_data(reference, first[0], options, shapes)
    return check(reference, NetModel(mine), outputs, own)


def random_weights(file: NetFile, options: DeployOptions) -> Weights:
    """Random numbers for the net that a file becomes in use, where no weights are given."""
    from caffeio.converters.verify.reference import predictions, reference_net
    from caffeio.converters.weightfiles import weights_of

    net = reference_net(file, None, options, *predictions(file, None, options))
    draws = np.random.default_rng(0)
    arrays = {}
    for step in net.steps:
        if len(step.layer.blobs):
            shapes = [spec.shape for spec in step.layer.blob_specs]
            arrays[step.node.name] = [
                draws.uniform(0.1, 1.0, shape).astype(np.float32) * (1 if len(shape) < 2 else 0.3)
                for shape in shapes
            ]
    return weights_of(arrays)


def prove_arrays(weights: Weights, path: Path, kind: str, target: Path) -> str:
    """Read written weights back and hold them against `weights`, bit for bit; say how many."""
    if not len(weights):
        return "there are no blobs in it"
    found = read_weights(path, kind)
    missing = [name for name in weights if name not in found]
    count = 0
    for name in weights:
        pairs = zip(weights[name], found.get(name, ()), strict=False)
        same = all(_same(a, b) for a, b in pairs)
        if name in missing or len(weights[name]) != len(found[name]) or not same:
            if kind == "h5" and len(found.get(name, ())) < len(weights[name]) and same:
                continue  # HDF5 holds what is shared with its owner only
            raise CaffeIOError(
                f"layer {name!r} does not come back as it was; nothing is written",
                where=str(target),
            )
        count += len(weights[name])
    return f"{count} blobs read back, equal bit for bit"


def prove_module(
    weights: Weights, back: Weights, net: Any, folded: Sequence[str], target: Path
) -> str:
    """Hold what a module's tensors become in Caffe against `weights`: sums may be averages now.

    Layers whose bias was folded, and the BatchNorms behind them, are others now.
    """
    count = 0
    tops = {layer.top[0] for layer in net.layer if layer.name in folded}
    for layer in net.layer:
        moved = layer.name in folded or (layer.type == "BatchNorm" and layer.bottom[0] in tops)
        if layer.name not in weights or moved:
            continue
        mine, theirs = list(weights[layer.name]), list(back.get(layer.name, ()))
        if layer.type == "BatchNorm" and len(mine) >= 3:
            factor = float(np.asarray(mine[2]).reshape(-1)[0])
            scale = np.float32(0 if factor == 0 else 1 / factor)
            mine = [np.asarray(a) * scale for a in mine[:2]]
            theirs = theirs[:2]
        if len(mine) != len(theirs) or not all(map(_same, mine, theirs)):
            raise CaffeIOError(
                f"layer {layer.name!r} does not come back as it was; nothing is written",
                where=str(target),
            )
        count += len(mine)
    return f"{count} blobs come back as they were"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.size == b.size and np.array_equal(a.reshape(-1), b.reshape(-1), equal_nan=True))


__all__: Sequence[str] = [
    "attempt",
    "conclude",
    "prove_arrays",
    "prove_deploy",
    "prove_module",
    "prove_nets",
    "random_weights",
]  # fmt: skip
