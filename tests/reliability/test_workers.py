"""Workers that are killed, stopped, left behind, or not the same: one line, and nobody waits."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caffeio.data.db.lmdb import LmdbDatabase, write_lmdb
from caffeio.errors import CaffeIOError
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training.connection import is_connection_error, lost_workers
from caffeio.training.facts import facts_of
from caffeio.training.job import read_job
from caffeio.training.launch import _first_failed
from caffeio.training.options import TrainFields, TrainOptions
from caffeio.training.watchdog import Watchdog, watched
from tests import warm

ENDLESS = ["max_iter=1000000", "display=0", "test_interval=1000000", "test_initialization=false"]
SET = [word for setting in ENDLESS for word in ("--set", setting)]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Run:
    """`caffeio train solver.prototxt ARGUMENTS`, with what it says in a file."""

    def __init__(self, *arguments: str, name: str = "err", **env: str) -> None:
        self.path = Path(name)
        self.started: list[int] = []
        with self.path.open("wb") as err:
            self.process = subprocess.Popen(
                **warm.caffeio("train", "solver.prototxt", *arguments, env=env),
                stderr=err, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.path.read_text()

    def until(self, path: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not (Path(path).exists() and Path(path).stat().st_size):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def workers(self) -> dict[int, int]:
        """Process ids by rank, in which order they are started; none of one that has ended."""
        pid = self.process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.started = [int(child) for child in children] or self.started
        return {rank: child for rank, child in enumerate(self.started) if runs(child)}

    def errors(self) -> list[str]:
        assert "Traceback" not in self.said, self.said
        return [line for line in self.said.splitlines() if line.startswith("Error")]


@pytest.fixture
def pair(training_case: Path) -> Iterator[Run]:
    """Two workers in the middle of an endless training that snapshots now and then."""
    run = Run("--nproc", "2", "--metrics", "m.jsonl", "--worker-timeout", "4", *SET,
              "--set", "snapshot=20")  # fmt: skip
    run.until("m.jsonl")
    yield run
    for pid in run.workers().values():
        os.kill(pid, signal.SIGKILL)
    if run.process.poll() is None:
        run.process.kill()
    run.process.wait()


@pytest.mark.parametrize(
    ("codes", "first"),
    [((None, 2), 1), ((2, -9), 1), ((-9, 2), 0), ((-6, -9), 1), ((2, -6), 0), ((0, 2, 3), 1)],
)
def test_who_is_killed_made_the_others_fail(codes: tuple[int | None, ...], first: int) -> None:
    assert _first_failed(codes) == first


def test_a_killed_worker_is_named(pair: Run) -> None:
    pid = pair.workers()[1]
    os.kill(pid, signal.SIGKILL)
    assert pair.process.wait(60) == 128 + signal.SIGKILL
    errors = pair.errors()
    wanted = f"worker 1 (host {socket.gethostname()}, process {pid}) was killed by SIGKILL"
    assert any(wanted in line for line in errors), errors
    assert len(errors) <= 2
    assert newest_whole_pair("snap") is not None  # the root saved its work
    assert not pair.workers()


@pytest.mark.slow
def test_a_stopped_worker_is_found(pair: Run) -> None:
    pid = pair.workers()[1]
    os.kill(pid, signal.SIGSTOP)
    assert pair.process.wait(90) == 2
    assert re.search(
        rf"Error \(worker 0\): worker 1 \(host \S+, process {pid}\) has given no sign of life for "
        r"4 seconds",
        pair.said,
    )
    assert not pair.workers()


@pytest.mark.slow
def test_workers_end_with_their_launcher(pair: Run) -> None:
    assert len(pair.workers()) == 2
    pair.process.kill()
    pair.process.wait()
    deadline = time.monotonic() + 10
    while pair.workers():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_restarts_go_on_from_the_newest_pair(training_case: Path) -> None:
    run = Run("--nproc", "2", "--metrics", "m.jsonl", "--max-restarts", "1", *SET,
              "--set", "snapshot=5")  # fmt: skip
    run.until("m.jsonl")
    deadline = time.monotonic() + 60
    while newest_whole_pair("snap") is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first = run.workers()
    os.kill(first[1], signal.SIGKILL)
    deadline = time.monotonic() + 90
    while "Resuming from snap_iter_" not in run.said:
        assert run.process.poll() is None and time.monotonic() < deadline, run.said
        time.sleep(0.1)
    assert set(run.workers().values()).isdisjoint(first.values())
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.process.wait(60) == 0, run.said


@pytest.mark.slow
def test_a_signal_while_a_worker_hears_nothing(pair: Run) -> None:
    """Worker 1 is stopped, so worker 0 waits inside an exchange: both end, and nothing is lost."""
    os.kill(pair.workers()[1], signal.SIGSTOP)
    time.sleep(1)
    pair.process.send_signal(signal.SIGTERM)
    assert pair.process.wait(90) in (0, 2), pair.said  # 2: the watchdog was faster
    assert newest_whole_pair("snap") is not None
    assert not pair.workers()


@pytest.mark.slow
def test_the_worker_that_fails_first_is_named(training_case: Path) -> None:
    """Both say what is wrong; the launcher says who began, from the workers' error files."""
    Path("snap_iter_1.caffemodel").mkdir()
    run = Run("--nproc", "2", *SET, "--set", "snapshot=1")
    assert run.process.wait(90) == 2, run.said
    [last] = [line for line in run.said.splitlines() if line.startswith("caffeio: worker")]
    assert re.match(r"caffeio: worker 0 \(host \S+, process \d+\) was the first to fail: ", last)
    assert "snap_iter_1.caffemodel" in last


