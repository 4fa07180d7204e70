"""LMDB: the one door to it. Reading without its lock file, and writing a new one.

Every LMDB is opened here, after its pages are checked (`lmdb_pages`), so that a damaged one is a
DataError for every command.

Source: src/caffe/util/db_lmdb.cpp.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from caffeio.data.db.buffer import Buffer
from caffeio.data.db.lmdb_pages import Meta, check_lmdb
from caffeio.errors import DataError
from caffeio.proto.io.atomic import size_text
from caffeio.proto.io.regular import check_name

_environments: dict[str, tuple[Any, int]] = {}  # real path -> (environment, how many use it)
_checked: dict[tuple[int, ...], Meta] = {}  # device, inode, size, time -> what the check found
_lock = threading.Lock()
_unused: deque[str] = deque()  # real paths of which a user has gone, until the lock is free
# The kernel's read-ahead reads about 128 kB around a page. Only where small records of a large
# file are read in random order does that cost more than it gives.
_LARGE, _SMALL_RECORD = 1 << 30, 16 << 10  # bytes


class LmdbDatabase:
    """An LMDB folder (or single file), opened read-only without touching its lock file.

    Without the lock a folder may be read-only, and several processes may read; nobody may write
    to it meanwhile. Values are views of the map: valid until `close`. Each thread reads in a
    transaction of its own, so that threads wait for the disk at the same time.
    """

    kind = "LMDB"

    def __init__(self, path: str, *, in_order: bool = True, may_be_empty: bool = False) -> None:
        self.path = path
        self._real = os.path.realpath(path)
        self._env = _acquire(self._real, path, in_order)
        self._threads = threading.local()
        self._txns: list[Any] = []
        try:
            facts = self._txn().stat()
            self.size: int | None = int(facts["entries"])
            pages = facts["branch_pages"] + facts["leaf_pages"] + facts["overflow_pages"]
            self.nbytes = int(pages * facts["psize"])  # of the pages in use
            if self.size == 0 and not may_be_empty:
                raise DataError(f"LMDB {path!r} is empty: it has no records")
        except BaseException:
            _finish(self._txns, self._real)
            raise
        self._finish = weakref.finalize(self, _finish, self._txns, self._real)

    def _txn(self) -> Any:
        """This thread's transaction."""
        txn = getattr(self._threads, "txn", None)
        if txn is None:
            txn = self._threads.txn = self._env.begin(buffers=True)
            self._txns.append(txn)
        return txn

    def cursor(self) -> LmdbCursor:
        """A cursor at the first record."""
        return LmdbCursor(self._txn(), self.path)

    def get(self, key: bytes) -> Buffer:
        """The value of `key`."""
        import lmdb

        try:
            value: Buffer | None = self._txn().get(key)
        except lmdb.Error as error:
            raise _unreadable(self.path, error) from None
        if value is None:
            raise DataError(f"LMDB {self.path!r} has no key {key!r}")
        return value

    def iter_keys(self) -> Iterator[Buffer]:
        """All keys, in order."""
        return self._iterate(values=False)

    def records(self) -> Iterator[tuple[Buffer, Buffer]]:
        """All keys and values, in order, once."""
        return self._iterate(values=True)

    def _iterate(self, *, values: bool) -> Iterator[Any]:
        import lmdb

        try:
            with self._txn().cursor() as cursor:
                yield from cursor.iternext(keys=True, values=values)
        except lmdb.Error as error:
            raise _unreadable(self.path, error) from None

    def following(self, key: bytes) -> tuple[Buffer, Buffer]:
        """The record behind that of `key`; behind the last one, the first."""
        import lmdb

        try:
            with self._txn().cursor() as cursor:
                if not (cursor.set_range(key) and cursor.next()):
                    cursor.first()
                pair: tuple[Buffer, Buffer] = cursor.item()
                return pair
        except lmdb.Error as error:
            raise _unreadable(self.path, error) from None

    def close(self) -> None:
        """End the read transaction; the last user closes the environment."""
        self._finish()


def _finish(txns: list[Any], real: str) -> None:
    for txn in txns:
        txn.abort()
    txns.clear()
    _release(real)


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(f"LMDB {path!r} cannot be read: {error}")


class LmdbCursor:
    """A cursor that goes round."""

    def __init__(self, txn: Any, path: str) -> None:
        import lmdb

        self._path, self._error = path, lmdb.Error
        self._cursor = txn.cursor()
        self._move(self._cursor.first)

    def _move(self, step: Any) -> Any:
        try:
            return step()
        except self._error as error:
            raise _unreadable(self._path, error) from None

    def item(self) -> tuple[Buffer, Buffer]:
        """Key and value of the record here."""
        pair: tuple[Buffer, Buffer] = self._move(self._cursor.item)
        return pair

    def advance(self) -> bool:
        """Go to the next record, or round to the first; False if it went round."""
        if self._move(self._cursor.next):
            return True
        self._move(self._cursor.first)
        return False


