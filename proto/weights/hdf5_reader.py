"""Read the HDF5 that Caffe writes, straight from the mapped file.

Covers what the HDF5 library's default settings (and so H5LT, Caffe, h5py) produce: superblock 0
and 1, groups in symbol tables, contiguous or compact data sets of plain numbers and fixed strings.
Everything is checked against the size of the file, and nothing is executed, followed or allocated
for it: unlike the C library this can be given hostile files. What is well-formed but newer
(superblock 2 and 3, chunks, filters) raises ExoticError, so that the caller can turn to h5py.
Format: "HDF5 File Format Specification", The HDF Group.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caffeio.errors import ParseError
from caffeio.proto.io.mapped import HDF5_SIGNATURE
from caffeio.proto.io.wire import Buffer, fail

_UNDEFINED = (1 << 64) - 1
_MAX_DEPTH = 64
_DATASPACE, _DATATYPE, _EXTERNAL, _LAYOUT = 0x01, 0x03, 0x07, 0x08
_LINK_INFO, _LINK, _FILTERS, _CONTINUATION, _SYMBOL_TABLE = 0x02, 0x06, 0x0B, 0x10, 0x11


class ExoticError(Exception):
    """The file uses a part of HDF5 that Caffe never writes."""


@dataclass(frozen=True)
class Dataset:
    """A data set: its numbers lie at `offset` of the file, -1 if none were ever stored.

    With `packed` they are chunked or compressed: only the HDF5 library can read them.
    """

    name: str  # its path in the file
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    packed: bool = False


@dataclass(frozen=True)
class Hdf5Group:
    """A group: name -> member, in the order of the file (by name)."""

    members: dict[str, Hdf5Group | Dataset]


class _Message(NamedTuple):
    kind: int
    start: int
    end: int


def read_tree(buf: Buffer) -> Hdf5Group:
    """Read the whole structure, no numbers. Raises ParseError, or ExoticError."""
    tree = _Tree(buf)
    root = tree.root()
    if not isinstance(root, Hdf5Group):
        fail("the root of the HDF5 file is not a group", 0)
    return root


class _Tree:
    """The file, and which objects have been met."""

    def __init__(self, buf: Buffer) -> None:
        self.buf = buf
        self.base = 0
        self.met: set[int] = set()
        self.stored = 0  # bytes of all data sets

    def take(self, form: str, at: int) -> tuple[Any, ...]:
        """Unpack little-endian numbers at byte `at` of the file."""
        size = struct.calcsize("<" + form)
        if not 0 <= at <= len(self.buf) - size:
            fail("an HDF5 address lies outside of the file", at)
        return struct.unpack("<" + form, self.buf[at : at + size])

    def expect(self, magic: bytes, at: int) -> None:
        """Check a signature."""
        if not 0 <= at <= len(self.buf) - 4 or bytes(self.buf[at : at + 4]) != magic:
            fail(f"HDF5: {magic.decode()!r} was expected", at)

    def root(self) -> Hdf5Group | Dataset:
        """Read the superblock and all that follows."""
        start = next(
            (n for n in (0, 512, 1024, 2048) if bytes(self.buf[n : n + 8]) == HDF5_SIGNATURE), -1
        )
        if start < 0:
            fail("the HDF5 signature is missing", 0)
        version, offsets, lengths = self.take("8x B 4x B B", start)
        if version > 1 or (offsets, lengths) != (8, 8):
            raise ExoticError(f"superblock {version}")
        at = start + (24 if version == 0 else 28)
        self.base, _, end, _, _, header = self.take("6Q", at)
        if self.base not in (0, start):
            fail(f"HDF5: the base address is {self.base}", at)
        if end > len(self.buf):
            missing = end - len(self.buf)
            fail(f"the HDF5 file is cut off: {missing} bytes are missing", len(self.buf))
        return self.object(header, "", 0)

    def object(self, address: int, name: str, depth: int) -> Hdf5Group | Dataset:
        """The group or data set whose object header is at `address`."""
        at = self.base + address
        if depth > _MAX_DEPTH or at in self.met:
            fail("HDF5 groups contain each other, or nest too deep", at)
        self.met.add(at)
        messages: dict[int, _Message] = {}
        for message in self.messages(at):
            messages.setdefault(message.kind, message)
        if _SYMBOL_TABLE in messages:
            return self.group(messages[_SYMBOL_TABLE], name, depth)
        if _LINK_INFO in messages or _LINK in messages:
            raise ExoticError("new-style group")
        if _FILTERS in messages or _EXTERNAL in messages:
            raise ExoticError("filters or external data")
        try:
            return self.dataset(name, *(messages[n] for n in (_DATASPACE, _DATATYPE, _LAYOUT)))
        except KeyError:
            fail("HDF5: an object is neither group nor data set", at)

    def messages(self, at: int) -> Iterator[_Message]:
        """The messages of the (version 1) object header at byte `at`."""
        version, count, size = self.take("B x H 4x I", at)
        if version != 1:
            if bytes(self.buf[at : at + 4]) == b"OHDR":
                raise ExoticError("object header 2")
            fail("HDF5: an object header was expected", at)
        blocks = [(at + 16, size)]
        while blocks and count:
            pos, size = blocks.pop(0)
            end = pos + size
            if end > len(self.buf):
                fail("HDF5: an object header lies outside of the file", pos)
            while pos + 8 <= end and count:
                kind, length = self.take("HH", pos)
                message = _Message(kind, pos + 8, pos + 8 + length)
                if message.end > end:
                    fail("HDF5: a header message is too long", pos)
                count -= 1
                if kind == _CONTINUATION:
                    address, length = self.take("QQ", message.start)
                    blocks.append((self.base + address, length))
                else:
                    yield message
                pos = message.end

    def group(self, table: _Message, path: str, depth: int) -> Hdf5Group:
        """The members of a group, from its B-tree and its heap of names."""
        tree, heap = self.take("QQ", table.start)
        self.expect(b"HEAP", self.base + heap)
        names_size, _, names = self.take("8x QQQ", self.base + heap)
        names += self.base
        if names + names_size > len(self.buf):
            fail("HDF5: the names of a group lie outside of the file", self.base + heap)
        members: dict[str, Hdf5Group | Dataset] = {}
        for at in self.leaves(self.base + tree, 0):
            name_offset, address, cache = self.take("QQI", at)
            if cache == 2:
                raise ExoticError("soft link")
            if name_offset >= names_size:
                fail("HDF5: a name lies outside of its heap", at)
            start = names + name_offset
            raw = bytes(self.buf[start : min(start + 4096, names + names_size)]).split(b"\0", 1)[0]
            name = raw.decode("utf-8", "backslashreplace")
            members[name] = self.object(address, f"{path}/{name}", depth + 1)
        return Hdf5Group(members)

    def leaves(self, at: int, depth: int) -> Iterator[int]:
        """The places of the symbol table entries below the B-tree node at byte `at`."""
        self.expect(b"TREE", at)
        kind, level, used = self.take("4x B B H", at)
        if kind != 0 or depth > _MAX_DEPTH or at in self.met:
            fail("HDF5: a B-tree is damaged", at)
        self.met.add(at)
        for i in range(used):
            (child,) = self.take("Q", at + 32 + 16 * i)
            place = self.base + child
            if level:
                yield from self.leaves(place, depth + 1)
                continue
            self.expect(b"SNOD", place)
            (symbols,) = self.take("6x H", place)
            yield from range(place + 8, place + 8 + 40 * symbols, 40)

    def dataset(self, name: str, space: _Message, kind: _Message, layout: _Message) -> Dataset:
        """A data set of plain numbers or of one string."""
        shape = self.dims(space)
        dtype = self.dtype(kind)
        size = dtype.itemsize
        for n in shape:
            size *= n
        offset = self.place(layout, size)
        self.stored += size if offset >= 0 else 0
        if self.stored > len(self.buf):
            fail("HDF5: data sets overlap", offset)
        return Dataset(name, shape, dtype, offset)

    def dims(self, space: _Message) -> tuple[int, ...]:
        """The shape; () for a scalar."""
        version, rank = self.take("BB", space.start)
        if version not in (1, 2) or rank > 32:
            fail("HDF5: a data space is damaged", space.start)
        start = space.start + (8 if version == 1 else 4)
        if start + 8 * rank > space.end:
            fail("HDF5: a data space is cut off", space.start)
        dims = self.take(f"{rank}Q", start)
        if any(n >= 1 << 62 for n in dims):
            fail("HDF5: a dimension is too large", start)
        return dims

    def dtype(self, message: _Message) -> np.dtype[Any]:
        """The type of the numbers."""
        kind, flags, size = self.take("B B 2x I", message.start)
        order = ">" if flags & 1 else "<"
        kind &= 15
        if kind == 0 and size in (1, 2, 4, 8):
            return np.dtype(f"{order}{'i' if flags & 8 else 'u'}{size}")
        if kind == 1 and size in (2, 4, 8):
            return np.dtype(f"{order}f{size}")
        if kind == 3 and 0 < size <= 1 << 20:
            return np.dtype(f"S{size}")
        if kind > 10:
            fail("HDF5: a data type is damaged", message.start)
        raise ExoticError(f"data type of class {kind} and {size} bytes")

    def place(self, layout: _Message, size: int) -> int:
        """Where the `size` bytes of a data set are; -1 if nowhere."""
        version, kind = self.take("BB", layout.start)
        if version not in (3, 4):
            raise ExoticError(f"layout {version}")
        if kind == 0:
            (stored,) = self.take("H", layout.start + 2)
            at = layout.start + 4
        elif kind == 1:
            address, stored = self.take("QQ", layout.start + 2)
            if address == _UNDEFINED or not size:
                return -1
            at = self.base + address
        else:
            raise ExoticError("chunked data")
        if stored < size:
            fail(f"an HDF5 data set has {stored} bytes, but its shape needs {size}", layout.start)
        if at + size > len(self.buf):
            missing = at + size - len(self.buf)
            fail(f"the HDF5 file is cut off: {missing} bytes of a data set are missing", at)
        return at


__all__ = ["Dataset", "ExoticError", "Hdf5Group", "ParseError", "read_tree"]
