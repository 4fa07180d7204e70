"""Where a conversion's output goes: beside its target first, in its place when all is well."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError

from caffeio.errors import CaffeIOError
from caffeio.proto.io.atomic import write_error


@contextmanager
def staged(target: Path, target_format: str, force: Callable[[], bool]) -> Iterator[Path]:
    """A path in a new folder beside `target`; what lies there in the end takes its place.

    A file that is there already and holds something else is not replaced unless `force()`, or
    it is of that format and says itself that caffeio has made it. A device or a pipe is written
    to directly. Raises CaffeIOError.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    real = Path(os.path.realpath(target))
    if real.is_dir():
        raise CaffeIOError("is a folder: give the name of the output file", where=str(target))
    try:
        with tempfile.TemporaryDirectory(dir=real.parent, prefix=".caffeio-") as folder:
            path = Path(folder, real.name)
            yield path
            made = sorted(Path(folder).iterdir(), key=lambda p: p == path)  # the model last
            for new in made:
                _check_replaceable(new, real.parent / new.name, target_format, force(), target)
            for new in made:
                if (real.parent / new.name).exists():
                    shutil.copymode(real.parent / new.name, new)
                new.replace(real.parent / new.name)
    except OSError as problem:
        raise write_error(target, problem, error=CaffeIOError) from problem


def _check_replaceable(new: Path, old: Path, target_format: str, force: bool, target: Path) -> None:
    """Refuse to replace what somebody else may need."""
    if (
        force
        or not old.exists()
        or is_own(old, target_format)
        or filecmp.cmp(new, old, shallow=False)
    ):
        return
    raise CaffeIOError(
        "is there already and holds something else: nothing is written (--force replaces it; "
        "if it was meant as an input, the name of the output is missing)",
        where=str(target),
    )


def is_own(path: Path, target_format: str) -> bool:
    """Whether the file at `path` is of that format and names caffeio as its maker."""
    try:
        if target_format == "onnx":
            import onnx

            return bool(onnx.load(path, load_external_data=False).producer_name == "caffeio")
        if target_format == "pt2":
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/caffeio") for name in archive.namelist())
        if target_format == "py" and path.suffix == ".py":
            with path.open(encoding="utf-8", errors="replace") as file:
                return "written by caffeio" in file.readline()
        if target_format == "safetensors" or (
            target_format == "py" and path.suffix == ".safetensors"
        ):
            from caffeio.proto.weights.safetensors import made_here

            return made_here(path, module=target_format == "py")
    except (CaffeIOError, ValueError, OSError, DecodeError, zipfile.BadZipFile):
        return False  # whatever it is, it is not ours
    return False
