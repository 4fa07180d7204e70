"""Databases of records, read in key order: what LMDB and LevelDB have in common.

Sources: src/caffe/util/db.hpp; sara-nl src/caffe/data_reader.cpp (shuffle).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from caffeio.data.db.buffer import Buffer
from caffeio.errors import DataError


class Cursor(Protocol):
    """Where one reads: always at a record."""

    def item(self) -> tuple[Buffer, Buffer]:
        """Key and value of the record here."""

    def advance(self) -> bool:
        """Go to the next record, or round to the first; False if it went round."""


class Database(Protocol):
    """An open database of at least one record."""

    path: str
    kind: str
    size: int | None  # how many records; None where only reading them all would tell

    def cursor(self) -> Cursor:
        """A cursor at the first record."""

    def get(self, key: bytes) -> Buffer:
        """The value of `key`."""

    def iter_keys(self) -> Iterator[Buffer]:
        """All keys, in order."""

    def records(self) -> Iterator[tuple[Buffer, Buffer]]:
        """All keys and values, in order, once."""

    def close(self) -> None:
        """Let go of the files; views of values must not be used afterwards."""


def open_db(path: str, backend: str, *, in_order: bool = True) -> Database:
    """Open `path` for reading; `backend` is LMDB or LEVELDB. Raises DataError.

    `in_order`: the records will be read one after the other, not in random order.
    """
    if backend == "LMDB":
        from caffeio.data.db.lmdb import LmdbDatabase

        return LmdbDatabase(path, in_order=in_order)
    if backend == "LEVELDB":
        from caffeio.data.db.leveldb import LevelDatabase

        return LevelDatabase(path)
    raise DataError(f"unknown backend {backend!r} of {path!r}: LMDB or LEVELDB")


def write_db(
    path: str | os.PathLike[str], records: Iterable[tuple[bytes | str, bytes]], backend: str
) -> int:
    """Write `records` (key, value) into a new database; returns how many there were.

    `backend` is LMDB or LEVELDB. The folder must not exist; it appears when it is whole. Raises
    DataError.
    """
    if backend == "LMDB":
        from caffeio.data.db.lmdb import write_lmdb

        return write_lmdb(path, records)
    if backend == "LEVELDB":
        from caffeio.data.db.leveldb import write_leveldb

        return write_leveldb(path, records)
    raise DataError(f"unknown backend {backend!r} of {str(path)!r}: LMDB or LEVELDB")


class KeyTable:
    """All keys of a database in two arrays: what a shuffled epoch is a permutation of."""

    def __init__(self, db: Database) -> None:
        keys = [bytes(key) for key in db.iter_keys()]
        self._bytes = b"".join(keys)
        self._ends = np.cumsum([len(key) for key in keys], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        start = int(self._ends[index - 1]) if index else 0
        return self._bytes[start : int(self._ends[index])]
