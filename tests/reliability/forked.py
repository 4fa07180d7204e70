"""Commands in forked processes: what kills or hangs one kills no test; memory is limited.

They are forks of a process that has imported everything and does nothing else: a fork of the tests'
own, which has grown, takes three times the processor time. That process is a fork as well, of the
tests' before the first of them runs: a new interpreter would import it all again.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import os
import pickle
import pkgutil
import re
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

# What no output may hold: C0 but \t and \n, DEL, C1, bidirectional controls.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_CODE = struct.Struct("i")


class Ended(NamedTuple):
    """How a command ended: exit code (negative: the signal), output, errors."""

    code: int
    out: str
    err: str

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
    streams = [number for number in (stdout, stderr) if number is not None]
    own = (stdout is not None, stderr is not None)
    order = Order([list(arguments)], [cwd], memory, seconds, own)
    [ended] = _do(order, streams, stdin, before)
    return ended


def run_all(
    commands: Sequence[Sequence[str | os.PathLike[str]]],
    cwd: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    memory: int = 6 << 30,
    seconds: float = 60,
) -> list[Ended]:
    """Run many commands one after the other in one fork: how each ended.

    `cwd` is the folder of all, or that of each.
    The next ones have a fork of their own where one was killed: by its own fault, or for it took
    more than `seconds`.
    """
    folders = (
        cwd if isinstance(cwd, Sequence) and not isinstance(cwd, str) else [cwd] * len(commands)
    )
    return _do(Order([list(one) for one in commands], folders, memory, seconds), [])


class Order:
    """What a fork is to do: commands, one after the other."""

    def __init__(
        self,
        commands: list[list[str | os.PathLike[str]]],
        folders: Sequence[str | os.PathLike[str] | None],
        memory: int,
        seconds: float,
        own: tuple[bool, bool] = (False, False),
    ) -> None:
        self.commands = [[os.fspath(part) for part in one] for one in commands]
        self.folders = [os.fspath(folder or os.getcwd()) for folder in folders]
        self.memory, self.seconds = memory, seconds
        self.own = own  # whether stdout, stderr are descriptors that come along
        self.environ = dict(os.environ)
        self.folder = Path()  # of the files that are stdin, stdout and stderr of each command


def _do(
    order: Order,
    streams: list[int],
    stdin: bytes = b"",
    before: Callable[[], object] | None = None,
) -> list[Ended]:
    with tempfile.TemporaryDirectory() as folder:
        order.folder = Path(folder)
        (order.folder / "in").write_bytes(stdin)
        if before is None:
            codes = begin().ask(order, streams)
        else:
            _import_all()
            codes = _forks(order, streams, before)
        return [
            Ended(code, *(_text(order.folder / f"{name}{i}") for name in ("out", "err")))
            for i, code in enumerate(codes)
        ]


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""


class _Server:
    """The process that forks; it ends with this one, which has the other end of its socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
            self.process = os.fork()
        if not self.process:
            try:
                _serve(theirs)
            finally:
                os._exit(0)  # an orderly end would free all modules first
        theirs.close()
        atexit.register(self.end)

    def ask(self, order: Order, streams: list[int]) -> list[int]:
        socket.send_fds(self.socket, [pickle.dumps(order)], streams)
        answer = self.socket.recv(1 << 16)
        assert answer, "the process that forks has ended"
        codes: list[int] = pickle.loads(answer)
        return codes

    def end(self) -> None:
        self.socket.close()
        os.waitpid(self.process, 0)


@cache
def begin() -> _Server:
    """Make the process that forks, if there is none yet."""
    return _Server()


def _serve(orders: socket.socket) -> None:
    """Fork for each order, until the tests' process has ended."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != orders.fileno():
            with contextlib.suppress(OSError):
                os.close(number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.disable()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with orders:
        while True:
            data, streams, _, _ = socket.recv_fds(orders, 1 << 20, 2)
            if not data:
                return
            if not _import_all.cache_info().currsize:
                _import_all()
                gc.collect()
                gc.freeze()
            orders.send(pickle.dumps(_forks(pickle.loads(data), streams)))
            for stream in streams:
                os.close(stream)


def _forks(
    order: Order, streams: list[int], before: Callable[[], object] | None = None
) -> list[int]:
    """The exit codes of all commands; the fork that does them is made anew when one kills it."""
    codes: list[int] = []
    while len(codes) < len(order.commands):
        codes += _fork(order, len(codes), streams, before)
    return codes


def _fork(
    order: Order, first: int, streams: list[int], before: Callable[[], object] | None
) -> list[int]:
    """The exit codes of the commands from number `first` on, up to one that killed the fork."""
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
        child = os.fork()
    if child == 0:
        os.close(ours)
        _child(order, first, theirs, streams, before)
    os.close(theirs)
    codes: list[int] = []
    with open(ours, "rb", buffering=0) as told:
        while first + len(codes) < len(order.commands):
            ready = select.select([told], [], [], order.seconds)[0]
            code = told.read(_CODE.size) if ready else b""
            if not code:
                if not ready:
                    os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                return [*codes, os.waitstatus_to_exitcode(status) if ready else -signal.SIGALRM]
            codes += _CODE.unpack(code)
    os.waitpid(child, 0)
    return codes


@cache
def _import_all() -> None:
    """Import before the fork what each child would import for itself, again and again."""
    for folder in ("cli", "converters", "data", "layers", "training", "tools", "log", "proto"):
        package = importlib.import_module(f"caffeio.{folder}")
        for module in pkgutil.walk_packages(package.__path__, f"caffeio.{folder}."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # of an extra that is not installed
                    importlib.import_module(module.name)


def _child(
    order: Order, first: int, told: int, streams: list[int],
    before: Callable[[], object] | None,
) -> None:  # fmt: skip
    try:
        gc.freeze()  # no collection touches, and so copies, what the fork brought along
        for number, stream in zip((n for n in (1, 2) if order.own[n - 1]), streams, strict=True):
            os.dup2(stream, number)
        os.environ.clear()
        os.environ.update(order.environ)
        torch.set_num_threads(1)  # OpenMP's threads did not come through the fork
        memory = (
            order.memory
            + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        )
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in range(first, len(order.commands)):
            os.write(told, _CODE.pack(_run(order, number, before)))
        os._exit(0)
    except BaseException:  # noqa: BLE001 nothing here may go on
        traceback.print_exc()
    finally:
        os._exit(71)


def _run(order: Order, number: int, before: Callable[[], object] | None) -> int:
    """The exit code of one command, with files and an environment of its own."""
    code = 70
    try:
        _streams(order, number)
        os.chdir(order.folders[number])
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        from caffeio.cli.main import main

        if before is not None:
            before()
        main(order.commands[number], prog_name="caffeio")
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
    return code


def _streams(order: Order, number: int) -> None:
    flags = os.O_CREAT | os.O_WRONLY
    for place, name in ((0, "in"), (1, f"out{number}"), (2, f"err{number}")):
        if place == 0 or not order.own[place - 1]:
            file = os.open(order.folder / name, flags if place else os.O_RDONLY, 0o600)
            os.dup2(file, place)
            os.close(file)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    for place, stream in ((1, "stdout"), (2, "stderr")):
        text = os.fdopen(place, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        setattr(sys, stream, text)


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
