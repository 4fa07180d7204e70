"""Workers of a tiny net on one machine start, train and agree; a hundred of them at night."""

from __future__ import annotations

import json
import subprocess

from tests import warm
from tests.paths import NIGHT, ROOT

RANKS = 128 if NIGHT else 6


def test_they_agree() -> None:
    script = ROOT / "benchmarks" / "many_ranks.py"
    options = warm.command(str(script), "--ranks", str(RANKS), "--iterations", "20")
    run = subprocess.run(**options, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert found["agree"] and found["ranks"] == RANKS
    assert found["last loss"] < found["first loss"] / 10
    assert "Connection reset" not in run.stderr  # whoever keeps the store leaves last
