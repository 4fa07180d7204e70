"""examples/pycaffe runs as its README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT


def test_dream(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "caffeio.cli", "run", ROOT / "examples/pycaffe/dream.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    values = [float(x) for x in re.findall(r"^step \d: (\S+)$", done.stdout, re.MULTILINE)]
    assert len(values) == 5 and values == sorted(values) and values[-1] > 1.2 * values[0]
    assert "same after reading: True" in done.stdout
    [(exact, by_differences)] = re.findall(r"gradient (\S+), by differences (\S+)", done.stdout)
    assert abs(float(exact) - float(by_differences)) <= 0.02 * abs(float(exact)) + 0.02
    assert {path.name for path in tmp_path.iterdir()} == {"net.caffemodel", "dream.png"}
