"""The dialects of caffe.proto: which one bytes are in, and bytes <-> canonical messages.

    found = detect(data)                                  # which Caffe wrote this net?
    net = decode(data, "NetParameter", found.dialect)     # .message, .unknown
    again = encode(net.message, found.dialect, unknown=net.unknown)

Every fork gave numbers of its own to its fields; the canonical schema (`caffe_pb2`) has all of
their names. The tables of facts in `tables/` say which name has which number where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from caffeio.errors import DialectError, ParseError
from caffeio.proto import caffe_pb2
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.detect_dialect import KINDS, Detection, detect
from caffeio.proto.dialect.plan import CANONICAL
from caffeio.proto.dialect.transcode import (
    Insert,
    Lost,
    Path,
    Payload,
    Transcoder,
    Unknown,
    path_text,
)
from caffeio.proto.io.stream import Part
from caffeio.proto.io.wire import Buffer


class Decoded(NamedTuple):
    """A canonical message, what its dialect did not know, and where its blobs lie.

    By the path of each BlobProto, `payload` tells where its numbers lie, `blobs` the whole of it.
    """

    message: Any
    unknown: list[Unknown]
    payload: dict[Path, list[Payload]]
    blobs: dict[Path, tuple[int, int]]


def check_name(dialect: str) -> str:
    """Return the dialect's name; raise DialectError, listing the known ones, if it has no table."""
    if dialect not in schema.dialect_names():
        known = ", ".join(schema.dialect_names())
        raise DialectError(f"unknown dialect {dialect!r}; known are {known}")
    return dialect


def decode(data: Buffer, message_type_name: str, dialect: str, *, payload: bool = False) -> Decoded:
    """Read a message of that type in `dialect` as the canonical one.

    Unknown fields are kept apart, as bytes. The numbers of blobs are left out of the message and
    their places noted, unless `payload` is true: an mmap of any size can be read.
    Raises ParseError for bytes that are no such message.
    """
    check_name(dialect)
    run = Transcoder(data, dialect, CANONICAL, cut=not payload)
    parts = run.message(0, len(data), message_type_name, message_type_name)
    kind = getattr(caffe_pb2, message_type_name)
    try:
        message = kind.FromString(b"".join(map(bytes, _bytes_of(parts))))
    except DecodeError as error:
        raise ParseError(f"not a {message_type_name}: {error}") from None
    return Decoded(message, run.unknown, run.payload, run.blobs)


def encode(
    message: Message,
    dialect: str,
    *,
    unknown: Iterable[Unknown] = (),
    lost: list[Lost] | None = None,
) -> bytes:
    """Write a canonical message in `dialect`; `unknown` fields are put back where they were.

    What the dialect cannot express is appended to `lost`; without such a list it is an error.
    """
    parts = encode_parts(message, dialect, unknown=unknown, lost=lost)
    return b"".join(map(bytes, _bytes_of(parts)))


def encode_parts(
    message: Message,
    dialect: str,
    *,
    unknown: Iterable[Unknown] = (),
    lost: list[Lost] | None = None,
    insert: Mapping[Path, Sequence[Insert]] | None = None,
) -> list[Part]:
    """As `encode`, in parts to be streamed; `insert` puts whole fields into messages by path.

    So blobs get their numbers: `{("layer", 3, "blobs", 0): [(5, parts of field 5)]}`. A field's
    number decides its place; fields of number 0 go behind all others.
    """
    check_name(dialect)
    put = {path: list(inserts) for path, inserts in (insert or {}).items()}
    for item in unknown:
        put.setdefault(item.path, []).append((0, [item.wire]))
    data = message.SerializeToString(deterministic=True)
    name = message.DESCRIPTOR.full_name.removeprefix(f"{caffe_pb2.DESCRIPTOR.package}.")
    run = Transcoder(data, CANONICAL, dialect, put=put)
    parts = run.message(0, len(data), name, name)
    found = [Lost(path, _value_text(message, path), why) for path, why in run.lost]
    found += [
        Lost(item.path, f"field {item.number}", "the canonical schema does not know it")
        for item in run.unknown
    ]
    if lost is not None:
        lost += found
    elif found:
        listed = "\n".join(f"  {item}" for item in found[:20])
        raise DialectError(f"the dialect {dialect} cannot express\n{listed}")
    return parts


def _bytes_of(parts: Iterable[Part]) -> list[bytes | bytearray | memoryview]:
    return [part for part in parts if isinstance(part, bytes | bytearray | memoryview)]


def _value_text(message: Message, path: Path) -> str:
    """The value at the path, in one line of canonical text."""
    outer: Any = message
    value: Any = message
    entry: Any = None
    for part in path:
        if isinstance(part, int):
            value = value[part]
        else:
            outer, entry = value, value.DESCRIPTOR.fields_by_name[part]
            value = getattr(outer, part)
    if isinstance(value, Message):
        text = text_format.MessageToString(value, as_one_line=True).strip()
        text = text if len(text) <= 60 else text[:57] + "..."
        return f"{{ {text} }}"
    if entry is not None and entry.enum_type is not None:
        known = entry.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    return repr(value) if isinstance(value, str | bytes) else str(value)


__all__ = [
    "KINDS",
    "Decoded",
    "Detection",
    "Lost",
    "Payload",
    "Unknown",
    "check_name",
    "decode",
    "detect",
    "encode",
    "encode_parts",
    "path_text",
]
