"""Bytes and text of Caffe's files to messages of one canonical schema, and back.

The message classes are here too: `caffeio.proto.NetParameter`; they are loaded when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """The message class, enum or enum value `name` of the canonical schema."""
    if not name.startswith("_"):
        from importlib import import_module

        messages = import_module("caffeio.proto.caffe_pb2")
        if name in messages.DESCRIPTOR.message_types_by_name or hasattr(messages, name):
            return getattr(messages, name)
    raise AttributeError(f"module 'caffeio.proto' has no attribute {name!r}")
