"""LevelDB, through the optional package plyvel.

Source: src/caffe/util/db_leveldb.cpp.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from caffeio.data.db.buffer import Buffer
from caffeio.errors import DataError
from caffeio.proto.io.regular import check_regular


class LevelDatabase:
    """A LevelDB folder, through the optional package plyvel. Values are copies.

    Opening a LevelDB rewrites its log and manifest, so a folder of links beside temporary copies of
    the small files is opened in its place: reading changes nothing, and works on read-only media.
    """

    kind = "LevelDB"

    def __init__(self, path: str) -> None:
        plyvel = _plyvel("reading", path, "convert the database to LMDB")
        self.path = path
        if not os.path.isdir(path):
            raise DataError(f"LevelDB {path!r} does not exist")
        if not os.path.exists(os.path.join(path, "CURRENT")):
            hint = "; it is an LMDB, set `backend: LMDB`" * os.path.exists(f"{path}/data.mdb")
            raise DataError(f"{path!r} is not a LevelDB{hint}")
        self._error: type[Exception] = plyvel.Error
        shadow = _shadow(path)
        self._clean = weakref.finalize(self, shutil.rmtree, shadow, ignore_errors=True)
        try:
            self._db = plyvel.DB(shadow, paranoid_checks=True)
        except (plyvel.Error, OSError) as error:
            self._clean()
            raise DataError(f"cannot open LevelDB {path!r}: {error}") from error
        self.size: int | None = None
        try:
            if next(self.iter_keys(), None) is None:
                raise DataError(f"LevelDB {path!r} is empty: it has no records")
        except DataError:
            self.close()
            raise

    def cursor(self) -> LevelCursor:
        """A cursor at the first record."""
        return LevelCursor(self._db, self.path, self._error)

    def get(self, key: bytes) -> Buffer:
        """The value of `key`."""
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except self._error as error:
            raise _damaged(self.path, error) from None
        if value is None:
            raise DataError(f"LevelDB {self.path!r} has no key {key!r}")
        return value

    def iter_keys(self) -> Iterator[Buffer]:
        """All keys, in order."""
        try:
            with self._db.iterator(include_value=False, verify_checksums=True) as keys:
                yield from keys
        except self._error as error:
            raise _damaged(self.path, error) from None

    def records(self) -> Iterator[tuple[Buffer, Buffer]]:
        """All keys and values, in order, once."""
        try:
            with self._db.iterator(verify_checksums=True) as pairs:
                yield from pairs
        except self._error as error:
            raise _damaged(self.path, error) from None

    def close(self) -> None:
        """Close the database."""
        self._db.close()
        self._clean()


def _plyvel(purpose: str, path: str, instead: str) -> Any:
    try:
        return import_module("plyvel")
    except ImportError:
        raise DataError(
            f"{purpose} LevelDB {path!r} needs the package plyvel: "
            f"pip install 'caffeio[leveldb]', or {instead}"
        ) from None


def write_leveldb(
    path: str | os.PathLike[str],
    records: Iterable[tuple[bytes | str, bytes]],
    *,
    commit_every: int = 1000,
) -> int:
    """Write `records` (key, value) into a new LevelDB folder; returns how many there were.

    The folder must not exist. It is filled beside its place and renamed when it is whole. Options
    are Caffe's: blocks of 64 kB, a write buffer of 256 MB. Raises DataError.
    """
    target = Path(path)
    plyvel = _plyvel("writing", str(path), "write an LMDB")
    if target.exists():
        raise DataError(f"cannot create LevelDB {str(path)!r}: it is there already")
    if not target.parent.is_dir():
        raise DataError(f"cannot create LevelDB {str(path)!r}: no folder {str(target.parent)!r}")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    count = 0
    try:
        db = plyvel.DB(
            str(part), create_if_missing=True, block_size=65536, write_buffer_size=268435456
        )
        with contextlib.closing(db):
            batch = db.write_batch(sync=True)
            for key, value in records:
                batch.put(key.encode() if isinstance(key, str) else key, value)
                count += 1
                if count % commit_every == 0:
                    batch.write()
                    batch = db.write_batch(sync=True)
            batch.write()
        part.rename(target)
    except (plyvel.Error, OSError) as error:
        raise DataError(f"cannot write LevelDB {str(path)!r}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(f"LevelDB {path!r} is damaged: {error}")


def _shadow(path: str) -> str:
    """A temporary folder with links to the tables of the LevelDB and copies of all else."""
    shadow = tempfile.mkdtemp(prefix="caffeio-leveldb-")
    try:
        for name in os.listdir(path):
            old, new = os.path.join(path, name), os.path.join(shadow, name)
            if name in ("LOCK", "LOG", "LOG.old") or os.path.isdir(old):
                continue
            check_regular(old)
            if name.endswith((".ldb", ".sst")):
                _link_or_copy(os.path.realpath(old), new)
            else:
                shutil.copyfile(old, new)
    except OSError as error:
        shutil.rmtree(shadow, ignore_errors=True)
        place = f"{os.path.basename(error.filename)} " if error.filename else ""
        raise DataError(f"cannot open LevelDB {path!r}: {place}{error.strerror}") from None
    return shadow


def _link_or_copy(old: str, new: str) -> None:
    """Let `new` be the file `old`, where the system has links that everybody may make."""
    try:
        os.symlink(old, new)
    except (OSError, NotImplementedError):
        shutil.copyfile(old, new)


class LevelCursor:
    """A cursor that goes round."""

    def __init__(self, db: Any, path: str, error: type[Exception]) -> None:
        self._iterator = db.raw_iterator(verify_checksums=True)
        self._path, self._error = path, error
        self._move(self._iterator.seek_to_first)

    def _move(self, step: Any) -> Any:
        try:
            return step()
        except self._error as error:
            raise _damaged(self._path, error) from None

    def item(self) -> tuple[Buffer, Buffer]:
        """Key and value of the record here."""
        pair: tuple[Buffer, Buffer] = self._move(self._iterator.item)
        return pair

    def advance(self) -> bool:
        """Go to the next record, or round to the first; False if it went round."""
        self._move(self._iterator.next)
        if self._move(self._iterator.valid):
            return True
        self._move(self._iterator.seek_to_first)
        return False
