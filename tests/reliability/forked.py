"""Commands in forked processes: what kills or hangs one kills no test; memory is limited.

They are forks of a small process that has imported everything and does nothing else: a fork of the
tests' own, which has grown, takes three times the processor time.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import pickle
import pkgutil
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from tests.paths import ROOT

# What no output may hold: C0 but \t and \n, DEL, C1, bidirectional controls.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Ended(NamedTuple):
    """How a command ended: exit code (negative: the signal), output, errors, seconds of CPU."""

    code: int
    out: str
    err: str
    cpu: float

    @property
    def text(self) -> str:
        return self.out + self.err


def run(
    *arguments: str | os.PathLike[str],
    cwd: str | os.PathLike[str] | None = None,
    memory: int = 6 << 30,
    seconds: float = 60,
    stdin: bytes = b"",
    stdout: int | None = None,
    stderr: int | None = None,
    before: Callable[[], object] | None = None,
) -> Ended:
    """Run `caffeio ARGUMENTS` in a fork, with limits on memory and time.

    `stdout`, `stderr`: descriptors to write to, in place of what is returned. `before` is called
    in the fork, which is then one of this process. After `seconds` it is killed: the code is then
    -SIGALRM.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder, name) for name in ("in", "out", "err")]
        names[0].write_bytes(stdin)
        order = Order(
            [os.fspath(a) for a in arguments], names, os.fspath(cwd or os.getcwd()), memory,
            seconds, dict(os.environ), (stdout is not None, stderr is not None),
        )  # fmt: skip
        streams = [number for number in (stdout, stderr) if number is not None]
        if before is None:
            used, code = _server().ask(order, streams)
        else:
            _import_all()
            used, code = _fork(order, streams, before)
        texts = [name.read_bytes().decode("utf-8", "surrogateescape") for name in names[1:]]
    return Ended(code, *texts, used)


class Order(NamedTuple):
    """What a fork is to do."""

    arguments: list[str]
    names: list[Path]  # of the files that are its stdin, stdout and stderr
    cwd: str
    memory: int
    seconds: float
    environ: dict[str, str]
    own: tuple[bool, bool]  # whether stdout, stderr are descriptors that come along


class _Server:
    """The process that forks; it ends with this one, which has the other end of its socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.reliability.forked", str(theirs.fileno())]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                command, env=env, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        atexit.register(self.end)

    def ask(self, order: Order, streams: list[int]) -> tuple[float, int]:
        socket.send_fds(self.socket, [pickle.dumps(order)], streams)
        answer = self.socket.recv(1 << 12)
        assert answer, "the process that forks has ended"
        used, code = pickle.loads(answer)
        return used, code

    def end(self) -> None:
        self.socket.close()
        self.process.wait()


@cache
def _server() -> _Server:
    return _Server()


def _serve(number: int) -> None:
    _import_all()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as orders:
        while True:
            data, streams, _, _ = socket.recv_fds(orders, 1 << 20, 2)
            if not data:
                return
            orders.send(pickle.dumps(_fork(pickle.loads(data), streams)))
            for stream in streams:
                os.close(stream)


def _fork(
    order: Order, streams: list[int], before: Callable[[], object] | None = None
) -> tuple[float, int]:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
        child = os.fork()
    if child == 0:
        _child(order, streams, before)
    return _wait(child, order.seconds)


@cache
def _import_all() -> None:
    """Import before the fork what each child would import for itself, again and again."""
    for folder in ("cli", "converters", "data", "layers", "training", "tools", "log", "proto"):
        package = importlib.import_module(f"caffeio.{folder}")
        for module in pkgutil.walk_packages(package.__path__, f"caffeio.{folder}."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # of an extra that is not installed
                    importlib.import_module(module.name)


def _wait(child: int, seconds: float) -> tuple[float, int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    usage = os.wait4(child, 0)[2]
    return usage.ru_utime + usage.ru_stime, -signal.SIGALRM


def _child(order: Order, streams: list[int], before: Callable[[], object] | None) -> None:
    code = 70
    try:
        gc.freeze()  # no collection touches, and so copies, what the fork brought along
        for number, name in enumerate(order.names):
            flags = os.O_RDONLY if number == 0 else os.O_CREAT | os.O_WRONLY
            os.dup2(os.open(name, flags, 0o600), number)
        for number, stream in zip((n for n in (1, 2) if order.own[n - 1]), streams, strict=True):
            os.dup2(stream, number)
        sys.stdin = os.fdopen(0, "r", closefd=False)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            text = os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace",
                             closefd=False)  # fmt: skip
            setattr(sys, stream, text)
        os.environ.clear()
        os.environ.update(order.environ)
        os.chdir(order.cwd)
        torch.set_num_threads(1)  # OpenMP's threads did not come through the fork
        memory = (
            order.memory
            + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        )
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        from caffeio.cli.main import main

        if before is not None:
            before()
        main(order.arguments, prog_name="caffeio")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 what a user would see as a traceback
        traceback.print_exc()
        code = 71
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def check(ended: Ended, what: str = "") -> Ended:
    """No crash, no hang, no traceback, no hidden character; an error is one message."""
    note = f"{what}: {ended}"
    assert ended.code != -signal.SIGALRM, f"hangs: {note}"
    assert ended.code in (0, 1, 2), note
    assert "Traceback" not in ended.text and "Error:" not in ended.out, note
    assert not HIDDEN.search(ended.text), note
    if ended.code == 2:
        errors = [line for line in ended.err.splitlines() if line.startswith("Error")]
        assert len(errors) == 1 and len(errors[0]) > 20, note
    return ended


def one_error(ended: Ended, *words: str) -> str:
    """The message of a command that must fail with exit code 2; it must name `words`."""
    check(ended)
    assert ended.code == 2, ended
    message = ended.err[ended.err.index("Error") :]
    for word in words:
        assert word in message, message
    return message


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
    os._exit(0)  # an orderly end would free all modules first
