"""Ask protobuf's C++ TextFormat about many texts or messages at once."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.paths import ROOT


def ask(
    questions: Sequence[tuple[str, str, bytes]], types: Sequence[str], folder: Path
) -> list[tuple[bool, bytes, str]]:
    """For each (mode, message type, data): whether C++ took it, its output, its error text."""
    cases, answers = folder / "cases", folder / "answers"
    lines = [json.dumps([m, t, base64.b64encode(d).decode()]) for m, t, d in questions]
    cases.write_text("\n".join(lines))
    script = Path(__file__).with_name("cpp_textformat.py")
    subprocess.run(
        [sys.executable, str(script), str(cases), str(answers), *types],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    out = [json.loads(line) for line in answers.read_text().splitlines()]
    return [(code == 0, base64.b64decode(data), error) for code, data, error in out]
