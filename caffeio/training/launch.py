"""`caffeio train --nproc N`: the workers of one machine, started, watched and started again.

What torchrun does on one machine, but for signals: torchrun ends a job at SIGHUP too, kills workers
that need more than 30 seconds for their last snapshot, and returns 1 (with a traceback) where a
training has stopped as it was told to (torch 2.13: SignalException in elastic/agent/server/api.py,
`close` in elastic/multiprocessing/api.py). Here they reach the workers, which agree on what to do.
The launcher keeps the workers' store, as torchrun's agent does, so that no worker's end takes it
away, gives each an error file as torchrun does (TORCHELASTIC_ERROR_FILE), and names the worker
that failed first. Workers that torchrun starts do the same without it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from caffeio.data.cores import usable_cores
from caffeio.visible import visible

_PATIENCE = 20.0  # seconds that workers get to end after the first one that was told to
_LAST_WORDS = 3.0  # seconds that workers get to say what they have to say, and to rescue


def launch(workers: int, arguments: Sequence[str], *, max_restarts: int = 0) -> int:
    """Run `caffeio ARGUMENTS` as `workers` processes of this machine; the first failure's code.

    After a failure all are started again, at most `max_restarts` times; they go on from the newest
    whole pair of snapshots. Workers do not outlive this process.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False,
                          timeout=timedelta(seconds=300))  # fmt: skip
    processes: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def forward_signal(number: int, frame: object) -> None:
        asked.append(number)
        _forward_signal(processes, number)

    errors = Path(tempfile.mkdtemp(prefix="caffeio-errors-"))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, forward_signal) for number in numbers}
    try:
        for restart in range(max_restarts + 1):
            processes[:] = _start(workers, arguments, store.port, restart, max_restarts, errors)
            code = _wait(processes, asked, errors)
            ended = _told_to_end(asked)
            if code == 0 or ended or restart == max_restarts:
                return code
            _say(f"caffeio: start {restart + 2} of at most {max_restarts + 1}")
        raise AssertionError
    finally:
        shutil.rmtree(errors, ignore_errors=True)
        for number, handler in old.items():
            signal.signal(number, handler)


def _start(
    workers: int, arguments: Sequence[str], port: int, restart: int, max_restarts: int, errors: Path
) -> list[subprocess.Popen[bytes]]:
    for old in errors.iterdir():
        old.unlink()
    threads = max(1, usable_cores() // workers)
    processes = []
    for rank in range(workers):
        env = {
            **os.environ,
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers),
            "LOCAL_WORLD_SIZE": str(workers),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(restart),
            "TORCHELASTIC_MAX_RESTARTS": str(max_restarts),
            "TORCHELASTIC_ERROR_FILE": str(errors / f"{rank}.json"),
            "CAFFEIO_LAUNCHER": str(os.getpid()),
        }  # fmt: skip
        env.setdefault("OMP_NUM_THREADS", str(threads))
        command = [sys.executable, "-m", "caffeio.cli", *arguments]
        try:
            processes.append(subprocess.Popen(command, env=env, start_new_session=True))
        except BaseException:  # those that run wait for this one
            _forward_signal(processes, signal.SIGKILL)
            raise
    return processes


def _forward_signal(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _told_to_end(asked: Sequence[int]) -> bool:
    return any(number != signal.SIGHUP for number in asked)


def _wait(processes: Sequence[subprocess.Popen[bytes]], asked: Sequence[int], errors: Path) -> int:
    """Wait for all; when one fails the others cannot go on and are ended.

    When one has ended as it was told to, the others get a while: who is stopped hears no signal.
    """
    deadline = math.inf
    while True:
        codes = [process.poll() for process in processes]
        if any(codes):
            codes = [process.poll() for process in processes]  # who ended meanwhile, too
            failed = _first_failed(codes)
            code = codes[failed] or 0
            if code < 0:
                _say(
                    f"Error: worker {failed} (host {socket.gethostname()}, process "
                    f"{processes[failed].pid}) was killed by {_name(-code)}"
                )
            else:
                _tell(processes, failed, errors)
            _end(processes)
            return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        if 0 in codes and _told_to_end(asked):
            deadline = min(deadline, time.monotonic() + _PATIENCE)
        if time.monotonic() > deadline:
            late = [str(rank) for rank, code in enumerate(codes) if code is None]
            _say(f"Error: worker {', '.join(late)} did not end when told to, and was killed")
            _end(processes)
            return 0 if codes[0] == 0 else 128 + signal.SIGKILL
        time.sleep(0.05)


def _first_failed(codes: Sequence[int | None]) -> int:
    """The worker that made the others fail, of those that have failed.

    Who is killed comes first: those that lose a worker end with an error, or abort as NCCL does.
    """
    failed = [rank for rank, code in enumerate(codes) if code]
    return min(failed, key=lambda rank: (codes[rank] or 0) >= 0 or codes[rank] == -signal.SIGABRT)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let the others end by themselves for a moment, then end them."""
    _settle(processes)
    _forward_signal(processes, signal.SIGKILL)
    _settle(processes)


def _settle(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended, but not for long."""
    deadline = time.monotonic() + _LAST_WORDS
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        time.sleep(0.05)


def _tell(processes: Sequence[subprocess.Popen[bytes]], failed: int, errors: Path) -> None:
    """Name the worker that failed first, with what it has written down of its error."""
    why = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        first = min(errors.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        message = json.loads(first.read_text())["message"]
        failed, why = int(first.stem), f": {message['message']}"
    place = f"host {socket.gethostname()}, process {processes[failed].pid}"
    _say(f"caffeio: worker {failed} ({place}) was the first to fail{visible(why)}")


def record_error(error: BaseException) -> None:
    """Write an error of this worker down where torchrun, or our launcher, asks for it."""
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

        with contextlib.suppress(Exception):
            ErrorHandler().record_exception(error)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def die_with_launcher() -> None:
    """Let the kernel end this worker when its launcher ends, whatever ends that (Linux)."""
    launcher = os.environ.get("CAFFEIO_LAUNCHER")
    if launcher is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(launcher):  # it ended before the call
        os._exit(128 + signal.SIGKILL)
