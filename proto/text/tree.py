"""The lossless tree of a prototxt: every field and its place in the text."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from caffeio.proto.text.fieldpath import PathStep, parse_path, select
from caffeio.proto.text.literals import SKIP, BadValueError, real, string
from caffeio.proto.text.tables import STATEMENT, list_items

_HEAD = re.compile(rf"(\w*+){SKIP}:?{SKIP}", re.ASCII)


class TreeNode:
    """One field in the text: its name, its place and, for a message, what is in it.

    `start` to `end` is the whole field, `begin` to `end` its value. The items of a list in
    brackets are a node each, with the list in `group`; the list itself is among no children.
    """

    __slots__ = ("begin", "children", "document", "end", "group", "name", "parent", "start")

    def __init__(
        self, document: Tree, parent: TreeNode | None, name: str, start: int, begin: int
    ) -> None:
        """A node that ends where its value begins, until its end is known."""
        self.document, self.parent, self.name = document, parent, name
        self.start, self.begin, self.end = start, begin, begin
        self.children: list[TreeNode] | None = None
        self.group: TreeNode | None = None

    @property
    def text(self) -> str:
        """The field as it stands in the file, name included."""
        return self.document.text[self.start : self.end]

    @property
    def value(self) -> str:
        """The value, or the message with its braces, as it stands in the file."""
        return self.document.text[self.begin : self.end]

    @property
    def is_message(self) -> bool:
        """Whether there are fields in it."""
        return self.children is not None

    @property
    def path(self) -> str:
        """The way to here from the root, as `Document.find` takes it."""
        if self.parent is None:
            return ""
        place = self.document.ordinals.get(self)
        index = f"[{place}]" if place is not None else ""
        return f"{self.parent.path}.{self.name}{index}".lstrip(".")

    @property
    def descriptor(self) -> Any:
        """The descriptor of the message type in here; None where the schema does not know it."""
        if self.parent is None:
            return self.document.message_type.DESCRIPTOR
        outer = self.parent.descriptor
        field = outer.fields_by_name.get(self.name) if outer is not None else None
        return field.message_type if field is not None else None

    def named(self, name: str) -> list[TreeNode]:
        """The fields called `name` directly in here, in file order."""
        if self.parent is None:
            return self.document.of_root.get(name, [])
        return [child for child in self.children or () if child.name == name]

    def reads(self, value: str) -> bool:
        """Whether the value, a string without its quotes, is `value`; numbers compare as such."""
        mine = self.value
        try:
            if mine[:1] in ("'", '"'):
                return string(mine) == value.encode()
            return mine == value or real(mine) == float(value)
        except (BadValueError, ValueError):
            return False

    def is_called(self, name: str) -> bool:
        """Whether this is a message with that `name`, or itself that value."""
        if not self.is_message:
            return self.reads(name)
        inner = [*self.named("name"), *(n for v0 in self.named("layer") for n in v0.named("name"))]
        return any(node.reads(name) for node in inner)

    def has(self, key: tuple[str, ...], value: str) -> bool:
        """Whether some value at a path within this message is `value`."""
        found = [self]
        for name in key:
            found = [child for node in found for child in node.named(name)]
        return any(node.reads(value) for node in found)


class Tree:
    """The tree of a well-formed prototxt; edits change `text` and grow the tree anew."""

    def __init__(self, text: str, message_type: Any, *, path: str = "<text>") -> None:
        """`text` holds a `message_type`; it must be well-formed (`parse` checks that)."""
        self.message_type, self.path = message_type, path
        self.replace(text)

    def replace(self, text: str) -> None:
        """Put another text in place of the old one."""
        self.text = text
        self.statements: list[TreeNode | None] = []  # of every statement its node, None for others
        for name in ("of_root", "ordinals", "_lines"):
            self.__dict__.pop(name, None)
        self.root = self._build()

    @cached_property
    def of_root(self) -> dict[str, list[TreeNode]]:
        """The fields of the root by name."""
        out: dict[str, list[TreeNode]] = {}
        for child in self.root.children or ():
            out.setdefault(child.name, []).append(child)
        return out

    @cached_property
    def ordinals(self) -> dict[TreeNode, int]:
        """The index of every field that has namesakes beside it, among them."""
        out: dict[TreeNode, int] = {}
        for owner in (self.root, *self.walk()):
            groups: dict[str, list[TreeNode]] = {}
            for child in owner.children or ():
                groups.setdefault(child.name, []).append(child)
            for group in groups.values():
                if len(group) > 1:
                    out.update((node, i) for i, node in enumerate(group))
        return out

    @cached_property
    def _lines(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def _build(self) -> TreeNode:
        root = TreeNode(self, None, "", 0, 0)
        root.children, root.end = [], len(self.text)
        stack = [root]
        for match in STATEMENT.finditer(self.text, self.text.startswith("\ufeff")):
            statement, node = match[1], None
            if not statement:
                break
            if statement in ("}", ">", "]"):
                stack.pop().end = match.end()
            elif statement not in (",", ";"):
                node = self._grow(stack, statement, match.start(1))
            self.statements.append(node)
        return root

    def _grow(self, stack: list[TreeNode], statement: str, start: int) -> TreeNode:
        """Add the node of a field, or of an element of a list of messages."""
        head = _HEAD.match(statement)
        assert head is not None
        above = stack[-1]
        parent = above if above.children is not None else above.parent
        assert parent is not None and parent.children is not None
        name = head[1] or above.name
        node = TreeNode(self, parent, name, start, start + head.end())
        node.end = start + len(statement)
        value = statement[head.end() :]
        if value[0] != "[":
            node.group = None if above.children is not None else above
            parent.children.append(node)
            node.children = [] if value in ("{", "<") else None
        if value in ("{", "<", "["):
            stack.append(node)
        elif value[0] == "[":
            for text, at in list_items(value):
                item = TreeNode(self, parent, name, node.begin + at, node.begin + at)
                item.end, item.group = item.begin + len(text), node
                parent.children.append(item)
        return node

    def walk(self) -> Iterator[TreeNode]:
        """All fields, outer ones before what is in them; the items of a list one by one."""
        stack = list(reversed(self.root.children or ()))
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children or ()))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of an offset; a BOM does not count."""
        line = bisect_right(self._lines, offset)
        bom = line == 1 and self.text.startswith("\ufeff")
        return line, max(offset - self._lines[line - 1] - bom, 0) + 1

    def place(self, node: TreeNode) -> str:
        """The node's "file:line:column"."""
        line, column = self.position(node.start)
        return f"{self.path}:{line}:{column}"

    def locate(self, *path: str | int) -> str:
        """See `ParsedText.locate`."""
        node = self.root
        for i, name in enumerate(path):
            if isinstance(name, int):
                continue
            index = path[i + 1] if i + 1 < len(path) else 0
            found = node.named(name)
            at = index if isinstance(index, int) else 0
            if not -len(found) <= at < len(found):
                break
            node = found[at]
        return self.place(node)

    def find(self, path: str) -> list[TreeNode]:
        """The fields that a path (see `caffeio.proto.text.fieldpath`) names, in file order."""
        return self.follow(parse_path(path))

    def follow(self, steps: list[PathStep]) -> list[TreeNode]:
        """The fields that the steps of a path lead to."""
        found = [self.root]
        for step in steps:
            found = [node for owner in found for node in self.chosen(owner, step)]
        return found

    def chosen(self, owner: TreeNode, step: PathStep) -> list[TreeNode]:
        """The fields of one message that one step chooses."""
        return select(owner.named(step.name), step.selectors, TreeNode.is_called, TreeNode.has)
