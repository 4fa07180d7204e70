"""Random nets (those that real Caffe ran) with random flags: the same numbers, or an error."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.export import export_onnx
from caffeio.converters.onnx.verify import check_onnx
from caffeio.converters.verify.check import LIMIT, LIMIT_HALF
from caffeio.errors import CaffeIOError
from tests.fuzz.golden_nets import cases_of
from tests.paths import nightly

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NEWEST = min(24, onnx.defs.onnx_opset_version())
CASES = [case for name in ("nets", "inplace") for case in cases_of(name)]


def flags(seed: str) -> Choices:
    """Flags that the seed chooses."""
    die = random.Random(seed)
    return Choices(
        # the same draws whatever the onnx that is here
        opset=min(NEWEST, die.choice([n for n in range(9, 25) if n != 17])),
        fold=die.random() < 0.6,
        half=die.random() < 0.25,
        dynamic=frozenset(axis for axis in ("batch", "height", "width") if die.random() < 0.3),
    )


def hold(case: dict[str, Any], choices: Choices, path: Path) -> bool:
    """Export and compare; False if the net, or this form of it, is refused."""
    try:
        export_onnx(case["text"], None, path, choices=choices)
    except CaffeIOError:
        return False
    onnx.checker.check_model(str(path), full_check=True)
    try:
        found = check_onnx(case["text"], None, path)
    except CaffeIOError as error:  # as given the net is none, or it yields no number
        assert "does not run" not in str(error)
        return False
    for row in found.rows:
        limit = max(LIMIT_HALF if choices.half else LIMIT, 20 * (row.rounding or 0))
        assert row.relative <= limit or row.absolute <= 1e-6, (case["seed"], choices, row)
    return True


def test_the_same_or_an_error(tmp_path: Path) -> None:
    held = sum(
        hold(case, flags(f"{case['seed']}/{turn}"), tmp_path / "m.onnx")
        for case in CASES[5::30]
        for turn in range(2)
    )
    assert held >= 12  # most of what is not refused is compared


@nightly
def test_all_nets(tmp_path: Path) -> None:
    for case in CASES:
        for turn in range(3):
            hold(case, flags(f"all {case['seed']}/{turn}"), tmp_path / "m.onnx")
