"""Whole files upgraded to today's form: a text stays text, a binary file stays binary."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from google.protobuf.message import Message

from caffeio.errors import ParseError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import HEAD, decode_text, encode_text, is_binary, parse_file
from caffeio.proto.text.document import Document
from caffeio.proto.text.edits import change, insert_text
from caffeio.proto.text.fieldpath import parse_assignment
from caffeio.proto.text.printer import format_message
from caffeio.proto.text.tables import PARTS, STATEMENT
from caffeio.proto.text.text_format import ParsedText, UnknownField, parse
from caffeio.proto.upgrade.upgrade import Upgraded, upgrade_net, upgrade_solver

_TYPE = re.compile(r"type\s*:\s*([A-Za-z_]\w*)")  # a V1 layer's type
TEXT_TYPES: tuple[type[Message], ...] = (
    pb.NetParameter, pb.SolverParameter, pb.LabelMap, pb.MultiPhaseSolverParameter,
)  # fmt: skip


@dataclass
class Rewritten:
    """A file in today's form: its pieces in order, and what was done to get there.

    `done` is empty where the file needed nothing; then its bytes are the old ones. `problems` lists
    what could not be carried over.
    """

    kind: str  # "net" or "solver"
    dialect: str
    parts: list[Any]
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def message_type_of(text: str) -> type[Message]:
    """The type of message that a prototxt holds, by the fields at its top."""
    names, depth = [], 0
    for statement in STATEMENT.findall(text, text.startswith("\ufeff")):
        parts = PARTS.fullmatch(statement)
        if depth == 0 and parts is not None:
            names.append(parts[1])
        depth += statement[-1:] in ("{", "<", "[") if parts or statement in ("{", "<") else 0
        depth -= statement in ("}", ">", "]")
    return min(
        TEXT_TYPES,
        key=lambda kind: sum(name not in kind.DESCRIPTOR.fields_by_name for name in names),
    )


def edit_text(
    text: str, changes: Iterable[str], removals: Iterable[str] = (), *, path: str = "<text>"
) -> tuple[str, int]:
    """A prototxt after assignments (`KEY=VALUE`, `KEY+=VALUE`) and removals, and their places.

    The text must be well-formed before, and is afterwards; all that is not asked for stays.
    Raises CaffeIOError if it is not, if a key matches nothing or a value does not fit.
    """
    kind = message_type_of(text)
    document = parse(text, kind, path=path).document
    count = 0
    for assignment in changes:
        steps, operator, value = parse_assignment(assignment)
        count += change(document, steps, operator, value)
    for key in removals:
        count += document.remove(key)
    parse(document.text, kind, path=path)
    return document.text, count


def upgrade_bytes(data: Any, path: str, dialect: str | None = None) -> Rewritten:
    """Upgrade a file of either kind; see `upgrade_text` and `upgrade_binary`."""
    if is_binary(data[:HEAD]):
        return upgrade_binary(data, path, dialect)
    return upgrade_text(decode_text(bytes(data)), path, dialect)


def upgrade_text(text: str, path: str, dialect: str | None = None) -> Rewritten:
    """Upgrade a net or a solver in text; fields that the schema does not know move along.

    Comments are lost where anything is to be done. Raises CaffeIOError where the file is broken.
    """
    kind = message_type_of(text)
    if kind is pb.LabelMap:
        raise ParseError("is a label map, neither net nor solver", where=path)
    parsed, guess = parse_file(text, kind, path, dialect)
    upgraded: Upgraded[Any]
    if kind is pb.MultiPhaseSolverParameter:
        upgraded = _upgrade_phases(parsed)
    elif kind is pb.SolverParameter:
        upgraded = upgrade_solver(parsed.message, path=path, locate=parsed.locate)
    else:
        upgraded = upgrade_net(
            parsed.message, dialect=guess.dialect, path=path, locate=parsed.locate
        )
    name = "net" if kind is pb.NetParameter else "solver"
    out = Rewritten(name, guess.dialect, [text], upgraded.done, list(upgraded.problems))
    if upgraded.done:
        new = format_message(upgraded.message, dialect=guess.dialect)
        new = _carry(new, parsed, upgraded, out.problems)
        out.parts = [new]
    out.parts = [encode_text(part) for part in out.parts]
    return out


def _upgrade_phases(parsed: ParsedText) -> Upgraded[Any]:
    """Upgrade each solver of a file that holds several (Intel's params_pair)."""
    message = pb.MultiPhaseSolverParameter()
    message.CopyFrom(parsed.message)
    done: list[str] = []
    for number, pair in enumerate(message.params_pair, 1):
        if not pair.HasField("solver_params"):
            continue
        place = partial(parsed.locate, "params_pair", number - 1, "solver_params")
        one = upgrade_solver(pair.solver_params, path=parsed.path, locate=place)
        pair.solver_params.CopyFrom(one.message)
        done += [f"phase {number}: {line}" for line in one.done]
    return Upgraded(message, done)


def _carry(text: str, parsed: ParsedText, upgraded: Upgraded[Any], problems: list[str]) -> str:
    """Put what the schema does not know into the new text, where its message is now."""
    document = Document(text, type(upgraded.message))
    for unknown in parsed.unknown:
        name = _TYPE.fullmatch(unknown.text.strip())
        if name is not None and unknown.path.startswith("layers["):
            problems.append(
                f"{unknown.where}: layer type {name[1]} is unknown to every Caffe known here: it "
                "stays as it is, in quotes"
            )
        owner = _new_owner(unknown, parsed, upgraded, document)
        if owner is None:
            problems.append(
                f"{unknown.where}: {unknown.name} has no place any more: {unknown.text}"
            )
        else:
            quoted = _TYPE.sub(r'type: "\1"', unknown.text) if name else unknown.text
            insert_text(document, owner, quoted)
    parse(document.text, type(upgraded.message), path="the upgraded net")  # it can be read again
    return document.text


def _new_owner(
    unknown: UnknownField, parsed: ParsedText, upgraded: Upgraded[Any], document: Document
) -> Any:
    """The node of the new text that takes an unknown field: the same message as before."""
    old = parsed.document.find(unknown.path)[0].parent
    names: list[tuple[str, int]] = []
    while old is not None and old.parent is not None:
        names.insert(0, (old.name, old.parent.named(old.name).index(old)))
        old = old.parent
    if names and names[0][0] == upgraded.field and upgraded.origin:
        if names[0][1] not in upgraded.places:
            return None
        names[0] = ("layer", upgraded.places[names[0][1]])
        if len(names) > 1 and names[1][0] == "layer":  # V0's inner message is no more
            del names[1]
    node = document.root
    for name, index in names:
        found = node.named(name)
        if index >= len(found):
            return None
        node = found[index]
    return node


def upgrade_binary(data: Any, path: str, dialect: str | None = None) -> Rewritten:
    """Upgrade a binary net, weights and all; the numbers are not read, only moved along.

    Raises CaffeIOError where the file is broken, or its dialect is in doubt.
    """
    from caffeio.proto.dialect.dialect import decode, detect, encode_parts

    chosen = dialect if dialect is not None else detect(data, kind="net").dialect
    decoded = decode(data, "NetParameter", chosen)
    upgraded = upgrade_net(decoded.message, dialect=chosen, path=path)
    out = Rewritten("net", chosen, [data], upgraded.done, list(upgraded.problems))
    if not upgraded.done:
        return out
    insert = {
        new: [(piece.number, [data[piece.start : piece.stop]]) for piece in pieces]
        for old, pieces in decoded.payload.items()
        if (new := _new_path(old, upgraded)) is not None
    }
    lost = [item for item in decoded.unknown if _new_path(item.path, upgraded) is None]
    out.problems += [
        f"field {item.number} of {item.message} has no place any more" for item in lost
    ]
    kept = [
        item._replace(path=new)
        for item in decoded.unknown
        if (new := _new_path(item.path, upgraded)) is not None
    ]
    out.parts = encode_parts(upgraded.message, chosen, unknown=kept, insert=insert)
    return out


def _new_path(path: tuple[str | int, ...], upgraded: Upgraded[Any]) -> Any:
    """Where a path of the old net leads in the new one; None if nowhere."""
    if len(path) < 2 or path[0] != upgraded.field or not upgraded.origin:
        return path
    place = upgraded.places.get(int(path[1]))
    if place is None:
        return None
    rest = path[2:]
    if path[0] == "layers" and rest[:1] == ("layer",):
        rest = rest[1:]
    return ("layer", place, *rest)
