"""The schema of `caffe_pb2`: what the dialects have, under the numbers that they use on the wire.

The canonical schema gives fields of forks numbers of its own, and is as wide as all dialects
together. Scripts want neither: `layer.pooling_param.kernel_size` must be one number, as in BVLC,
and the bytes that a script writes must be what its Caffe reads. So here the dialects are laid over
one another in an order. The first that has a field says what it is: number, label, type, default.
Only if an earlier one has given the number away, the field gets a free one from `schema.OWN` on;
no dialect has numbers between OWN and `END`, so files with such numbers can be read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from caffeio.proto.dialect import schema
from caffeio.proto.dialect.schema import Field, Schema

PACKAGE = "caffe"
END = schema.OWN + 1000  # no dialect, and no message of ours, gets as far
_LABELS = {
    "optional": FieldDescriptorProto.LABEL_OPTIONAL,
    "required": FieldDescriptorProto.LABEL_OPTIONAL,  # no file is refused for what it lacks
    "repeated": FieldDescriptorProto.LABEL_REPEATED,
}


@cache
def union(first: str = "bvlc") -> Schema:
    """All dialects by field name; each name is as the first that has it, `first` before all."""
    out = Schema(PACKAGE, f"{first}, and what other dialects add")
    order = dict.fromkeys([first, *schema.dialect_names()])
    for dialect in map(schema.load, order):
        for message, fields in dialect.messages.items():
            _add_fields(out.messages.setdefault(message, {}), fields.values())
        for enum, values in dialect.enums.items():
            known = out.enums.setdefault(enum, {})
            for value, number in values.items():
                known.setdefault(value, _free(number, known.values()))
    return out


def _add_fields(known: dict[str, Field], fields: Iterable[Field]) -> None:
    for field in fields:
        if field.name not in known:
            number = _free(field.number, [other.number for other in known.values()])
            known[field.name] = replace(field, number=number)


def _free(number: int, taken: Iterable[int]) -> int:
    """The number itself, or the next one of our own where another name has it."""
    used = set(taken)
    if number not in used:
        return number
    return next(own for own in range(schema.OWN, END) if own not in used)


def is_own(number: int) -> bool:
    """Whether the number was given here and is not a dialect's."""
    return schema.OWN <= number < END


def file_proto(first: str = "bvlc") -> FileDescriptorProto:
    """The union as protobuf's description of a file caffe.proto of the package caffe."""
    built = _Builder(union(first))
    file = FileDescriptorProto(name="caffe.proto", package=PACKAGE, syntax="proto2")
    for name in built.inner_enums(""):
        file.enum_type.append(built.enum(name))
    for name in built.inner_messages(""):
        file.message_type.append(built.message(name))
    return file


class _Builder:
    def __init__(self, schema_: Schema) -> None:
        self.schema = schema_

    def inner_enums(self, outer: str) -> Iterator[str]:
        return (name for name in self.schema.enums if name.rpartition(".")[0] == outer)

    def inner_messages(self, outer: str) -> Iterator[str]:
        names = (name for name in self.schema.messages if name != "__file__")
        return (name for name in names if name.rpartition(".")[0] == outer)

    def enum(self, name: str) -> EnumDescriptorProto:
        out = EnumDescriptorProto(name=name.rpartition(".")[2])
        for value, number in self.schema.enums[name].items():
            out.value.add(name=value, number=number)
        return out

    def message(self, name: str) -> DescriptorProto:
        out = DescriptorProto(name=name.rpartition(".")[2])
        out.enum_type.extend(self.enum(inner) for inner in self.inner_enums(name))
        out.nested_type.extend(self.message(inner) for inner in self.inner_messages(name))
        out.field.extend(self.field(field) for field in self.schema.messages[name].values())
        return out

    def field(self, field: Field) -> FieldDescriptorProto:
        out = FieldDescriptorProto(name=field.name, number=field.number, label=_LABELS[field.label])
        if inner := field.message or field.enum:
            out.type_name = f".{PACKAGE}.{inner}"
            kind = "TYPE_MESSAGE" if field.message else "TYPE_ENUM"
        else:
            kind = f"TYPE_{field.type.upper()}"
        out.type = FieldDescriptorProto.Type.Value(kind)
        if field.packed:
            out.options.packed = True
        if field.default is not None and field.label != "repeated":
            out.default_value = field.default
        return out
