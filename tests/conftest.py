from __future__ import annotations

import atexit
import gc
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from caffeio.memory import keep_freed_memory
from tests.paths import GOLDEN, NIGHT

# Workers of pytest-xdist share the cores; this must stand before torch is imported. When all is
# said, they end: what they hold goes with them, and need not be freed piece by piece.
if os.environ.get("PYTEST_XDIST_WORKER"):
    atexit.register(os._exit, 0)
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ["OMP_NUM_THREADS"] = str(max(1, share))

# A quarter of the processor's time of large nets goes into pages that are given back and got anew.
keep_freed_memory()


def _without_the_disk(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
    """Wait for what is no file or folder only: disks are slow, and no test cuts the power."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        fsync(descriptor)


if not NIGHT:
    os.fsync = _without_the_disk

# The suite draws the same examples in every run; nightly runs draw others. Neither goes by the
# clock: hypothesis' own limits would fail a test because the machine is busy.
TIMELESS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, max_examples=60, **TIMELESS)
settings.register_profile("other", **TIMELESS)
settings.load_profile("other" if NIGHT else "same")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there for all tests is searched for garbage, and copied by forks, no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # as the commands do
    forked = sys.modules.get("tests.reliability.forked")
    if forked is not None and not session.config.option.collectonly:
        forked.begin()


def pytest_sessionfinish() -> None:
    """What is garbage now is looked at once; a worker's heap of gigabytes takes long each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def training_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of golden/solvers/sgd_fixed without Caffe's snapshots, as the working folder."""
    folder = tmp_path / "solvers" / "sgd_fixed"
    shutil.copytree(GOLDEN / "solvers" / "sgd_fixed", folder)
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    for path in folder.glob("snap_iter_*"):
        path.unlink()
    monkeypatch.chdir(folder)
    return folder
