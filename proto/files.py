"""Net and solver files: read whatever kind of file it is, and say where everything in it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from caffeio.errors import CaffeIOError
from caffeio.memory import collector_paused
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.guess_text import Guess, guess_dialect, has_required, used_names
from caffeio.proto.io.opened import read_head
from caffeio.proto.io.regular import read_regular
from caffeio.proto.text.text_format import ParsedText, UnknownField, parse
from caffeio.proto.upgrade.upgrade import Upgraded, upgrade_net, upgrade_solver

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_FIELD = re.compile(r"\s*(\w+)\s*:")
HEAD = 4096


@dataclass
class _File:
    """What both kinds of files have."""

    path: Path | None
    dialect: str
    text: str | None = field(default=None, repr=False)
    unknown: list[UnknownField] = field(default_factory=list)
    guess: Guess = field(default_factory=lambda: Guess("bvlc"))
    parsed: ParsedText | None = field(default=None, repr=False)
    upgraded: Upgraded[Any] | None = field(default=None, repr=False)

    def locate(self, *path: str | int) -> str:
        """The place "file:line:column" of a field; of a binary file its path.

        The path is that of the message as it is now: names and indices in turn, such as
        `where("layer", 3, "convolution_param")`. A field that the upgrade has made is placed at
        what it was made from.
        """
        if self.parsed is None:
            return str(self.path or "<net>")
        return self.parsed.locate(*self._original(path))

    def __getattr__(self, name: str) -> Any:
        """A field of the message: `solver.base_lr` is `solver.message.base_lr`."""
        if name == "message" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.message, name)

    def _original(self, path: Sequence[str | int]) -> Sequence[str | int]:
        """The path before the upgrade."""
        if self.upgraded is None or not path or path[0] != "layer" or not self.upgraded.done:
            return path
        index, origin = path[1] if len(path) > 1 else 0, self.upgraded.origin
        if not isinstance(index, int) or not -len(origin) <= index < len(origin):
            return ()
        old = origin[index]
        return ("input",) if old is None else (self.upgraded.field, old, *path[2:])


@dataclass
class NetFile(_File):
    """A net as read.

    `message` is canonical and, unless told otherwise, upgraded; `dialect` the Caffe that the file
    was written for, `guess` why it is taken for that; `unknown` lists what the schema does not
    know; `upgraded` what the upgrade did. `text` and `parsed` are None for a binary file.
    """

    message: pb.NetParameter = field(default_factory=pb.NetParameter, repr=False)


@dataclass
class SolverFile(_File):
    """A solver as read; the fields are those of NetFile."""

    message: pb.SolverParameter = field(default_factory=pb.SolverParameter, repr=False)


@collector_paused()
def read_net(
    source: str | os.PathLike[str], *, dialect: str | None = None, upgrade: bool = True
) -> NetFile:
    """Read a net from a prototxt, from a binary .caffemodel (without its weights), or from text.

    `source` is a path, or the text itself: a str with a line break, a brace, or a field of a net
    at its begin. Without a `dialect` it is guessed. `upgrade=False` leaves V0 and V1 as they are.
    Raises CaffeIOError if there is no such file, ParseError where it is broken, DialectError where
    a binary file means different things to different Caffes, NetError if it cannot be upgraded.
    """
    path, data = _load_content(source, pb.NetParameter)
    if not isinstance(data, str):
        return _read_binary(path, data, dialect, upgrade)
    parsed, guess = parse_file(data, pb.NetParameter, str(path or "<text>"), dialect)
    file = NetFile(path, guess.dialect, data, parsed.unknown, guess, parsed)
    file.message = parsed.message
    if upgrade:
        _upgrade(file)
    return file


def read_solver(source: str | os.PathLike[str], *, dialect: str | None = None) -> SolverFile:
    """Read a solver from a prototxt or from the text itself; `solver_type` becomes `type`.

    `source` and `dialect` are as for `read_net`. Raises CaffeIOError and ParseError as it does, and
    SolverError if solver_type and type are both given.
    """
    path, data = _load_content(source, pb.SolverParameter)
    if not isinstance(data, str):
        raise CaffeIOError("a solver must be text, and this is a binary file", where=str(path))
    parsed, guess = parse_file(data, pb.SolverParameter, str(path or "<text>"), dialect)
    file = SolverFile(path, guess.dialect, data, parsed.unknown, guess, parsed)
    file.upgraded = upgrade_solver(parsed.message, path=parsed.path, locate=parsed.locate)
    file.message = file.upgraded.message
    return file


def parse_file(
    text: str, message_type: type[Message], path: str, dialect: str | None
) -> tuple[ParsedText, Guess]:
    """Parse a text in its dialect, which is guessed if it is not given."""
    if dialect is not None:
        _check_dialect(dialect)
        return parse(text, message_type, path=path, dialect=dialect), Guess(dialect)
    parsed = parse(text, message_type, path=path)
    used = used_names(parsed.message) | {f"{u.owner}.{u.name}" for u in parsed.unknown}
    guess = guess_dialect(used)
    numbers = parsed.enum_numbers or any(u.kind == "value" for u in parsed.unknown)
    renumbered = numbers and guess.dialect != "bvlc"
    if renumbered or has_required(used, guess.dialect):
        parsed = parse(text, message_type, path=path, dialect=guess.dialect)
    return parsed, guess


def read_text(path: str | os.PathLike[str]) -> str:
    """A file's text, as it can be written back byte for byte: bytes that are not UTF-8 survive."""
    return decode_text(_read_file(Path(path)))


