"""kill -9 again and again, at any moment: the run goes on, and its last bits are the same.

Runs are forks of this process, so that a kill costs no start of an interpreter. CAFFEIO_NIGHTLY
makes the campaign long, and kills workers too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import pytest

from caffeio.proto.weights.solverstate import newest_whole_pair
from tests.paths import NIGHT, ROOT, nightly
from tests.reliability.forked import check, run

KILLS = 60 if NIGHT else 3
COMMON = ["-q", "--weights", "init.caffemodel", "--set", "display=0",
          "--set", "test_initialization=false"]  # fmt: skip
BATCH = "layer[data].data_param.batch_size"  # snapshots stand at whole epochs of 200 records:
RUNS: dict[str, list[str]] = {  # a resumed run reads from the first record on, as Caffe's
    "plain": ["max_iter=24", "snapshot=4", "test_interval=1000", f"{BATCH}=50"],
    "hdf5": ["max_iter=24", "snapshot=4", "test_interval=1000", f"{BATCH}=50",
             "snapshot_format=HDF5"],
    "in tests": ["max_iter=16", "snapshot=4", "test_interval=2", f"{BATCH}=50"],
    "in snapshots": ["max_iter=20", "snapshot=1", "test_interval=1000", f"{BATCH}=200"],
    "iter_size": ["max_iter=12", "snapshot=2", "test_interval=5", "iter_size=2", f"{BATCH}=50"],
}  # fmt: skip


def settings(words: list[str]) -> list[str]:
    return [part for word in words for part in ("--set", word)]


def files(pattern: str) -> dict[str, object]:
    """What the files hold, to the bit."""
    paths = sorted(Path().glob(pattern))
    return {p.name: numbers(p) if p.suffix == ".h5" else p.read_bytes() for p in paths}


def numbers(path: Path) -> dict[str, bytes]:
    """An HDF5 file's data sets: the file itself holds times too."""
    found = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes() if item.shape else bytes(str(item[()]), "utf-8")

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def clear(pattern: str) -> None:
    for path in Path().glob(pattern):
        path.unlink()


def campaign(
    arguments: list[str], pattern: str, snapshots: str, rng: random.Random, *, anew: bool = False
) -> list[int]:
    """Run to the end, then again with kills: the last files are equal.

    Returns for each kill how many pairs had been written by then. A run that comes to its end is
    begun behind its last pair but one, or `anew`.
    """
    assert check(run(*arguments)).code == 0
    clear(snapshots)
    begin = time.monotonic()  # of the second run: the first one imports
    assert check(run(*arguments)).code == 0
    whole, length = files(pattern), time.monotonic() - begin
    assert len(whole) == 2, whole.keys()
    clear(snapshots)
    killed: list[int] = []
    tries = 0
    while tries < KILLS or (not killed and tries < 20 * KILLS):
        tries += 1
        ended = run(*arguments, seconds=rng.uniform(0.01, length))
        if ended.code == -signal.SIGALRM:
            killed.append(len(list(Path().glob(snapshots))) // 2)
        elif ended.code == 0:
            clear(snapshots if anew else pattern)
    assert killed
    assert check(run(*arguments)).code == 0
    assert files(pattern) == whole
    assert not [path.name for path in Path().iterdir() if path.name.startswith(".")]
    return killed


@pytest.mark.parametrize("name", RUNS if NIGHT else [name for name in RUNS if name != "plain"])
def test_single_runs(name: str, training_case: Path) -> None:
    words = RUNS[name]
    last = words[0].partition("=")[2]
    arguments = ["train", "solver.prototxt", "--snapshot", "auto", *COMMON, *settings(words)]
    killed = campaign(arguments, f"snap_iter_{last}.*", "snap_iter_*", random.Random(name))
    assert len(killed) > KILLS // 4 or not NIGHT


def test_chains(training_case: Path) -> None:
    """Three phases; killed in each of them."""
    text = Path("solver.prototxt").read_text()
    names = []
    for i in range(3):
        names.append(f"solver_{i}.prototxt")
        Path(names[-1]).write_text(text.replace('prefix: "snap"', f'prefix: "p{i}"'))
    words = settings(["max_iter=8", "snapshot=2", "test_interval=3", f"{BATCH}=100"])
    arguments = ["train", *names, *COMMON, *words]
    killed = campaign(arguments, "p2_iter_8.*", "p?_iter_*", random.Random(3), anew=True)
    if NIGHT:
        phases = Counter(min(pairs // 4, 2) for pairs in killed)  # four pairs a phase
        assert len(phases) == 3 and min(phases.values()) >= 3, phases


CALLS = (
    "open",
    "write",
    "writev",
    "pwrite",
    "fsync",
    "link",
    "rename",
    "replace",
    "unlink",
    "close",
)


@pytest.mark.parametrize("first", range(1, 6) if NIGHT else [1])
def test_a_kill_at_every_call_of_a_snapshot(first: int, training_case: Path) -> None:
    """The process dies at its n-th call of the system, for each n: whole pairs, and it goes on."""
    arguments = ["train", "solver.prototxt", "--snapshot", "auto", *COMMON,
                 *settings(["max_iter=4", "snapshot=2", "test_interval=1000"]),
                 "--set", f"{BATCH}=100"]  # fmt: skip
    assert check(run(*arguments)).code == 0
    whole = files("snap_iter_4.*")
    for number in range(first, 400, 5 if NIGHT else 7):
        clear("snap_iter_*")
        ended = run(*arguments, before=partial(die_at, number))
        if ended.code == 0:
            assert number > 10
            break
        assert ended.code == -signal.SIGKILL, ended
        pair = newest_whole_pair("snap")
        assert pair is None or pair[2] in (2, 4)
        assert check(run(*arguments)).code == 0
        assert files("snap_iter_4.*") == whole, number
    else:
        pytest.fail("it never came to its end")


def die_at(number: int) -> None:
    """In the child: kill it at its `number`-th call that has to do with snapshots."""
    from caffeio.proto.io import atomic

    left = [number]

    class Deadly:
        """The module os, with a limit."""

        def __getattr__(self, name: str) -> object:
            found = getattr(os, name)
            return counted(found) if name in CALLS else found

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object, **keywords: object) -> object:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return counting

    atomic.os = Deadly()  # type: ignore[assignment]


@nightly
@pytest.mark.parametrize("who", ["launcher", "root", "worker"])
@pytest.mark.parametrize("count", [2, 3])
def test_workers(who: str, count: int, training_case: Path) -> None:
    """Several workers; somebody is killed, and the same command goes on."""
    arguments = ["train", "solver.prototxt", "--nproc", str(count), "--snapshot", "auto", *COMMON,
                 *settings(["max_iter=300", "snapshot=20", "test_interval=50"])]  # fmt: skip

    def start() -> subprocess.Popen[bytes]:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, "-m", "caffeio.cli", *arguments], env=env)

    assert start().wait(300) == 0
    whole = files("snap_iter_300.*")
    clear("snap_iter_*")
    rng, killed = random.Random(who), 0
    for _ in range(5):
        process, before = start(), newest_whole_pair("snap")
        while newest_whole_pair("snap") == before and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        victims = [process.pid] if who == "launcher" else _workers(process.pid, who)
        if process.poll() is None:
            assert victims
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            killed += 1
        process.wait(120)
        clear("snap_iter_300.*")
    assert killed >= 3
    assert start().wait(300) == 0
    assert files("snap_iter_300.*") == whole


def _workers(launcher: int, who: str) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    return pids[:1] if who == "root" else pids[1:]