@pytest.mark.slow
def test_torchrun_restarts_from_the_newest_pair(training_case: Path) -> None:
    """torchrun's own restart: the worker that is killed, and all others, begin at the snapshot."""
    command = warm.command(
        "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2",
        "--standalone", "-m", "caffeio.cli", "train", "solver.prototxt", *SET,
        "--set", "snapshot=5",
    )  # fmt: skip
    with Path("err").open("wb") as err:
        agent = subprocess.Popen(**command, stderr=err, start_new_session=True)
    try:
        _until(lambda: newest_whole_pair("snap") is not None, agent)
        os.kill(_child_of(agent.pid, rank=1), signal.SIGKILL)
        _until(lambda: "Resuming from snap_iter_" in Path("err").read_text(), agent)
        agent.send_signal(signal.SIGTERM)
        agent.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)


def _until(done: Callable[[], bool], process: subprocess.Popen[bytes], seconds: int = 120) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None and time.monotonic() < deadline, Path("err").read_text()
        time.sleep(0.1)


def _child_of(parent: int, rank: int) -> int:
    """The process of a worker: they are started in their order."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert len(children) == 2
    return int(children[rank])


def two(*differs: str) -> list[Run]:
    """Two workers that were started one by one, the second with other arguments."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    short = ("--set", "max_iter=3")
    return [
        Run(*short, *(differs if rank else ()), name=f"err{rank}", RANK=str(rank),
            LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        (("--set", "max_iter=5"), ["max_iter", ": 3 and 5"]),
        pytest.param(("--set", "base_lr=0.5"), ["base_lr", "and 0.5"], marks=pytest.mark.slow),
        pytest.param(("--weights", "init.caffemodel"), ["the weights"], marks=pytest.mark.slow),
        pytest.param(
            ("--set", "layer[data].data_param.batch_size=7"),
            ["the training net"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_workers_that_are_not_the_same(
    training_case: Path, differs: tuple[str, ...], words: list[str]
) -> None:
    for run in two(*differs):
        assert run.process.wait(90) == 2, run.said
        [line] = run.errors()
        assert "worker 1" in line
        for word in ("the workers do not train the same", *words):
            assert word in line


@pytest.mark.parametrize("option", [{"gradients": "bf16"}, {"precision": "bf16"},
                                    {"async_snapshots": True}])  # fmt: skip
def test_options_that_differ_are_found(option: TrainFields, training_case: Path) -> None:
    """They say which numbers are exchanged, and when."""
    job = read_job("solver.prototxt")
    one, other = (facts_of(job, options) for options in (TrainOptions(), TrainOptions(**option)))
    [name] = [name for name in one if one[name] != other[name]]
    assert name == "--" + next(iter(option)).replace("_", "-")


def test_data_that_differ_are_found(training_case: Path) -> None:
    """As many records, one of them another; a mean file; a list of pictures."""
    job = read_job("solver.prototxt")
    before = facts_of(job, TrainOptions())["the data"]
    assert before.split()[0].isdigit()
    assert facts_of(read_job("solver.prototxt"), TrainOptions())["the data"] == before
    source = Path(job.train.message.layer[0].data_param.source)
    records = [(bytes(k), bytes(v)) for k, v in LmdbDatabase(str(source)).records()]
    records[3] = (records[3][0], records[4][1])
    write_lmdb("other_lmdb", records)
    changed = f"layer[data].data_param.source={Path('other_lmdb').resolve()}"
    other = read_job("solver.prototxt", TrainOptions(overrides=[changed]))
    after = facts_of(other, TrainOptions())["the data"]
    assert after.split()[0] == before.split()[0] and after != before
    Path("mean").write_bytes(b"a")
    with_mean = TrainOptions(overrides=["layer[data].transform_param.mean_file=mean"])
    one = facts_of(read_job("solver.prototxt", with_mean), TrainOptions())["the data"]
    Path("mean").write_bytes(b"b")
    assert facts_of(read_job("solver.prototxt", with_mean), TrainOptions())["the data"] != one


def test_a_busy_port_is_one_line(training_case: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        run = Run(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                  MASTER_PORT=port, name="err")  # fmt: skip
        assert run.process.wait(60) == 2
    assert len(run.errors()) == 1 and f"port 127.0.0.1:{port} is in use" in run.said


@pytest.mark.slow
def test_nobody_comes(training_case: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    run = Run("--worker-timeout", "3", RANK="1", LOCAL_RANK="1", WORLD_SIZE="2",
              MASTER_ADDR="127.0.0.1", MASTER_PORT=port)  # fmt: skip
    assert run.process.wait(60) == 2
    [line] = run.errors()
    assert "the other workers cannot be reached at 127.0.0.1" in line


def test_a_watchdog_counts_only_its_own_time() -> None:
    """After its own process was stopped, it waits again before it blames another one."""
    dog = Watchdog(0, 3, 10.0)
    now = time.monotonic()
    dog._touched = now
    dog._seen = {1: ("7 host 42", now), 2: ("", now)}
    assert dog.problem(now + 5) is None
    dog._touched = now + 11
    dog._seen[2] = ("1 other 43", now + 11)
    assert dog.problem(now + 11) is not None
    assert "worker 1 (host host, process 42)" in (dog.problem(now + 11) or "")
    dog._seen[1] = ("8 host 42", now + 11)
    assert dog.problem(now + 20) is None
    assert "the store at" in (dog.problem(now + 22) or "")


@pytest.mark.parametrize("size", [2, 3, 8, 128])
def test_nobody_is_unwatched_and_nobody_watches_all_but_the_first(size: int) -> None:
    seen = {rank: watched(rank, size) for rank in range(size)}
    assert seen[0] == list(range(1, size))
    for rank in range(1, size):
        assert rank not in seen[rank] and 0 in seen[rank] and len(seen[rank]) <= 2
        others = [w for w in range(1, size) if rank in seen[w]]
        assert size == 2 or others == [rank - 1 if rank > 1 else size - 1] or rank == 1
    assert sum(map(len, seen.values())) <= 3 * size


def test_which_errors_mean_a_lost_worker() -> None:
    gone = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1")
    assert is_connection_error(gone) and "another worker has gone" in str(lost_workers(gone))
    assert not is_connection_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert isinstance(lost_workers(gone), CaffeIOError)
