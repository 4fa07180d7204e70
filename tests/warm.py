"""Processes that need not start: forks of this one, which has imported torch already.

A new interpreter takes two seconds of a core until `caffeio train` trains, or three with several
workers, nearly all for imports, and hundreds of tests need a process. What `command` returns makes
subprocess.Popen and subprocess.run fork and run the command at once, with the pipes, folder,
environment, signals, session and exit code that a new interpreter would have; workers that the
command starts are forks as well. How a new interpreter starts is what other tests look at, among
them those of the documentation's pages; in nightly runs, and where torch is built for GPUs, every
process is one.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.paths import NIGHT, ROOT

# Builds of torch for GPUs start autograd's threads in the first backward, which no fork survives.
FOR_CPUS = torch.version.cuda is None and torch.version.hip is None
FORKS = sys.platform == "linux" and FOR_CPUS and not NIGHT
_TORCH_SEED = 67280421310721  # of a process in which nobody has set one


def command(*arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What subprocess's functions need to run `python ARGUMENTS` with `env` beside our own."""
    whole = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})}
    options: dict[str, Any] = {"args": [sys.executable, *arguments], "env": whole}
    if FORKS:
        _import_what_all_import()
        options["preexec_fn"] = partial(_become, options["args"], whole)
    return options


def caffeio(*arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What subprocess's functions need to run `caffeio ARGUMENTS` with `env` beside our own."""
    return command("-m", "caffeio.cli", *arguments, env=env)


class _Popen(subprocess.Popen[Any]):
    """Workers that a fork starts are forks of it."""

    def __init__(self, args: Any, **options: Any) -> None:
        if [word for word in args if word != "-u"][:3] == [sys.executable, "-m", "caffeio.cli"]:
            options["preexec_fn"] = partial(_become, args, options.get("env") or {**os.environ})
        super().__init__(args, **options)


@cache
def _import_what_all_import() -> None:
    import torch._dynamo  # noqa: F401  DistributedDataParallel asks for it

    import caffeio.cli.train
    import caffeio.training.trainer  # noqa: F401


def _become(args: Sequence[str], env: Mapping[str, str]) -> None:
    """Be the process that `args` starts, from its first line to its exit code."""
    code = 70
    try:
        _begin_anew(env)
        code = _run(list(args[1:]))
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 the tests above must not go on in this process
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run(args: list[str]) -> int:
    while args[0] == "-u":
        del args[0]
    alone = args[0] == "-P"  # the folder of the script is not looked through
    if alone:
        del args[0]
    try:
        if args[0] == "-m":
            sys.path.insert(0, os.getcwd())
            sys.argv = args[1:]
            runpy.run_module(args[1], run_name="__main__", alter_sys=True)
        elif args[0] == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *args[2:]]
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(args[1], "<string>", "exec"), vars(main))  # noqa: S102
        else:
            if not alone:
                sys.path.insert(0, str(Path(args[0]).parent))
            sys.argv = args
            runpy.run_path(args[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 as an interpreter does
        traceback.print_exc()
        return 1
    return 0


def _begin_anew(env: Mapping[str, str]) -> None:
    """Leave behind what the tests have, and have what a new interpreter has."""
    gc.freeze()  # no collection touches, and so copies, what the fork brought along
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in (0, 1, 2, null):  # libuv closes its numbers in each fork: none of ours
            os.dup2(null, number, inheritable=False)
    os.close(null)
    os.environ.clear()
    os.environ.update(env)
    for place in reversed(env.get("PYTHONPATH", "").split(os.pathsep)):
        sys.path.insert(0, os.path.abspath(place))
    faulthandler.disable()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    _streams()
    _hooks()
    subprocess.Popen = _Popen  # type: ignore[misc]
    random.seed()
    np.random.seed()
    torch.manual_seed(_TORCH_SEED)
    torch.set_num_threads(1)  # OpenMP's threads did not come through the fork


def _streams() -> None:
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)
    out = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    err = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = err


def _hooks() -> None:
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  the tests' own folders
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: Any = None, line: str | None = None,
) -> None:  # fmt: skip
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
