"""Prototxt: text to messages, and where everything in it stands.

`parse` reads what protobuf's C++ TextFormat reads, as Caffe uses it, and refuses what that refuses,
but for fields and enum values that the schema does not have: they are reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from caffeio.proto.text.printer import format_message
from caffeio.proto.text.reader import TextReader
from caffeio.proto.text.slips import OF_V1_LAYERS, best_match
from caffeio.proto.text.tables import MessageTable, table

if TYPE_CHECKING:
    from caffeio.proto.text.document import Document

M = TypeVar("M", bound=Message)
_SUGGESTIONS = 200  # so many unknown fields of a file get one: each takes a millisecond


@dataclass(frozen=True, slots=True)
class UnknownField:
    """A field, or the value of an enum field, that the schema does not know.

    `path` names the field from the root on (`layer[3].convolution_param.num_outputs`), `text` is
    what the file holds for it, `suggestion` the known name it may be a slip of.
    """

    name: str
    path: str
    line: int
    column: int
    suggestion: str | None
    text: str
    kind: str  # "field" or "value"
    owner: str  # the message type, or the enum, that lacks the name
    where: str  # "file:line:column"

    def __str__(self) -> str:
        """One line for people."""
        inside = self.path.rpartition(".")[0]
        what = f"unknown field {self.name!r}{f' in {inside}' if inside else ''}"
        if self.kind == "value":
            what = f"unknown value {self.name} of {self.path}"
        return f"{self.where}: {what}{f' ({self.hint})' if self.hint else ''}"

    @property
    def hint(self) -> str:
        """What was probably meant, or an empty text."""
        if self.kind == "field" and self.owner == "LayerParameter" and self.name in OF_V1_LAYERS:
            return OF_V1_LAYERS[self.name]
        return f"did you mean {self.suggestion}?" if self.suggestion else ""


class ParsedText:
    """A parsed prototxt: the message, the tree of its text, and what the schema does not know."""

    def __init__(self, text: str, message: Any, path: str, reader: TextReader) -> None:
        """`reader` has read `text` into `message`."""
        self.text, self.message, self.path = text, message, path
        self.enum_numbers = reader.enum_numbers  # whether an enum value is given by its number
        self._unknown = reader.unknown

    @cached_property
    def document(self) -> Document:
        """The lossless tree over the text."""
        from caffeio.proto.text.document import Document  # for places and edits only

        return Document(self.text, type(self.message), path=self.path)

    @cached_property
    def unknown(self) -> list[UnknownField]:
        """The fields and enum values that the schema does not know, in file order."""
        suggest = cache(best_match)
        return [
            self._describe(index, owner, suggest if i < _SUGGESTIONS else _nothing)
            for i, (index, owner) in enumerate(self._unknown)
        ]

    def locate(self, *path: str | int) -> str:
        """The place, "file:line:column", of a field, of its element, or of what encloses it.

        The path alternates names and, for repeated fields, indices:
        `locate("layer", 3, "convolution_param", "kernel_size")`. What the text does not hold is
        placed at the innermost message around it that the text does hold.
        """
        return self.document.locate(*path)

    def _describe(
        self,
        index: int,
        table_: MessageTable,
        suggest: Callable[[str, tuple[str, ...]], str | None],
    ) -> UnknownField:
        node = self.document.statements[index]
        assert node is not None
        owner = table_.descriptor
        field = owner.fields_by_name.get(node.name)
        kind, name, known = "field", node.name, owner.fields_by_name.keys()
        if field is not None:
            owner = field.enum_type
            kind, name, known = "value", node.value, owner.values_by_name.keys()
        line, column = self.document.position(node.start if kind == "field" else node.begin)
        return UnknownField(
            name=name,
            path=node.path,
            line=line,
            column=column,
            suggestion=suggest(name, tuple(known)),
            text=node.text,
            kind=kind,
            owner=owner.full_name.partition(".")[2],
            where=f"{self.path}:{line}:{column}",
        )


def _nothing(name: str, known: tuple[str, ...]) -> None:
    """Suggest no other name."""


def parse(
    text: str, message_type: type[M], *, path: str = "<text>", dialect: str | None = None
) -> ParsedText:
    """Read a prototxt into a `message_type` of the canonical schema.

    With a `dialect`, enum values given by number are that dialect's, what it has once may be given
    once, and what it requires must be there. Without one the numbers are BVLC's, and each field
    may come as often as any dialect allows.
    Raises ParseError with file, line, column, the line and a caret under the place.
    """
    reader = TextReader(text, table(message_type.DESCRIPTOR, dialect), path)
    return ParsedText(text, message_type.FromString(reader.read()), path, reader)


__all__ = ["ParsedText", "UnknownField", "format_message", "parse"]
