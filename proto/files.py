"""Net and solver files: read whatever kind of file it is, and say where everything in it stands."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from caffeio.errors import CaffeIOError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text import ParsedText, UnknownField, parse


@dataclass
class _File:
    path: Path | None
    dialect: str
    text: str | None
    parsed: ParsedText | None
    unknown: list[UnknownField] = field(default_factory=list)

    def where(self, *path: str | int) -> str:
        """The place "file:line:column" of a field; the file alone if it is binary."""
        if self.parsed is None:
            return str(self.path)
        return self.parsed.where(*path)


@dataclass
class NetFile(_File):
    """A net as read: `message` is the canonical NetParameter, upgraded unless told otherwise."""

    message: pb.NetParameter = field(default_factory=pb.NetParameter)


@dataclass
class SolverFile(_File):
    """A solver as read."""

    message: pb.SolverParameter = field(default_factory=pb.SolverParameter)


def _load(source: str | os.PathLike[str]) -> tuple[Path | None, str]:
    if isinstance(source, str) and ("\n" in source or "{" in source):
        return None, source
    path = Path(source)
    try:
        return path, path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        if isinstance(source, str) and ":" in source:
            return None, source
        raise CaffeIOError("there is no such file", where=str(source)) from None


def read_net(
    source: str | os.PathLike[str], *, dialect: str | None = None, upgrade: bool = True
) -> NetFile:
    """Read a net from a file, or from the text itself."""
    path, text = _load(source)
    parsed = parse(text, pb.NetParameter, path=str(path or "<text>"))
    return NetFile(path, dialect or "bvlc", text, parsed, parsed.unknown, parsed.message)


def read_solver(source: str | os.PathLike[str], *, dialect: str | None = None) -> SolverFile:
    """Read a solver from a file, or from the text itself."""
    path, text = _load(source)
    parsed = parse(text, pb.SolverParameter, path=str(path or "<text>"))
    return SolverFile(path, dialect or "bvlc", text, parsed, parsed.unknown, parsed.message)
