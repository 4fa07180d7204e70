"""The demo with the wheel's own dependencies: what needs an extra is left out, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.demo import run as demo
from caffeio.demo.run import DemoReport


@pytest.mark.parametrize("lean", [False, True])
def test_extras_are_named(lean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = DemoReport({"init": 0.5}, onnx=Path("n.onnx"), caffemodel=Path("n.caffemodel"))
    if not lean:
        report.onnx_error, report.picture = 1e-6, Path("n.png")
    monkeypatch.setattr(demo, "run", lambda *_: report)
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for word in ("caffeio[onnx]", "caffeio[plot]"):
        assert (word in result.output) == lean
    assert ("at most 1.0e-06" in result.output) != lean


def test_nothing_is_drawn_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo._draw(tmp_path, DemoReport()) is None
