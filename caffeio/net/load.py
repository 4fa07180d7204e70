"""load_net: a prototxt, maybe with weights, as a net that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch

from caffeio.boost_random import CaffeRng
from caffeio.data import Options
from caffeio.errors import WeightsError
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import Profile
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import load_weights


def load_net(
    prototxt: str | os.PathLike[str],
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    dialect: str | None = None,
    profile: str | Profile | None = None,
    allow_python: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    ignore_unknown: bool = False,
    prepare: bool = True,
) -> Net:
    """Build the net of a prototxt (a path, or the text itself) and load its weights.

    `weights` are one file or several: .caffemodel, .h5, .safetensors, .pt (a state_dict; no code of
    it is run) or .npz, all that `Net.save` writes; float16, bfloat16 and float64 become float32.
    Without `weights` the blobs are filled as the prototxt says; with `seed` all random numbers
    are those of a real Caffe with that random_seed. `dialect` names the fork whose schema a
    binary file has; `profile` is the Caffe whose numbers are computed (default: the dialect's).
    Data layers read their source if it is there; their tops can always be given as inputs.
    `device="meta"` builds shapes only. A field that no known Caffe has is an error, as
    in Caffe, unless `ignore_unknown`. Raises CaffeIOError (ParseError, NetError, WeightsError).
    """
    recipe = NetRecipe.of_file(
        read_net(prototxt, dialect=dialect),
        phase=phase,
        level=level,
        stages=stages,
        profile=profile,
        allow_python=allow_python,
        input_shapes=input_shapes,
        ignore_unknown=ignore_unknown,
    )
    if str(device) == "meta" and weights is not None:
        raise WeightsError("a net on the meta device has no memory for weights")
    rng = None if seed is None else CaffeRng(seed)
    data = None if str(device) == "meta" else Options(device=torch.device(device))
    paths = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights or ())
    net = recipe.build(
        device=device, rng=rng, data=data, missing_data_ok=True,
        weights=(load_weights(path, dialect=dialect) for path in paths),
    )  # fmt: skip
    return net.prepare(prepare)
