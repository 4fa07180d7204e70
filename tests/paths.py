"""Where test data lies, and which tests run here and now."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"

EXPORTS_PROGRAMS = tuple(map(int, version("torch").split(".")[:2])) >= (2, 7)
NO_PROGRAMS = "the exporter of torch 2.6 fails in onnxscript's own conversion of versions"

NIGHT = "CAFFEIO_NIGHTLY" in os.environ  # `make test-nightly`: all cases, not the small ones alone
nightly = pytest.mark.skipif(not NIGHT, reason="runs at night")
needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason="the reference material beside the repository is absent"
)
needs_unix = pytest.mark.skipif(
    os.name != "posix",
    reason="Windows has no links for everybody, modes, pipes with names, kill -9",
)
