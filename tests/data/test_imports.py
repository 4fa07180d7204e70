"""What can be used without torch does not load it."""

from __future__ import annotations

import subprocess
import sys


def test_no_torch() -> None:
    names = ("db", "lmdb_db", "datum", "annotation", "image", "transform", "tools", "boxes", "rng")
    code = f"import sys\nimport caffeio.data\nfor name in {names}:\n"
    code += "    __import__(f'caffeio.data.{name}')\n    assert 'torch' not in sys.modules, name\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
