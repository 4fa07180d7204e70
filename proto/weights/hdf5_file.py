"""How an HDF5 file reaches the disk: whole, in the oldest format, with no crash."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.errors import CaffeIOError, SnapshotError
from caffeio.proto.io.atomic import atomic_path, atomic_write, write_error
from caffeio.proto.io.blobs import Array

Path_ = str | os.PathLike[str]
_OLDEST = ("earliest", "v108")
_IN_MEMORY = 256 << 20  # bytes of a file that is made in memory first


def h5py_or_error(path: Path_, why: str, error: type[CaffeIOError]) -> Any:
    """The module h5py, or an error that says what to do."""
    try:
        import h5py
    except ImportError:
        message = f"needs the HDF5 library ({why}): pip install 'caffeio[hdf5]'"
        raise error(message, where=str(path)) from None
    return h5py


def stored_bytes(array: Array) -> int:
    """What `write_numbers` makes of an array: doubles stay, all else becomes float32."""
    return int(array.size) * (8 if array.dtype == np.float64 else 4)


def write_h5(path: Path_, fill: Callable[[Any], None], *, sync: bool, size: int) -> None:
    """Let `fill` write an HDF5 file in the oldest format, which every Caffe reads.

    `size`: bytes of its numbers. The HDF5 library crashes the process later on if a disk takes no
    more, so a file is made in memory, unless it is large: then the room is asked for before.
    """
    h5py = h5py_or_error(path, "to write", SnapshotError)
    if size <= _IN_MEMORY:
        image = memory_file(h5py, fill, libver=_OLDEST)
        with atomic_write(path, sync=sync, needed=len(image)) as whole:
            whole.write(image)
        return
    _check_disk(path, size)
    with atomic_path(path, sync=sync) as temporary:
        try:
            with h5py.File(temporary, "w", libver=_OLDEST) as file:
                fill(file)
        except (OSError, RuntimeError) as problem:
            number = getattr(problem, "errno", None) or _errno_in(str(problem))
            text = os.strerror(number) if number else str(problem).split("\n")[0]
            raise write_error(path, OSError(number, text)) from None


def memory_file(h5py: Any, fill: Callable[[Any], None], **options: Any) -> bytes:
    """The bytes of the HDF5 file that `fill` writes, which no disk sees before it is whole."""
    options = {"driver": "core", "backing_store": False, **options}
    with h5py.File(f"memory-{uuid.uuid4()}", "w", **options) as file:
        fill(file)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _check_disk(path: Path_, size: int) -> None:
    """Raise SnapshotError if the file system has less room than that."""
    with contextlib.suppress(OSError):  # no such folder: said later
        if shutil.disk_usage(Path(path).absolute().parent).free < size:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise write_error(path, full, needed=size)


def _errno_in(text: str) -> int:
    """The errno that the HDF5 library names in its message."""
    found = re.search(r"errno = (\d+)", text)
    return int(found[1]) if found else 0
