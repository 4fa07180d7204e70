"""What can be used without torch does not load it."""

from __future__ import annotations

import subprocess
import sys


def test_no_torch() -> None:
    names = (
        "data.db.database", "data.db.lmdb", "data.draws", "data.records.annotated_datum",
        "data.records.datum", "data.transform.boxes", "data.transform.image",
        "data.transform.transformer", "tools.create_db", "tools.db_stats", "tools.imageset",
        "tools.sheet",
    )  # fmt: skip
    code = f"import sys\nimport caffeio.data\nfor name in {names}:\n"
    code += "    __import__(f'caffeio.{name}')\n    assert 'torch' not in sys.modules, name\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
