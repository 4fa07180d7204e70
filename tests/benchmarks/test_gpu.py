"""The script for GPU machines, without one: every part runs, and says what it found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests import warm
from tests.paths import ROOT


def measured(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "benchmarks" / "gpu.py")
    options = warm.command(script, "--device", "cpu", "--quick", *words)
    return subprocess.run(**options, cwd=folder, capture_output=True, text=True, check=False)


def test_all_parts_run_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run = measured("--json", str(out), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "ERROR" not in run.stdout, run.stdout + run.stderr
    found = json.loads(out.read_text())
    layers = found["parity"]["layers"]
    assert len(layers) > 10 and all(row["forward"] < 1e-5 for row in layers.values())
    assert all(row["backward"] < 1e-5 for row in layers.values())
    assert all(row["losses"] < 1e-5 for row in found["parity"]["trainings"].values())
    assert found["parity"]["random nets"]["nets"] > 5
    assert found["parity"]["random nets"]["above 1e-4"] == 0
    assert {row["mode"] for row in found["step"]} == {"fp32", "bf16"}
    assert all(row["caffeio"] > 0 and row["plain"] > 0 for row in found["step"])
    assert found["infer"]["ran prepared"] == "True"
    assert float(found["infer"]["prepared and as written apart"]) < 2e-5
    assert found["loader"]["training images/s"] > 0
    assert found["train"]["snapshot in the background, file whole, ms"] > 0
    assert "mode            batch   caffeio" in run.stdout


def test_without_time_the_file_is_written_all_the_same(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run = measured("--seconds", "-1", "--json", str(out), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    assert found["step"]["error"] == found["train"]["error"] == "TimeoutError: no time left"
    assert "ERROR in step: TimeoutError: no time left" in run.stdout
    assert list(tmp_path.iterdir()) == [out]
