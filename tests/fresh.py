"""What a new interpreter imports: processes of their own, not the forks of `warm`."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.paths import ROOT

_COMMAND = """
import json, sys
from caffeio.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code in (None, 0, 1), end.code
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_of(*arguments: str) -> frozenset[str]:
    """The names of all modules that are there when `caffeio ARGUMENTS` has run to its end."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout.rstrip().rpartition("\n")[2]))
