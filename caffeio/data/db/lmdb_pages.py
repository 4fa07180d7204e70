"""LMDB's pages, checked before LMDB itself follows them.

liblmdb maps the file and trusts it: a page that is cut off kills the process with SIGBUS, one of
the wrong kind with SIGABRT, a wrong length shows foreign memory. So the tree of pages is walked
here first, level by level with numpy: about a second for a million records, of which no pixel is
touched. Format: MDB_meta, MDB_page and MDB_node in mdb.c of LMDB 0.9 (data version 1).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import DataError
from caffeio.proto.io.regular import open_regular

Pages = NDArray[np.int64]

HEADER = 16  # bytes of a page before its list of nodes
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map size, free, main, last, txn
_DB = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch, leaf, overflow, entries, root
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _META_PAGE = 0x01, 0x02, 0x08
_KIND = 0x6F  # the bits of a page's flags that say what it is; others are for transactions
_BIG, _SUB, _DUP = 0x01, 0x02, 0x04  # of a node: data on pages of their own, a database, a set
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32  # of a cursor
_AT_ONCE = 4096  # pages


class Meta(NamedTuple):
    """What the newer of the two meta pages says of the main database."""

    page_size: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int
    last_page: int
    txn: int


def check_lmdb(file: str, label: str) -> Meta:
    """Check the data file of an LMDB: its size, and every page of its tree.

    Raises DataError, with `label` as the LMDB's name, for the first thing that is wrong. Values on
    pages of their own (large records) are checked for their place, not read.
    """
    walk = None
    try:
        with open_regular(file) as stream:
            size = stream.seek(0, 2)
            if not size:
                raise DataError(f"cannot open LMDB {label!r}: its data file is empty (0 bytes)")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                meta = read_meta(content, size, label)
                walk = _Walk(content, meta, label)
                try:
                    walk.run()
                finally:
                    walk.forget()
                return meta
    except OSError as error:
        raise DataError(f"cannot open LMDB {label!r}: {error.strerror}") from None


def read_meta(content: mmap.mmap | bytes, size: int, label: str) -> Meta:
    """The newer meta page of a file of `size` bytes. Raises DataError."""
    first = _one_meta(content, 0, size, label)
    second = _one_meta(content, first.page_size, size, label)
    if second.page_size != first.page_size:
        raise _damaged(label, "its two meta pages tell different page sizes")
    meta = first if first.txn >= second.txn else second
    end = (meta.last_page + 1) * meta.page_size
    if size < end:
        raise DataError(
            f"LMDB {label!r} is truncated: data.mdb has {size} bytes, its pages end at {end}"
        )
    return meta


def _one_meta(content: mmap.mmap | bytes, at: int, size: int, label: str) -> Meta:
    if size < at + HEADER + _META.size:
        raise DataError(f"LMDB {label!r} is truncated: data.mdb has {size} bytes")
    flags = int.from_bytes(content[at + 10 : at + 12], "little")
    magic, version, _, _, free, main, last, txn = _META.unpack_from(content, at + HEADER)
    if magic != _MAGIC or not flags & _META_PAGE:
        raise DataError(f"cannot open LMDB {label!r}: its data file is not that of an LMDB")
    if version != _VERSION:
        raise DataError(f"cannot open LMDB {label!r}: its format has version {version}, not 1")
    page_size = _DB.unpack(free)[0]
    if not 256 <= page_size <= 1 << 16 or page_size & (page_size - 1):
        raise _damaged(label, f"its meta page tells a page size of {page_size}")
    _, kind, depth, branch, leaf, overflow, entries, root = _DB.unpack(main)
    return Meta(page_size, kind, depth, branch, leaf, overflow, entries, root, last, txn)


def _damaged(label: str, what: str) -> DataError:
    return DataError(f"LMDB {label!r} is damaged: {what}")


@dataclass
class _Level:
    """Some pages of one level: where they begin, and where each of their nodes is."""

    pages: Pages
    node: Pages  # place of each node in the file
    end: Pages  # where its page ends
    size: Pages  # data size of a leaf's node
    flags: Pages
    key: Pages  # bytes of its key


class _Walk:
    """One walk over the tree."""

    def __init__(self, content: mmap.mmap, meta: Meta, label: str) -> None:
        self.meta, self.label = meta, label
        end = (meta.last_page + 1) * meta.page_size
        self._bytes: Any = np.frombuffer(content, np.uint8, end)
        self._words: Any = self._bytes.view("<u2")

    def forget(self) -> None:
        """Let go of the map, so that it can be closed."""
        self._bytes = self._words = None

    def fail(self, what: str) -> NoReturn:
        raise _damaged(self.label, what)

    def run(self) -> None:
        """Check every page; the sums must be those of the meta page."""
        meta = self.meta
        if meta.flags:
            self.fail(f"its main database has flags {meta.flags:#x}, which Caffe's have not")
        if meta.root == _NO_PAGE:
            if meta.entries or meta.depth:
                self.fail(f"it tells {meta.entries} records and has no root page")
            return
        if not 1 <= meta.depth <= _MAX_DEPTH:
            self.fail(f"its tree is {meta.depth} levels deep")
        pages = np.array([meta.root & (1 << 63) - 1], np.int64)
        branches = 0
        for _ in range(meta.depth - 1):
            self._inside(pages, "the root" if len(pages) == 1 else "a branch")
            branches += len(pages)
            if branches > meta.branch_pages:
                break
            pages = np.concatenate([self._children(c) for c in self._levels(pages, _BRANCH)])
        self._inside(pages, "a branch" if meta.depth > 1 else "the root")
        self._equal("branch pages", branches, meta.branch_pages)
        self._equal("leaf pages", len(pages), meta.leaf_pages)
        self._leaves(pages)

    def _leaves(self, pages: Pages) -> None:
        entries = overflow = 0
        for level in self._levels(pages, _LEAF):
            entries += len(level.node)
            overflow += self._check_leaves(level)
        self._equal("records", entries, self.meta.entries)
        self._equal("overflow pages", overflow, self.meta.overflow_pages)

    def _equal(self, what: str, found: int, told: int) -> None:
        if found != told:
            self.fail(f"it has {found} {what}, its meta page tells {told}")

    def _inside(self, pages: Pages, whose: str) -> None:
        wrong = (pages < 2) | (pages > self.meta.last_page)
        if wrong.any():
            page = int(pages[wrong.argmax()])
            self.fail(f"{whose} names page {page}; pages 2 to {self.meta.last_page} are there")
        if len(pages) > self.meta.last_page or len(np.unique(pages)) != len(pages):
            self.fail("a page stands in two places of its tree")

    def _levels(self, pages: Pages, kind: int) -> Iterator[_Level]:
        for at in range(0, len(pages), _AT_ONCE):
            yield self._level(pages[at : at + _AT_ONCE], kind)

    def _level(self, pages: Pages, kind: int) -> _Level:
        """The nodes of these pages, each of which must be of this kind."""
        size = self.meta.page_size
        begin = pages * size
        word = begin // 2
        number = sum(self._words[word + i].astype(np.int64) << 16 * i for i in range(4))
        self._check(number == pages, pages, "does not tell its own number")
        flags = self._words[word + 5]
        name = "a leaf" if kind == _LEAF else "a branch"
        self._check((flags & _KIND) == kind, pages, f"is not {name}, as its level wants")
        lower = self._words[word + 6].astype(np.int64)
        upper = self._words[word + 7].astype(np.int64)
        counts = (lower - HEADER) // 2
        good = (lower >= HEADER) & (lower <= upper) & (upper <= size)
        self._check(good & (counts >= (1 if kind == _LEAF else 2)), pages, "has wrong bounds")
        owner = np.repeat(np.arange(len(pages)), counts)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        offset = self._words[word[owner] + HEADER // 2 + place].astype(np.int64)
        good = (offset >= upper[owner]) & (offset + 8 <= size) & (offset % 2 == 0)
        self._check(good, pages[owner], "has a node outside of it")
        node = begin[owner] + offset
        word = node // 2
        low, high, flags, key = (self._words[word + i].astype(np.int64) for i in range(4))
        end = begin[owner] + size
        self._check(node + 8 + key <= end, pages[owner], "has a key that runs out of it")
        return _Level(pages[owner], node, end, low | high << 16, flags, key)

    def _check(self, good: Any, pages: Pages, what: str) -> None:
        if not good.all():
            self.fail(f"page {int(pages[(~good).argmax()])} {what}")

    @staticmethod
    def _children(level: _Level) -> Pages:
        """The pages that the nodes of branches name."""
        return level.size | level.flags << 32

    def _check_leaves(self, level: _Level) -> int:
        """Check records on the leaves; return how many pages those take that are elsewhere."""
        self._check(level.flags & (_SUB | _DUP) == 0, level.pages, "holds a database in a database")
        self._check(level.key > 0, level.pages, "has a record without a key")
        big = level.flags & _BIG != 0
        data = level.node + 8 + level.key
        taken = np.where(big, 8, level.size)
        self._check(data + taken <= level.end, level.pages, "has a record that runs out of it")
        if not big.any():
            return 0
        raw = self._bytes[data[big][:, None] + np.arange(8)]
        first = np.ascontiguousarray(raw).view("<u8").reshape(-1)
        count = (HEADER - 1 + level.size[big]) // self.meta.page_size + 1
        last = np.uint64(self.meta.last_page)
        good = (first >= 2) & (first <= last)
        good &= count - 1 <= (last - np.minimum(first, last)).astype(np.int64)
        self._check(good, level.pages[big], "has a record whose pages are not in the file")
        return int(count.sum())
