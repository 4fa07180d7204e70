"""Files that are there whole or not at all.

`atomic_write` and `atomic_path` write to a new file in the target's folder, flush it to the disk,
then give it the target's name: whoever opens the target sees the old content or the new, whatever
dies when. On Linux the new file has no name until it is whole. What a killed process leaves all the
same (a file that had its temporary name already) goes when the target is written again.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

from caffeio.errors import CaffeIOError, SnapshotError
from caffeio.proto.io.regular import check_name

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (*FULL, errno.EIO, errno.EROFS)
# Windows flushes what may be written only, knows no folders as files and, before Python 3.13, no
# fchmod; it keeps a file whose content somebody uses, a map of this process's among them.
_WINDOWS = os.name == "nt"


def size_text(count: int) -> str:
    """A number of bytes for people: 1 kB is 1000 bytes."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def write_error(
    path: str | os.PathLike[str],
    problem: OSError,
    *,
    needed: int | None = None,
    error: type[CaffeIOError] = SnapshotError,
) -> CaffeIOError:
    """The user's error for a failed write: what failed, the bytes needed and those free."""
    text = f"cannot be written: {problem.strerror or problem}"
    if problem.errno in FULL:
        try:
            room = shutil.disk_usage(Path(path).absolute().parent)
            free = f"{size_text(room.free)} are free on its file system"
        except OSError:
            free = "the free space is unknown"
        text += f" ({size_text(needed)} are needed, {free})" if needed is not None else f" ({free})"
    return error(text, where=str(path))


@contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    *,
    sync: bool = True,
    needed: int | None = None,
    error: type[CaffeIOError] = SnapshotError,
) -> Iterator[BufferedWriter]:
    """Give a binary file whose content becomes the file at `path` when the block ends well.

    On any exception the new file is gone and the old one untouched. `sync=False` leaves it to the
    system when the content reaches the disk (a crash of the program loses nothing all the same);
    `needed` is the size in bytes, for the message. A device or a pipe is written to directly.
    Raises `error` if the folder, the disk or the permissions do not allow it.
    """
    target = _resolve(path, error)
    try:
        if _is_special(target):
            with open(target, "wb") as file:
                yield file
            return
        _sweep(target)
        descriptor, name = _open_unnamed(target)
    except OSError as problem:
        raise write_error(path, problem, needed=needed, error=error) from problem
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            _keep_mode(file.fileno(), target)
            if sync:
                os.fsync(file.fileno())
            name = name or _link(file.fileno(), target)
        _publish(name, target, sync, path, error)
    except BaseException as problem:
        _remove(name)
        if isinstance(problem, OSError) and problem.errno in _BROKEN:
            raise write_error(path, problem, needed=needed, error=error) from problem
        raise


@contextmanager
def atomic_path(
    path: str | os.PathLike[str],
    *,
    sync: bool = True,
    error: type[CaffeIOError] = SnapshotError,
) -> Iterator[Path]:
    """As `atomic_write`, for libraries that open files by name: give the name to write to."""
    target = _resolve(path, error)
    _sweep(target)
    temporary = _temporary_name(target)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as problem:
        raise write_error(path, problem, error=error) from problem
    try:
        yield Path(temporary)
        descriptor = os.open(temporary, os.O_RDWR if _WINDOWS else os.O_RDONLY)
        try:
            _keep_mode(descriptor, target)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _publish(temporary, target, sync, path, error)
    except BaseException as problem:
        _remove(temporary)
        if isinstance(problem, OSError) and problem.errno in _BROKEN:
            raise write_error(path, problem, error=error) from problem
        raise


def _resolve(path: str | os.PathLike[str], error: type[CaffeIOError]) -> str:
    """The file behind a symbolic link: the link itself is to stay."""
    try:
        check_name(path)
    except OSError as problem:
        raise write_error(path, problem, error=error) from None
    return os.path.realpath(path) if os.path.islink(path) else os.fspath(path)


def _is_special(target: str) -> bool:
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    return not stat.S_ISREG(mode)


def _temporary_name(target: str) -> str:
    """A hidden name beside the target, with the place and the process whose it is."""
    folder, name = os.path.split(target)
    own = f"{_place()}-{os.getpid()}-{secrets.token_hex(4)}"
    return os.path.join(folder, f".{name[:200]}.{own}.tmp")


def _place() -> str:
    """Where process numbers mean what they mean here: this host, and its namespace of processes."""
    names = [os.uname().nodename] if hasattr(os, "uname") else []
    with suppress(OSError):
        names.append(os.readlink("/proc/self/ns/pid"))
    return f"{zlib.crc32(' '.join(names).encode()):08x}"


def _sweep(target: str) -> None:
    """Remove the temporary files of this target whose processes were killed."""
    if os.name != "posix":  # elsewhere asking for a process would end it
        return
    folder, name = os.path.split(target)
    pattern = re.compile(rf"\.{re.escape(name[:200])}\.{_place()}-(\d+)-[0-9a-f]{{8}}\.tmp")
    with suppress(OSError), os.scandir(folder or ".") as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            if found is not None and not _is_alive(int(found[1])):
                _remove(entry.path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _open_unnamed(target: str) -> tuple[int, str | None]:
    """A new file in the target's folder; its name is None where the system can do without."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        try:
            return os.open(os.path.dirname(target) or ".", os.O_TMPFILE | os.O_RDWR, 0o666), None
        except OSError as problem:
            if problem.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
    name = _temporary_name(target)
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), name


def _link(descriptor: int, target: str) -> str:
    """Give the unnamed file a temporary name."""
    name = _temporary_name(target)
    folder = os.open(os.path.dirname(target) or ".", os.O_RDONLY)
    try:  # dst_dir_fd makes this linkat(2) with AT_SYMLINK_FOLLOW, which /proc needs
        os.link(f"/proc/self/fd/{descriptor}", os.path.basename(name), dst_dir_fd=folder)
    finally:
        os.close(folder)
    return name


def _keep_mode(descriptor: int, target: str) -> None:
    """Give the new file the permissions of the one that it replaces."""
    if not hasattr(os, "fchmod"):
        return
    with suppress(FileNotFoundError, PermissionError):
        os.fchmod(descriptor, stat.S_IMODE(os.stat(target).st_mode))


def _publish(
    name: str, target: str, sync: bool, path: str | os.PathLike[str], error: type[CaffeIOError]
) -> None:
    try:
        os.replace(name, target)
    except OSError as problem:
        if _WINDOWS and problem.errno == errno.EACCES:
            problem = OSError(errno.EBUSY, "another program, or this one, uses it")
        raise write_error(path, problem, error=error) from None
    if sync and not _WINDOWS:
        folder = os.open(os.path.dirname(target) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as problem:  # some network file systems cannot sync a folder
            if problem.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)


def _remove(name: str | None) -> None:
    if name is not None:
        with suppress(FileNotFoundError):
            os.unlink(name)
