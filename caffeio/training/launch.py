"""`caffeio train --nproc N`: the workers of one machine, started, watched and started again.

What torchrun does on one machine, without its report around our own error messages, and with
signals that reach the workers, which agree on what to do. The launcher keeps the workers' store,
as torchrun's agent does, so that no worker's end takes it away.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

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

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        _pass_on(processes, number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        for restart in range(max_restarts + 1):
            processes[:] = _start(workers, arguments, store.port, restart, max_restarts)
            code = _wait(processes)
            ended = any(number != signal.SIGHUP for number in asked)
            if code == 0 or ended or restart == max_restarts:
                return code
            _say(f"start {restart + 2} of at most {max_restarts + 1}")
        raise AssertionError
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _start(
    workers: int, arguments: Sequence[str], port: int, restart: int, max_restarts: int
) -> list[subprocess.Popen[bytes]]:
    threads = max(1, (os.cpu_count() or 1) // workers)
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
            "CAFFEIO_LAUNCHER": str(os.getpid()),
        }  # fmt: skip
        env.setdefault("OMP_NUM_THREADS", str(threads))
        command = [sys.executable, "-m", "caffeio.cli", *arguments]
        try:
            processes.append(subprocess.Popen(command, env=env, start_new_session=True))
        except BaseException:  # those that run wait for this one
            _pass_on(processes, signal.SIGKILL)
            raise
    return processes


def _pass_on(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; when one fails the others cannot go on and are ended."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None:
            code = codes[failed] or 0
            if code < 0:
                _say(
                    f"worker {failed} (host {socket.gethostname()}, process "
                    f"{processes[failed].pid}) was killed by {_name(-code)}"
                )
            _end(processes)
            return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let the others end by themselves for a moment, then end them."""
    _settle(processes)
    _pass_on(processes, signal.SIGKILL)
    _settle(processes)


def _settle(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended, but not for long."""
    deadline = time.monotonic() + _LAST_WORDS
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        time.sleep(0.05)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(text: str) -> None:
    sys.stderr.write(f"Error: {text}\n" if "killed" in text else f"caffeio: {text}\n")
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
