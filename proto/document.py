"""The lossless tree of a prototxt: every field's place, and edits that touch nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from caffeio.proto.literals import SKIP
from caffeio.proto.tables import STATEMENT

_HEAD = re.compile(rf"(\w*+){SKIP}:?{SKIP}", re.ASCII)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset; a BOM does not count."""
    line = text.count("\n", 0, offset) + 1
    begin = text.rfind("\n", 0, offset) + 1
    if begin == 0 and text.startswith("\ufeff"):
        begin = 1
    return line, max(offset - begin, 0) + 1


def caret(text: str, offset: int) -> str:
    """The line around an offset, and under it a caret at the offset."""
    begin = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    line = text[begin : end if end >= 0 else len(text)].rstrip("\r").replace("\ufeff", "")
    before = line[: offset - begin]
    return f"  {line}\n  " + "".join(c if c == "\t" else " " for c in before) + "^"


class Node:
    """One field in the text: its name, its place and, for a message, what is in it."""

    __slots__ = ("begin", "children", "document", "end", "name", "parent", "start")

    def __init__(
        self, document: Document, parent: Node | None, name: str, start: int, begin: int
    ) -> None:
        self.document, self.parent, self.name = document, parent, name
        self.start, self.begin, self.end = start, begin, begin
        self.children: list[Node] | None = None

    @property
    def text(self) -> str:
        """The field as it stands in the file, name included."""
        return self.document.text[self.start : self.end]

    @property
    def value(self) -> str:
        """The value, or the message with its braces, as it stands in the file."""
        return self.document.text[self.begin : self.end]

    @property
    def path(self) -> str:
        """The way to here from the root, as `Document.find` takes it."""
        if self.parent is None:
            return ""
        same = self.parent.named(self.name)
        index = f"[{same.index(self)}]" if len(same) > 1 else ""
        return f"{self.parent.path}.{self.name}{index}".lstrip(".")

    def named(self, name: str) -> list[Node]:
        """The fields called `name` directly in here, in file order."""
        return [child for child in self.children or () if child.name == name]


class Document:
    """The tree of a well-formed prototxt."""

    def __init__(self, text: str, message_type: Any, *, path: str = "<text>") -> None:
        self.text, self.message_type, self.path = text, message_type, path
        self.statements: list[Node | None] = []
        self.root = self._build()

    def _build(self) -> Node:
        root = Node(self, None, "", 0, 0)
        root.children, root.end = [], len(self.text)
        stack = [root]
        for match in STATEMENT.finditer(self.text, self.text.startswith("\ufeff")):
            statement, node = match[1], None
            if not statement:
                break
            if statement in ("}", ">", "]"):
                stack.pop().end = match.end()
            elif statement not in (",", ";"):
                parent = stack[-1]
                head = _HEAD.match(statement)
                assert head is not None and parent.children is not None
                name = head[1] or parent.name
                node = Node(self, parent, name, match.start(1), match.start(1) + head.end())
                node.end = match.end()
                parent.children.append(node)
                if statement[-1] in "{<[":
                    node.children = []
                    stack.append(node)
            self.statements.append(node)
        return root

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        return line_and_column(self.text, offset)

    def where(self, *path: str | int) -> str:
        """See `ParsedText.where`."""
        node = self.root
        steps = list(path)
        while steps:
            name = steps.pop(0)
            index = steps.pop(0) if steps and isinstance(steps[0], int) else 0
            found = node.named(str(name))
            if not isinstance(index, int) or not -len(found) <= index < len(found):
                break
            node = found[index]
        line, column = self.position(node.start)
        return f"{self.path}:{line}:{column}"

    def walk(self) -> Iterator[Node]:
        """All fields in file order."""
        return (node for node in self.statements if node is not None)
