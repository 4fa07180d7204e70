"""Files and strings of Python 2, in which text and bytes are one."""

from __future__ import annotations

import builtins
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class File(io.IOBase):
    """open() and file(): writes str and bytes alike; text that is no UTF-8 is read as bytes.

    Python 2 had one type for both. With "b" in the mode, bytes are read.
    """

    def __init__(self, name: Any, mode: str = "r", buffering: int = -1) -> None:
        plain = mode.replace("U", "").replace("t", "").replace("b", "") or "r"
        self._text = "b" not in mode
        self._lines = "U" in mode
        self._file: Any = builtins.open(  # noqa: SIM115 (close() closes it)
            name, f"{plain}b", buffering if buffering != 1 else -1
        )
        self.name, self.mode = name, mode

    def _as_read(self, data: bytes) -> Any:
        if not self._text:
            return data
        if self._lines:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def read(self, size: int = -1) -> Any:
        """Read `size` bytes, or all."""
        return self._as_read(self._file.read(size))

    def readline(self, size: int | None = -1) -> Any:
        """Read a line."""
        return self._as_read(self._file.readline(size))

    def readlines(self, hint: int | None = -1) -> list[Any]:
        """Read all lines."""
        return [self._as_read(line) for line in self._file.readlines(hint)]

    def readinto(self, buffer: Any) -> Any:
        """Read bytes into a buffer."""
        return self._file.readinto(buffer)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        line = self._file.readline()
        if not line:
            raise StopIteration
        return self._as_read(line)

    next = __next__
    xreadlines = __iter__

    def write(self, data: Any) -> Any:
        """Write a str or bytes."""
        return self._file.write(data.encode() if isinstance(data, str) else data)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._file.closed)

    def seek(self, *place: int) -> Any:
        """Go to a place."""
        return self._file.seek(*place)

    def tell(self) -> Any:
        """The place."""
        return self._file.tell()

    def fileno(self) -> int:
        """The system's number of the file."""
        return int(self._file.fileno())

    def readable(self) -> bool:
        """Whether it can be read."""
        return bool(self._file.readable())

    def writable(self) -> bool:
        """Whether it can be written."""
        return bool(self._file.writable())

    def seekable(self) -> bool:
        """Whether one can go to a place."""
        return bool(self._file.seekable())

    def truncate(self, size: int | None = None) -> Any:
        """Cut the file off."""
        return self._file.truncate(size)


class Buffer(io.BytesIO):
    """StringIO.StringIO: a file in memory that gives back what it got, str or bytes."""

    def __init__(self, initial: Any = "") -> None:
        self._text = isinstance(initial, str)
        super().__init__(initial.encode() if isinstance(initial, str) else initial)

    def _as_read(self, data: bytes) -> Any:
        return data.decode() if self._text else data

    def write(self, data: Any) -> int:
        """Write a str or bytes."""
        self._text = self._text and isinstance(data, str)
        return super().write(data.encode() if isinstance(data, str) else data)

    def read(self, size: int | None = -1) -> Any:
        """Read `size` bytes, or all."""
        return self._as_read(super().read(size))

    def readline(self, size: int | None = -1) -> Any:
        """Read a line."""
        return self._as_read(super().readline(size))

    def readlines(self, hint: int | None = -1) -> list[Any]:
        """Read all lines."""
        return [self._as_read(line) for line in super().readlines(hint)]

    def __next__(self) -> Any:
        return self._as_read(super().__next__())

    def getvalue(self) -> Any:
        """Return all that was written."""
        return self._as_read(super().getvalue())


class Str:
    """str of Python 2: bytes are strings too, and str() of them is themselves."""

    dtype = np.dtype(str)

    def __call__(self, value: Any = "", *args: Any, **options: Any) -> Any:
        """Make a string; bytes are one."""
        if isinstance(value, bytes | bytearray) and not args and not options:
            return bytes(value)
        return str(value, *args, **options)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, str | bytes)

    def __subclasscheck__(self, cls: type) -> bool:
        return issubclass(cls, str | bytes)

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (str,)

    def __getattr__(self, name: str) -> Any:
        return getattr(str, name)

    def __eq__(self, other: object) -> bool:
        return other is self or other in (str, bytes)

    def __hash__(self) -> int:
        return hash(str)
