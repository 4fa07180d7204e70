"""Random nets that real BVLC Caffe ran, against ours (tests/golden/fuzz).

A case has its text, phase, passes and seed, and the arrays `init` (blobs as the fillers with that
seed made them), `params` (values to write then), and for every pass `in`, `blob`, `diff` (gradients
of the inputs), `pafter` and `pdiff` (blobs of layers after the forward, and their gradients).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from caffeio.errors import CaffeIOError
from caffeio.net import Net, load_net
from tests.paths import GOLDEN

Arrays = dict[str, np.ndarray]
CANCELS = ("mvn", "bn", "softmax", "smloss")  # kinds whose gradients are differences of sums


@cache
def arrays_of(name: str) -> Mapping[str, Arrays]:
    """The arrays of all cases of tests/golden/fuzz/<name>.npz by the case's seed."""
    out: dict[str, Arrays] = {}
    with np.load(GOLDEN / "fuzz" / f"{name}.npz") as file:
        for key in file.files:
            seed, _, rest = key.partition("/")
            out.setdefault(seed, {})[rest] = file[key]
    return out


def cases_of(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / "fuzz" / f"{name}.json").read_text())
    return cases


def under(arrays: Arrays, prefix: str) -> Arrays:
    return {key[len(prefix) :]: v for key, v in arrays.items() if key.startswith(prefix)}


def off_by(ours: Any, theirs: Any, floor: float = 1e-3) -> float:
    """Largest difference against the largest value, or `floor`; nan and inf must agree."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    if not np.array_equal(np.isinf(a), np.isinf(b)):
        return np.inf
    finite = np.isfinite(b)
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(np.abs(b[finite]).max(), floor))


def noise_floor(case: Mapping[str, Any], diffs: Arrays, pdiffs: Arrays) -> float:
    """What a gradient is measured by: sums that cancel are noise in real Caffe too."""
    finite = {key: np.abs(v[np.isfinite(v)]) for key, v in {**diffs, **pdiffs}.items()}
    largest = max([float(v.max()) for v in finite.values() if v.size] + [1e-6])
    total = sum(float(finite[key].sum()) for key in diffs)
    cancels = case["kind"].removeprefix("mut_") in CANCELS
    return max(0.03 * largest, 0.02 * total, 1.0 if cancels else 0.0)


def refused(case: Mapping[str, Any]) -> bool:
    """Whether we refuse a net of which real Caffe dies, up to its first backward."""
    values = np.random.RandomState(0)
    try:
        net = load_net(case["text"], phase=case["phase"], seed=1)
        inputs = {}
        for name, shape, kind in case["inputs"]:
            if kind[0] in ("int", "intor"):
                array = values.randint(kind[1], kind[2] + 1, shape)
            else:
                array = np.abs(values.normal(0, 1, shape)) + 0.1
            tensor = torch.from_numpy(np.asarray(array, np.float32))
            inputs[name] = tensor.requires_grad_() * 1
        net(inputs)
        if net.loss.requires_grad:
            net.loss.backward()
    except CaffeIOError:
        return True
    return False


def differences(case: Mapping[str, Any], arrays: Arrays) -> list[str]:
    """Names of the arrays of `case` that differ from real Caffe's."""
    net = load_net(case["text"], phase=case["phase"], seed=case["net_seed"])
    if list(net.layer_names) != case["layers"]:
        return [f"layers {net.layer_names}"]
    out = _set_params(net, arrays)
    for number in range(case["passes"]):
        prefix = f"pass{number}/"
        out += [prefix + name for name in _pass(net, case, under(arrays, prefix), number)]
    return out


def _set_params(net: Net, arrays: Arrays) -> list[str]:
    initial, written = under(arrays, "init/"), under(arrays, "params/")
    out = []
    with torch.no_grad():
        for key, value in initial.items():
            if off_by(_blob(net, key).numpy(), value) > 1e-6:
                out.append(f"init/{key}")
        for key, value in {**initial, **written}.items():
            _blob(net, key).copy_(torch.from_numpy(value))
    return out


def _blob(net: Net, key: str) -> torch.Tensor:
    layer, _, index = key.rpartition("/")
    return net.params[layer][int(index)].detach()


def _pass(net: Net, case: Mapping[str, Any], arrays: Arrays, number: int) -> list[str]:
    force = case["force"]
    inputs = {
        name: torch.from_numpy(value.copy()).requires_grad_(force)
        for name, value in under(arrays, "in/").items()
    }
    net.zero_grad()
    net({name: value * 1 if force else value for name, value in inputs.items()})
    out = []
    for name, value in under(arrays, "blob/").items():
        ours = net.blobs.get(name)
        if ours is None or off_by(ours.detach().numpy(), value) > 2e-5:
            out.append(f"blob/{name}")
    if off_by(float(net.loss.detach()), case["loss"][number]) > 2e-5:
        out.append("loss")
    for key, value in under(arrays, "pafter/").items():
        if off_by(_blob(net, key).numpy(), value) > 2e-5:
            out.append(f"pafter/{key}")
    if net.loss.requires_grad:
        net.loss.backward()
    return out + _gradients(net, case, arrays, inputs)


def _gradients(
    net: Net, case: Mapping[str, Any], arrays: Arrays, inputs: Mapping[str, torch.Tensor]
) -> list[str]:
    diffs, pdiffs = under(arrays, "diff/"), under(arrays, "pdiff/")
    floor = noise_floor(case, diffs, pdiffs)
    out = []
    pairs = [(f"diff/{name}", inputs[name], value) for name, value in diffs.items()]
    for key, value in pdiffs.items():
        layer, _, index = key.rpartition("/")
        pairs.append((f"pdiff/{key}", net.params[layer][int(index)], value))
    for what, tensor, value in pairs:
        ours = np.zeros(value.shape) if tensor.grad is None else tensor.grad.numpy()
        if off_by(ours, value, floor) > 5e-5:
            out.append(what)
    return out
