"""Caffe's messages as true protobuf messages of the package `caffe`, in a pool of their own.

BVLC's fields and enum values have BVLC's numbers, so that `SerializeToString` writes what Caffe
reads. The fields of forks are there too, under the numbers of their own Caffes; where two dialects
use one number, the order of `caffeio.proto.dialect.schema.dialect_names` decides, and the later one
gets a number from 20000 on. The environment variable CAFFEIO_DIALECT, set before the first import,
puts one dialect before all: then the bytes are that Caffe's; a NetParameter that reads a file for
which that is needed warns. No field is required.

Source of the facts: src/caffe/proto/caffe.proto of BVLC and of the forks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

from caffeio.proto.dialect.dialect import check_name
from caffeio.proto.dialect.union import PACKAGE, file_proto
from caffeio.pycaffe.proto.foreign import watch

DIALECT = check_name(os.environ.get("CAFFEIO_DIALECT") or "bvlc")

_pool = descriptor_pool.DescriptorPool()
_pool.Add(file_proto(DIALECT))
DESCRIPTOR = _pool.FindFileByName(f"{PACKAGE}.proto")


def _name_classes(message: type[Message], name: str) -> None:
    """Say where the class is found, so that its messages can be pickled."""
    message.__module__, message.__qualname__ = __name__, name
    for inner in message.DESCRIPTOR.nested_types:
        _name_classes(getattr(message, inner.name), f"{name}.{inner.name}")


def _names() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, enum in DESCRIPTOR.enum_types_by_name.items():
        found[name] = EnumTypeWrapper(enum)
        found.update((value.name, value.number) for value in enum.values)
    for name, descriptor in DESCRIPTOR.message_types_by_name.items():
        found[name] = message_factory.GetMessageClass(descriptor)
        _name_classes(found[name], name)
        found[f"_{name.upper()}"] = descriptor
    return found


vars(sys.modules[__name__]).update(_names())
watch(vars(sys.modules[__name__])["NetParameter"], DIALECT)


def __getattr__(name: str) -> Any:  # for type checkers: the names above are made while running
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
