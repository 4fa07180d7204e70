"""Regular files only: what has no end, or never begins, is refused before a byte is read.

A device such as /dev/zero never ends, a named pipe without a writer never begins. Data that come
through a pipe are given to the commands as `-`. All errors but those of `read_utf8` are OSErrors
whose strerror is a sentence for the user.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from typing import IO

from caffeio.errors import CaffeIOError

Path_ = str | os.PathLike[str]

TEXT_LIMIT = 1 << 30  # bytes; the largest public prototxt has 2 MB
STREAM_LIMIT = 4 << 30  # bytes from standard input

# Windows has no pipes that one would wait for, and changes the bytes of files that are text.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_name(path: Path_) -> None:
    """Raise OSError for a name that no file can have: one with a NUL character."""
    if "\0" in os.fsdecode(path):
        raise OSError(errno.EINVAL, "has a NUL character in its name", os.fsdecode(path))


def check_regular(path: Path_) -> None:
    """Raise OSError unless `path` is a regular file; for libraries that open files by name."""
    check_name(path)
    _check_regular(os.stat(path), path)


def _check_regular(state: os.stat_result, path: Path_) -> None:
    if stat.S_ISREG(state.st_mode):
        return
    name = os.fsdecode(path)
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    kind = next((words for test, words in _KINDS if test(state.st_mode)), "no file of data")
    raise OSError(errno.EINVAL, f"is {kind}; only regular files are read", name)


def open_regular(path: Path_) -> BufferedReader:
    """Open a regular file for reading bytes; never waits. Raises OSError for everything else."""
    check_regular(path)  # before opening: to open some devices does something
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        _check_regular(os.fstat(descriptor), path)  # another file may have taken its place
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path_, limit: int = TEXT_LIMIT) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises OSError."""
    with open_regular(path) as file:
        return _read_limited(file, limit, os.fsdecode(path))


def read_text_file(path: Path_) -> str:
    """The text of a regular file; bytes that are not UTF-8 survive as surrogates."""
    return read_regular(path).decode("utf-8", "surrogateescape")


def read_utf8(path: Path_) -> str:
    """The text of a regular file that somebody named. Raises CaffeIOError, UTF-8 or not."""
    try:
        return read_regular(path).decode("utf-8")
    except OSError as error:
        why = error.strerror or str(error)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    raise CaffeIOError(f"cannot be read: {why}", where=os.fsdecode(path))


def read_stream(stream: IO[bytes], limit: int = STREAM_LIMIT) -> bytes:
    """All bytes of a pipe, of which there may be `limit`. Raises OSError."""
    return _read_limited(stream, limit, "<stdin>")


def _read_limited(file: IO[bytes], limit: int, name: str) -> bytes:
    pieces, size = [], 0
    while piece := file.read(min(1 << 20, limit + 1 - size)):
        size += len(piece)
        if size > limit:
            raise OSError(errno.EFBIG, f"is larger than {limit} bytes, which may be read", name)
        pieces.append(piece)
    return b"".join(pieces)