def read_bytes(path: str | os.PathLike[str]) -> Any:
    """A file's bytes; a binary file is mapped into memory. CaffeIOError if it cannot be read."""
    content = _load_content(Path(path), Message)[1]
    return encode_text(content) if isinstance(content, str) else content


def is_binary(head: bytes) -> bool:
    """Whether a file that begins so is binary: it has control characters."""
    return _CONTROL.search(head) is not None


def decode_text(data: bytes) -> str:
    """Bytes of a prototxt as text; `encode_text` gives the same bytes back."""
    return data.decode("utf-8", "surrogateescape")


def decode_file_text(data: Any, path: str) -> str:
    """The text in a file's bytes; CaffeIOError if they are binary."""
    if is_binary(data[:HEAD]):
        raise CaffeIOError("is a binary file, not a prototxt", where=path)
    return decode_text(bytes(data))


def encode_text(text: str) -> bytes:
    """The bytes of a text from `decode_text`."""
    return text.encode("utf-8", "surrogateescape")


def _upgrade(file: NetFile) -> None:
    place = file.parsed.locate if file.parsed is not None else None
    path = str(file.path or "<text>")
    file.upgraded = upgrade_net(file.message, dialect=file.dialect, path=path, locate=place)
    file.message = file.upgraded.message


def _read_binary(path: Path | None, data: bytes, dialect: str | None, upgrade: bool) -> NetFile:
    from caffeio.proto.dialect.dialect import decode, detect

    assert path is not None
    chosen = dialect if dialect is not None else detect(data, kind="net").dialect
    file = NetFile(path, chosen, message=decode(data, "NetParameter", chosen).message)
    if upgrade:
        _upgrade(file)
    return file


def _load_content(source: str | os.PathLike[str], kind: type[Message]) -> tuple[Path | None, Any]:
    """Path and content of a source: str if it is text, else the bytes of a binary file."""
    if isinstance(source, str) and _is_text(source, kind):
        return None, source
    path = Path(source)
    try:
        head, _ = read_head(path, HEAD, is_binary)
    except OSError as error:
        raise CaffeIOError(_why(path, error), where=str(path)) from None
    if is_binary(head):
        from caffeio.proto.io.mapped import map_file

        return path, map_file(path, CaffeIOError, "a net")
    return path, read_text(path)


def _is_text(source: str, kind: type[Message]) -> bool:
    if "\n" in source or "{" in source:
        return True
    match = _FIELD.match(source)
    return bool(match and match[1] in kind.DESCRIPTOR.fields_by_name and not Path(source).exists())


def _read_file(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise CaffeIOError(_why(path, error), where=str(path)) from None


def _why(path: Path, error: OSError) -> str:
    """What keeps a file from being read, and what may have been meant."""
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    if not isinstance(error, FileNotFoundError):
        return f"cannot be read: {error.strerror}"
    return why_missing(path)


def why_missing(path: Path) -> str:
    """That a file is not there, and what may have been meant."""
    if not path.parent.is_dir():
        return f"there is no such file: the folder {path.parent} is missing"
    close = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1, 0.7)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    return f"there is no such file{hint}"


def _check_dialect(name: str) -> None:
    from caffeio.errors import DialectError
    from caffeio.proto.dialect.schema import dialect_names

    if name not in dialect_names():
        raise DialectError(f"unknown dialect {name!r}; known are {', '.join(dialect_names())}")
