"""Compare our layers with arrays that real Caffe computed (see tests/golden/README.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffeio.net import Net, Step, load_net
from tests.paths import GOLDEN

TOLERANCE = 1e-5


def error(mine: Any, theirs: Any) -> float:
    """max|a - b| / max|b|; infinite when shapes, nans or infinities differ."""
    a, b = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    infinite = np.isinf(b)
    if not np.array_equal(infinite, np.isinf(a)) or not np.array_equal(a[infinite], b[infinite]):
        return float("inf")
    finite = np.isfinite(b)
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(np.abs(b[finite]).max(), 1e-6))


def assert_close(mine: Any, theirs: Any, what: str, tolerance: float = TOLERANCE) -> None:
    if isinstance(mine, torch.Tensor):
        mine = mine.detach().cpu().numpy()
    off = error(mine, theirs)
    assert off <= tolerance, (
        f"{what}: off by {off:.3g} (limit {tolerance:g}); shapes {np.shape(mine)} and "
        f"{np.shape(theirs)}\nours   {np.ravel(mine)[:8]}\ncaffe's {np.ravel(theirs)[:8]}"
    )


def layer_cases(*kinds: str) -> list[Any]:
    """The golden cases of these layer types, as pytest parameters."""
    import pytest

    return [
        pytest.param(path, id=f"{kind}/{path.stem}")
        for kind in kinds
        for path in sorted((GOLDEN / "layers" / kind).glob("*.prototxt"))
    ]


def golden(prototxt: Path) -> dict[str, np.ndarray]:
    with np.load(prototxt.with_suffix(".npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Entries whose key starts with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def check_case(
    prototxt: Path, *, tolerance: float = TOLERANCE, fused: bool = False, **options: Any
) -> Net:
    """Run the net of one golden layer case as its README says, and compare every array."""
    arrays = golden(prototxt)
    if "random_seed" in arrays:
        options["seed"] = int(arrays["random_seed"])
    net = load_net(prototxt, phase=str(arrays["phase"]), **options)
    if "memory/data" in arrays:
        net.sources["x"].reset(arrays["memory/data"], arrays["memory/label"])
    net.keep_trace = True
    if fused:
        net.fuse()
    step = next(s for s in net.steps if s.node.name == "x")
    assert [str(s) for s in arrays["bottoms"]] == list(step.bottoms)
    assert [str(s) for s in arrays["tops"]] == list(step.tops)
    with torch.no_grad():
        for key, value in part(arrays, "param/").items():
            step.layer.blobs[int(key)].copy_(torch.from_numpy(value))
    for number in range(int(arrays["passes"])):
        prefix = f"pass{number}/" if number else ""
        _check_pass(net, step, arrays, prefix, tolerance)
    return net


def _check_pass(
    net: Net, step: Step, arrays: Mapping[str, np.ndarray], prefix: str, tolerance: float
) -> None:
    if prefix:
        for key, value in part(arrays, prefix + "param/").items():
            assert_close(step.layer.blobs[int(key)], value, f"{prefix}param {key}", tolerance)
    bottom_diffs = part(arrays, prefix + "bottom_diff/")
    param_diffs = part(arrays, prefix + "param_diff/")
    wanted = bool(bottom_diffs or param_diffs)
    inputs = {
        key: torch.tensor(value, requires_grad=wanted)
        for key, value in part(arrays, prefix + "in/").items()
    }
    for name in step.bottoms:  # not all inputs are recorded when the layer is a source
        if name in net.inputs and name not in inputs:
            inputs[name] = torch.zeros(net.blob_shapes[name])
    net(inputs)
    trace = {entry.step.node.name: entry for entry in net.trace}["x"]
    for key, value in part(arrays, prefix + "out/").items():
        assert_close(trace.top(key), value, f"{prefix}out {key}", tolerance)
    if prefix + "loss" in arrays:
        assert_close(net.loss, arrays[prefix + "loss"], f"{prefix}loss", tolerance)
    for key, value in part(arrays, prefix + "param_after/").items():
        assert_close(step.layer.blobs[int(key)], value, f"{prefix}param_after {key}", tolerance)
    if wanted:
        _check_backward(step, trace, arrays, prefix, tolerance)


def _check_backward(
    step: Step, trace: Any, arrays: Mapping[str, np.ndarray], prefix: str, tolerance: float
) -> None:
    bottom_diffs = part(arrays, prefix + "bottom_diff/")
    param_diffs = part(arrays, prefix + "param_diff/")
    tops, diffs = [], []
    for key, value in part(arrays, prefix + "top_diff/").items():
        top = trace.top(key)
        if top.requires_grad:
            tops.append(top)
            diffs.append(torch.from_numpy(value).reshape(top.shape))
    bottoms = {key: trace.bottom(key) for key in bottom_diffs}
    blobs = {key: step.layer.blobs[int(key)] for key in param_diffs}
    sources = [t for t in (*bottoms.values(), *blobs.values()) if t.requires_grad]
    found = torch.autograd.grad(tops, sources, diffs, allow_unused=True) if tops else ()
    grads = {id(t): g for t, g in zip(sources, found, strict=bool(tops))}
    for key, value in bottom_diffs.items():
        assert_close(_or_zeros(grads, bottoms[key]), value, f"{prefix}bottom_diff {key}", tolerance)
    for key, value in param_diffs.items():
        assert_close(_or_zeros(grads, blobs[key]), value, f"{prefix}param_diff {key}", tolerance)


def _or_zeros(grads: Mapping[int, torch.Tensor | None], tensor: torch.Tensor) -> torch.Tensor:
    grad = grads.get(id(tensor))
    return torch.zeros_like(tensor) if grad is None else grad


def net_cases() -> Iterator[Path]:
    return iter(sorted((GOLDEN / "nets").glob("*/meta*.json")))
