"""examples/pycaffe runs as its README says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests import warm
from tests.paths import ROOT


def test_dream(tmp_path: Path) -> None:
    done = subprocess.run(
        **warm.caffeio("run", str(ROOT / "examples/pycaffe/dream.py")),
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = [float(x) for x in re.findall(r"^step \d: (\S+)$", done.stdout, re.MULTILINE)]
    assert len(values) == 5 and values == sorted(values) and values[-1] > 1.2 * values[0]
    assert "same after reading: True" in done.stdout
    [(exact, by_differences)] = re.findall(r"gradient (\S+), by differences (\S+)", done.stdout)
    assert abs(float(exact) - float(by_differences)) <= 0.02 * abs(float(exact)) + 0.02
    assert {path.name for path in tmp_path.iterdir()} == {"net.caffemodel", "dream.png"}
