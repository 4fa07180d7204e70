"""Edits of a prototxt's text: a value, a field or a line changes, and not one other byte."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from caffeio.errors import CaffeIOError
from caffeio.proto.text.fieldpath import PathStep
from caffeio.proto.text.literals import STRING
from caffeio.proto.text.tables import VALUE, list_items
from caffeio.proto.text.tree import Tree, TreeNode
from caffeio.proto.text.values import find_field, quote, spell

_SEPARATOR = re.compile(r"[ \t]*[;,]")
_TAIL = re.compile(r"[ \t]*[;,]?[ \t]*(?:#[^\n\r]*)?")
_VALUE = re.compile(VALUE, re.ASCII)
_STRING = re.compile(STRING, re.ASCII)


@dataclass
class _Edit:
    """The changes of one assignment, gathered before any is made."""

    document: Tree
    path: str
    changes: list[tuple[int, int, str]] = field(default_factory=list)
    removals: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0

    def replace(self, node: TreeNode, value: str) -> None:
        """Another value for a node."""
        self.changes.append((node.begin, node.end, value))

    def take_out(self, node: TreeNode) -> None:
        """Remove a node with the separator behind it."""
        separator = _SEPARATOR.match(self.document.text, node.end)
        self.removals.append((node.start, separator.end() if separator else node.end))

    def apply(self) -> None:
        """Make all changes and grow the tree anew."""
        text = self.document.text
        self.changes += [(*_extent(text, *span), "") for span in _joined(text, self.removals)]
        for start, end, new in sorted(self.changes, key=lambda c: c[:2], reverse=True):
            text = text[:start] + new + text[end:]
        self.document.replace(text)


def change(document: Tree, steps: list[PathStep], operator: str, value: str) -> int:
    """Do `KEY=VALUE` or `KEY+=VALUE`; see `Document.set` and `Document.add`."""
    edit = _Edit(document, ".".join(map(str, steps)))
    owners = [document.root]
    for i in range(len(steps) - 1):
        owners = [n for owner in owners for n in _enter(edit, owner, steps[i:], operator, value)]
    for owner in owners:
        _change_in(edit, owner, steps[-1], operator, value)
    if not edit.count:
        raise CaffeIOError(f"{edit.path}: nothing matches in {document.path}")
    edit.apply()
    return edit.count


def remove(document: Tree, steps: list[PathStep]) -> int:
    """Take fields out; see `Document.remove`."""
    edit = _Edit(document, ".".join(map(str, steps)))
    found = document.follow(steps)
    if not found:
        descriptor = document.message_type.DESCRIPTOR
        for step in steps:  # an unknown name deserves its own message
            if descriptor is not None:
                descriptor = find_field(descriptor, step.name, edit.path).message_type
        raise CaffeIOError(f"{edit.path}: nothing matches in {document.path}")
    groups: dict[int, list[TreeNode]] = {}
    for node in found:
        if node.group is None:
            edit.take_out(node)
        else:
            groups.setdefault(node.group.start, []).append(node)
    for nodes in groups.values():
        _remove_items(edit, nodes)
    edit.apply()
    return len(found)


def _enter(
    edit: _Edit, owner: TreeNode, steps: list[PathStep], operator: str, value: str
) -> list[TreeNode]:
    """The messages inside `owner` that the first step chooses; a missing one is written whole."""
    step = steps[0]
    known = owner.named(step.name)
    if owner.descriptor is not None and not known:
        _check_entry(find_field(owner.descriptor, step.name, edit.path), step, edit.path)
    chosen = edit.document.chosen(owner, step)
    if any(not node.is_message for node in chosen):
        raise CaffeIOError(f"{edit.path}: {step.name} has no fields")
    if not chosen and _may_make(step, known):
        _insert(edit, owner, step.name, _compose(edit, owner, steps, operator, value))
        edit.count += 1
    return chosen


def _may_make(step: PathStep, known: list[TreeNode]) -> bool:
    return (step.new_index if step.selectors else 0) == len(known)


def _check_entry(entry: Any, step: PathStep, path: str, operator: str = "=") -> None:
    if step.selectors and not entry.is_repeated:
        raise CaffeIOError(f"{path}: {step.name} is not repeated: take away the brackets")
    if operator == "+=" and (not entry.is_repeated or step.selectors):
        raise CaffeIOError(f"{path}: += appends to a repeated field")


def _compose(
    edit: _Edit, owner: TreeNode, steps: list[PathStep], operator: str, value: str
) -> list[Any]:
    """The lines of a new field with new messages around it: [["a {", [...], "}"]] nested."""
    descriptor: Any = owner.descriptor
    entries = []
    for step in steps:
        if descriptor is None:
            raise CaffeIOError(f"{edit.path}: {step.name} is in a field that the schema lacks")
        entry = find_field(descriptor, step.name, edit.path)
        last = step is steps[-1]
        _check_entry(entry, step, edit.path, operator if last else "=")
        if not _may_make(step, []) and step is not steps[0]:
            raise CaffeIOError(f"{edit.path}: there is no {step} to change")
        if not last and entry.message_type is None:
            raise CaffeIOError(f"{edit.path}: {step.name} has no fields")
        entries.append(entry)
        descriptor = entry.message_type
    lines: list[Any] = [
        _statement(entries[-1], text) for text in _values(entries[-1], value, edit.path)
    ]
    for entry in reversed(entries[:-1]):
        lines = [f"{entry.name} {{", lines, "}"]
    return lines


def _statement(entry: Any, value: str) -> str:
    return f"{entry.name}{'' if entry.message_type is not None else ':'} {value}"


def _values(entry: Any, value: str, path: str) -> list[str]:
    """The values that are to be written, spelled; several for a list."""
    spelled = spell(entry, value, path)
    if entry.is_repeated and entry.message_type is None and spelled.startswith("["):
        return [text for text, _ in list_items(spelled)]
    return [spelled]


def _change_in(edit: _Edit, owner: TreeNode, step: PathStep, operator: str, value: str) -> None:
    """Change, or write, the last field of the path in one message."""
    nodes = owner.named(step.name)
    entry = owner.descriptor.fields_by_name.get(step.name) if owner.descriptor else None
    if entry is None:
        if not nodes or operator == "+=":
            if owner.descriptor is not None:
                find_field(owner.descriptor, step.name, edit.path)
            raise CaffeIOError(f"{edit.path}: the schema does not know it, and it is not there")
        for node in edit.document.chosen(owner, step):
            edit.replace(node, _as_before(node, value, edit.path))
            edit.count += 1
        return
    _check_entry(entry, step, edit.path, operator)
    values = _values(entry, value, edit.path)
    if step.selectors:
        chosen = edit.document.chosen(owner, step)
        if not chosen and not _may_make(step, nodes):
            return
        if len(values) != 1:
            raise CaffeIOError(f"{edit.path}: one value belongs there, not {len(values)}")
        for node in chosen:
            edit.replace(node, values[0])
        nodes = nodes if not chosen else []
        values = values if not chosen else []
        edit.count += len(chosen)
    elif operator == "=":
        values = _replace_all(edit, nodes, values)
        edit.count += 1
    if values:
        lines = [_statement(entry, text) for text in values]
        _insert(edit, owner, step.name, lines)
        edit.count += bool(step.selectors) or operator == "+="


def _replace_all(edit: _Edit, nodes: list[TreeNode], values: list[str]) -> list[str]:
    """Give the nodes of one field these values in turn; returns the values that are left."""
    groups = {id(node.group): node.group for node in nodes}
    group = nodes[0].group if nodes and len(groups) == 1 else None
    if group is not None and not nodes[0].is_message:
        edit.replace(group, f"[{', '.join(values)}]")
        return []
    for node, value in zip(nodes, values, strict=False):
        edit.replace(node, value)
    for node in nodes[len(values) :]:
        if node.group is not None:
            raise CaffeIOError(f"{edit.path}: it is written as several lists: remove it first")
        edit.take_out(node)
    return values[len(nodes) :]


def _as_before(node: TreeNode, value: str, path: str) -> str:
    """A value for a field that the schema does not know, quoted if the old one is."""
    if node.is_message:
        raise CaffeIOError(f"{path}: the schema does not know it: edit the fields in it")
    if _STRING.match(node.value) and not _STRING.fullmatch(value):
        return quote(value)
    if not _VALUE.fullmatch(value):
        raise CaffeIOError(f"{path}: {value!r} is not a value")
    return value


def _newline(text: str) -> str:
    at = text.find("\n")
    return "\r\n" if at > 0 and text[at - 1] == "\r" else "\n"


def _insert(edit: _Edit, owner: TreeNode, name: str, lines: list[Any]) -> None:
    """Write new lines into a message, behind its last field, or the last one of that name."""
    text = edit.document.text
    children = owner.named(name) or owner.children or []
    if children:
        last = max(children, key=lambda node: node.end)
        edit.changes.append(_behind(text, last.group or last, lines))
    elif owner.parent is None:
        newline = _newline(text)
        gap = newline if text.strip("\ufeff") and not text.endswith("\n") else ""
        block = _block(lines, "", newline)[len(newline) :] + newline
        edit.changes.append((len(text), len(text), gap + block))
    else:
        edit.changes.append(_into_empty(text, owner, lines))


def _behind(text: str, last: TreeNode, lines: list[Any]) -> tuple[int, int, str]:
    """The change that writes lines behind a field: on lines of their own if it has its own."""
    line = text.rfind("\n", 0, last.start) + 1
    indent = text[line : last.start].lstrip("\ufeff")
    tail = _TAIL.match(text, last.end)
    assert tail is not None
    at = tail.end()
    if not indent.strip(" \t") and text[at : at + 1] in ("", "\n", "\r"):
        return at, at, _block(lines, indent, _newline(text))
    separator = _SEPARATOR.match(text, last.end)
    at = separator.end() if separator else last.end
    return at, at, " " + _inline(lines)


def _into_empty(text: str, owner: TreeNode, lines: list[Any]) -> tuple[int, int, str]:
    """The change that writes lines between the braces of a message without fields."""
    start, end = owner.begin + 1, owner.end - 1
    inner = text[start:end]
    if "\n" not in inner:
        return start, end, f" {_inline(lines)} "
    line = text.rfind("\n", 0, owner.start) + 1
    first = re.match(r"[ \t]*", text[line:])
    assert first is not None
    at = start + inner.rindex("\n")
    at -= text[at - 1] == "\r"
    return at, at, _block(lines, first[0] + "  ", _newline(text))


def _block(lines: list[Any], indent: str, newline: str) -> str:
    """Lines, and deeper ones in lists, each with a line break before it."""
    return "".join(
        _block(line, indent + "  ", newline) if isinstance(line, list) else newline + indent + line
        for line in lines
    )


def _inline(lines: list[Any]) -> str:
    return " ".join(_inline(line) if isinstance(line, list) else line for line in lines)


def _joined(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, those with only blanks between them as one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and not text[out[-1][1] : start].strip(" \t"):
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def _extent(text: str, start: int, end: int) -> tuple[int, int]:
    """What goes when a span goes: its lines if nothing else is on them, else the blanks by it."""
    line = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    alone_before = not text[line:start].strip(" \t\ufeff")
    rest = text[end:stop]
    if alone_before and not rest.strip():
        return max(line, text.startswith("\ufeff")), min(stop + 1, len(text))
    if rest.lstrip(" \t")[:1] == "#":
        return start, end
    if alone_before:
        return start, end + len(rest) - len(rest.lstrip(" \t"))
    return len(text[:start].rstrip(" \t")), end


def _remove_items(edit: _Edit, nodes: list[TreeNode]) -> None:
    """Take items out of one list in brackets; the list goes with its last item."""
    group = nodes[0].group
    assert group is not None and group.parent is not None
    same = [node for node in group.parent.named(group.name) if node.group is group]
    kept = [node for node in same if node not in nodes]
    if not kept:
        edit.take_out(group)
        return
    last = same.index(kept[-1])
    for node in nodes:
        i = same.index(node)
        if i < last:
            edit.changes.append((node.begin, same[i + 1].begin, ""))
    if last + 1 < len(same):  # the tail goes with the comma behind the last that stays
        edit.changes.append((kept[-1].end, same[-1].end, ""))


def insert_text(document: Tree, owner: TreeNode, text: str) -> None:
    """Write a field, as it stands in another text, behind the last one of a message."""
    edit = _Edit(document, owner.path)
    _insert(edit, owner, "", [line.strip() for line in text.splitlines()])
    edit.apply()