def _acquire(real: str, path: str, in_order: bool) -> Any:
    """The one environment of this process for `real` (LMDB allows no second one)."""
    try:
        with _lock:
            env, users = _environments.get(real, (None, 0))
            if env is None:
                env = _open_lmdb(real, path, in_order)
            _environments[real] = (env, users + 1)
            return env
    finally:
        _settle()


def _release(real: str) -> None:
    """Count one user less; the last one closes the environment.

    The garbage collector calls this as well, at any place, and so maybe in the very thread that
    holds the lock: it must not wait for it.
    """
    _unused.append(real)
    _settle()


def _settle() -> None:
    """Do what releases have left, unless somebody holds the lock: that one does it then."""
    while _unused and _lock.acquire(blocking=False):
        try:
            while _unused:
                real = _unused.popleft()
                env, users = _environments[real]
                if users > 1:
                    _environments[real] = (env, users - 1)
                else:
                    del _environments[real]
                    env.close()
        finally:
            _lock.release()


def _open_lmdb(real: str, path: str, in_order: bool) -> Any:
    import lmdb

    meta = _check_meta(real, path)
    options: dict[str, Any] = {
        "subdir": os.path.isdir(real),
        "readonly": True,
        "lock": False,
        "max_readers": 1,
    }
    size = (meta.last_page + 1) * meta.page_size
    if not in_order and size > _LARGE and size < _SMALL_RECORD * meta.entries:
        options["readahead"] = False
    try:
        return lmdb.open(real, **options)
    except lmdb.Error as error:
        raise DataError(f"cannot open LMDB {path!r}: {error}") from error


def _check_meta(real: str, path: str) -> Meta:
    """Check the file behind `real`, once as long as it does not change."""
    file = data_file(real, path)
    state = file.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key not in _checked:
        _checked[key] = check_lmdb(str(file), path)
    return _checked[key]


def data_file(real: str, path: str) -> Path:
    """The file of an LMDB that is a folder or a single file. Raises DataError if it is missing."""
    try:
        check_name(real)
    except OSError as error:
        raise DataError(f"LMDB {path!r} {error.strerror}") from None
    file = Path(real, "data.mdb") if os.path.isdir(real) else Path(real)
    if not file.exists():
        if os.path.exists(os.path.join(real, "CURRENT")):
            raise DataError(f"{path!r} is a LevelDB; set `backend: LEVELDB` to read it")
        missing = f"LMDB {path!r} does not exist"
        raise DataError(f"{path!r} has no data.mdb" if os.path.isdir(real) else missing)
    return file


def count_records(path: str) -> int:
    """How many records an LMDB has, by its checked pages. Raises DataError."""
    return _check_meta(os.path.realpath(path), path).entries


def write_lmdb(
    path: str | os.PathLike[str],
    records: Iterable[tuple[bytes | str, bytes]],
    *,
    commit_every: int = 1000,
) -> int:
    """Write `records` (key, value) into a new LMDB folder; returns how many there were.

    The folder must not exist. It is filled beside its place and renamed when it is whole. Keys may
    come in any order; of equal keys the last one stays. The map grows as it must.
    """
    import lmdb

    target = Path(path)
    if target.exists():
        raise DataError(f"cannot create LMDB {str(path)!r}: it is there already")
    if not target.parent.is_dir():
        raise DataError(f"cannot create LMDB {str(path)!r}: no folder {str(target.parent)!r}")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    count = 0
    try:
        part.mkdir()
        env = lmdb.open(str(part), map_size=1 << 24)
        batch: list[tuple[bytes, bytes]] = []
        for key, value in records:
            batch.append((key.encode() if isinstance(key, str) else key, value))
            count += 1
            if len(batch) >= commit_every:
                _commit(env, batch)
                batch = []
        _commit(env, batch)
        env.sync(True)
        env.close()
        (part / "lock.mdb").unlink(missing_ok=True)
        part.rename(target)
    except (lmdb.Error, PermissionError) as error:
        why = str(error)
        if isinstance(error, lmdb.DiskError) or "Input/output error" in why:  # a full disk's too
            free = size_text(shutil.disk_usage(target.parent).free)
            why = f"the disk does not take it ({free} are free on it)"
        raise DataError(f"cannot write LMDB {str(path)!r}: {why}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def _commit(env: Any, batch: list[tuple[bytes, bytes]]) -> None:
    """Put a batch in one transaction; the map is doubled and the transaction repeated when full."""
    import lmdb

    while True:
        try:
            with env.begin(write=True) as txn:
                for key, value in batch:
                    txn.put(key, value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(env.info()["map_size"] * 2)
