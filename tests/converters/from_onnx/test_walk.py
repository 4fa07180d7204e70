"""The walk of all nets by Caffe -> ONNX -> Caffe, as the nightly job makes it, over a few."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from caffeio.converters.from_onnx.compared import Compared, VerifyReport
from tests.converters.from_onnx import helpers, round_trips

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs nets in forks")


def test_the_walk_tells_what_came_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "walk.jsonl"
    words = ["tests/golden/nets/r", "tests/golden/layers/Crop", "tests/golden/layers/Accuracy/top1"]
    assert round_trips.main(["--log", str(log), *words]) == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = {row["net"].removeprefix("tests/golden/"): row for row in rows}
    net = found["nets/residual_inplace/net.prototxt"]
    assert net["status"] == "equal"
    assert net["worst"] <= round_trips.NEAR
    assert 0 < net["after"] <= round_trips.MORE * net["before"]
    assert {row["status"] for row in rows} <= set(round_trips.FINE)
    assert "equal: off by" in capsys.readouterr().out
    # nets that the log holds are not run again, and a finding is the exit code
    log.write_text(log.read_text().replace('"status": "equal"', '"status": "off"', 1))
    monkeypatch.setattr(round_trips, "apart", lambda *_: pytest.fail("ran again"))
    assert round_trips.main(["--log", str(log), *words]) == 1


def a_case() -> round_trips.Case:
    [case] = [c for c in round_trips.cases()
              if c.name == "tests/golden/nets/residual_inplace/net.prototxt"]  # fmt: skip
    return case


def test_a_net_that_takes_too_long_or_dies_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert round_trips.apart(a_case(), 0.0).status == "slow"
    monkeypatch.setattr(round_trips, "walk", lambda *_: os._exit(3))
    died = round_trips.apart(a_case(), 60)
    assert (died.status, died.why) == ("died", "exit code 3")


def test_what_is_farther_off_is_held_against_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trips, "NEAR", -1.0)  # so that this net is
    monkeypatch.setattr(helpers, "EQUAL_RANK", 10)
    found = round_trips.walk(a_case(), {})
    assert found.status == "equal"
    assert 0 < max(found.float64) < 1e-5
    monkeypatch.setattr(helpers, "EQUAL_RANK", 0)
    assert round_trips.walk(a_case(), {}).status == "off"
    assert not helpers.of_equal_rank(0.2, 0.2)


@pytest.mark.parametrize(
    ("largest", "means", "equal"),
    [
        ((2.2e-5, 1e-5), (2.5e-6, 1.9e-6), True),  # an Inception with BatchNorm, layer for layer
        ((2.2e-5, 1e-5), (3.5e-6, 1.9e-6), False),
        ((4e-5, 1e-5), (1.9e-6, 1.9e-6), False),
        ((0.2, 0.2), (0.1, 0.1), False),
        ((float("inf"), 1e-5), (float("inf"), 1e-6), False),
    ],
)
def test_of_two_right_runs_the_means_are_alike(
    largest: tuple[float, float], means: tuple[float, float], equal: bool
) -> None:
    assert round_trips.are_equal([*largest, *means]) is equal


@pytest.mark.parametrize(
    ("rois", "scores", "inner", "near"),
    [(5e-5, 9e-6, 5e-5, True), (5e-5, 5e-5, 0, False), (2e-4, 0, 0, False), (0, 0, 2e-4, False)],
)
def test_only_chosen_rows_have_the_wider_limit(
    rois: float, scores: float, inner: float, near: bool
) -> None:
    steps = [SimpleNamespace(layer=SimpleNamespace(dynamic=top == "rois"), tops=[top])
             for top in ("rois", "scores")]  # fmt: skip
    built = SimpleNamespace(outputs={"rois": "R", "scores": "S"})
    found = [Compared(name, runs=[("normal", off, 1.0)])
             for name, off in (("R", rois), ("S", scores), ("in", inner))]  # fmt: skip
    report = VerifyReport(found[:2], ["normal"], [], {"in": found[2]})
    net: Any = SimpleNamespace(steps=steps)
    assert round_trips.is_near(net, cast(Any, built), report) is near
