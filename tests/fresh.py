"""What a new interpreter imports: processes of their own, not the forks of `warm`."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.paths import ROOT

_COMMAND = """
import sys
from caffeio.cli.main import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert (end.code or 0) == int(sys.argv[1]), end.code
loaded = sorted(sys.modules)
import json
print("\\n" + json.dumps(loaded))
"""


def modules_of(*arguments: str, code: int = 0) -> frozenset[str]:
    """The names of all modules that are there when `caffeio ARGUMENTS` has ended with `code`."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, str(code), *arguments], capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout.rstrip().rpartition("\n")[2]))
