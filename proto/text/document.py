"""A prototxt that is edited field by field: no other byte of it changes."""

from __future__ import annotations

from caffeio.proto.text.edits import change, remove
from caffeio.proto.text.fieldpath import parse_path
from caffeio.proto.text.tree import Tree, TreeNode


class Document(Tree):
    """A text of a message type; edits change it in place, and nodes found before are stale then."""

    def set(self, path: str, value: str) -> int:
        """Give the fields at `path` a value, as if by `KEY=VALUE`; returns how many there were.

        A string needs no quotes, a list stands in brackets, a message in braces. What is not there
        yet is written behind its siblings. Only the values change, no other byte.
        Raises CaffeIOError if nothing matches, or a field is unknown or does not take the value.
        """
        return change(self, parse_path(path), "=", value)

    def add(self, path: str, value: str) -> int:
        """Append a value to a repeated field, as if by `KEY+=VALUE`."""
        return change(self, parse_path(path), "+=", value)

    def remove(self, path: str) -> int:
        """Take the fields at `path` out; a line that becomes empty goes too."""
        return remove(self, parse_path(path))


__all__ = ["Document", "TreeNode"]
