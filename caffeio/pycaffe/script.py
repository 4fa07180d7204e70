"""Runs scripts in which `import caffe` is caffeio.pycaffe."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType

from caffeio.errors import CaffeIOError
from caffeio.pycaffe.install_module import install

HERE = Path(__file__).resolve().parent
# What scripts look for beside the module, and where it comes from.
NEIGHBOURS = {
    "ilsvrc_2012_mean.npy": "python/caffe/imagenet of https://github.com/BVLC/caffe; where the "
    "mean of each channel is enough, it is (104.00698793, 116.66876762, 122.67891434), BGR",
}


def python_path() -> str:
    """The folder that makes `import caffe` work where PYTHONPATH names it."""
    return str(HERE / "path")


def run_script(
    path: str | os.PathLike[str],
    args: Sequence[str] = (),
    *,
    py2: bool = False,
    show: Callable[[str], object] | None = None,
) -> int:
    """Run a script as `python SCRIPT ARGS` would; returns the exit code.

    `py2` translates it, and the modules beside it, from Python 2; `show` gets what was changed.
    Raises CaffeIOError if there is no such file; errors of the script are shown as Python does.
    """
    file = os.fspath(path)
    if not os.path.exists(file):
        raise CaffeIOError(f"{file}: there is no such script")
    sys.argv = [file, *args]
    folder = str(Path(file).resolve().parent)
    sys.path.insert(0, folder)
    install()
    if not py2:
        return _guarded(lambda: runpy.run_path(file, run_name="__main__"))
    translator = import_module("caffeio.pycaffe.py2")
    main = ModuleType("__main__")
    main.__file__ = file
    sys.modules["__main__"] = main
    with translator.Python2([folder], show=show) as old:
        return _guarded(lambda: old.run(file, vars(main)))


def run_module(name: str, args: Sequence[str] = ()) -> int:
    """Run a module as `python -m NAME ARGS` would; returns the exit code."""
    sys.argv = [name, *args]
    sys.path.insert(0, os.getcwd())
    install()
    return _guarded(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def run_code(code: str, args: Sequence[str] = ()) -> int:
    """Run a text as `python -c CODE ARGS` would; returns the exit code."""
    sys.argv = ["-c", *args]
    sys.path.insert(0, "")
    install()
    main = ModuleType("__main__")
    sys.modules["__main__"] = main

    def work() -> None:
        exec(compile(code, "<string>", "exec"), vars(main))  # noqa: S102 - what was asked for

    return _guarded(work)


def _guarded(work: Callable[[], object]) -> int:
    """Run the user's code; its errors are shown with its own lines alone."""
    try:
        work()
    except SystemExit as error:
        return _exit_code(error)
    except BaseException as error:  # noqa: BLE001 - as the interpreter itself
        traceback.print_exception(type(error), error, _own(error.__traceback__))
        hint = _hint(error)
        if hint:
            print(hint, file=sys.stderr)  # noqa: T201
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)  # noqa: T201
    return 1


def _own(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's first line on."""
    skipped = {__file__, runpy.__file__, "<frozen runpy>"}
    at = trace
    while at is not None:
        name = at.tb_frame.f_code.co_filename
        if name not in skipped and not name.startswith(str(HERE / "py2")):
            return at
        at = at.tb_next
    return trace


def _hint(error: BaseException) -> str | None:
    """Where a file comes from that Caffe has beside its module, and this package has not."""
    name = getattr(error, "filename", None)
    if not isinstance(error, FileNotFoundError) or not isinstance(name, str):
        return None
    found = Path(name)
    source = NEIGHBOURS.get(found.name)
    if source is None or HERE not in found.absolute().parents:
        return None
    return (
        f"caffeio does not bring {found.name}: it lies in {source}. Copy it to {found.absolute()}"
    )
