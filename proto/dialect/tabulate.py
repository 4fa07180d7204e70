"""A dialect's table out of a fork's caffe.proto.

`python -m caffeio.proto.dialect.tabulate FORK/src/caffe/proto/caffe.proto NAME` compiles it with
protoc (package grpcio-tools) and writes `tables/NAME.tsv`: what the fork has otherwise than its
base. Layer types are taken from the C++ sources beside it, where they register themselves.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)

from caffeio.proto.dialect import schema
from caffeio.proto.dialect.schema import Field, Schema

_LABELS = {1: "optional", 2: "required", 3: "repeated"}
_REGISTERED = re.compile(r"REGISTER_LAYER_(?:CLASS|CREATOR)\(\s*(\w+)")
_HEADER = (
    "# field\tMessage\tname\tnumber\tlabel\ttype\tdefault\tpacked"
    " | enum\tEnum\tVALUE\tnumber | lacks\tMessage[.field] | layer\tType"
)


def compile_proto(path: Path) -> Schema:
    """Compile the file with protoc and return what it declares."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [f"-I{path.parent}", f"--descriptor_set_out={out}", str(path)]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], check=True)
        file = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    found = Schema(path.stem)
    prefix = f".{file.package}." if file.package else "."
    for enum in file.enum_type:
        found.enums[enum.name] = _enum(enum)
    for message in file.message_type:
        _read_message(message, "", prefix, found)
    return found


def _enum(enum: EnumDescriptorProto) -> dict[str, int]:
    return {value.name: value.number for value in enum.value}


def _read_message(message: DescriptorProto, outer: str, prefix: str, found: Schema) -> None:
    name = f"{outer}{message.name}"
    found.messages[name] = {f.name: _field(f, prefix) for f in message.field}
    for enum in message.enum_type:
        found.enums[f"{name}.{enum.name}"] = _enum(enum)
    for nested in message.nested_type:
        _read_message(nested, f"{name}.", prefix, found)


def _field(entry: FieldDescriptorProto, prefix: str) -> Field:
    kind = FieldDescriptorProto.Type.Name(entry.type).removeprefix("TYPE_").lower()
    if kind in ("message", "enum"):
        kind = f"{kind}:{entry.type_name.removeprefix(prefix)}"
    default = entry.default_value or None  # an empty default is none
    label = _LABELS[entry.label]
    return Field(entry.name, entry.number, label, kind, default, entry.options.packed)


def registered_types(source: Path) -> set[str]:
    """The layer types that C++ files under the folder register."""
    found: set[str] = set()
    for path in sorted(source.rglob("*.c*")):
        if "test" not in path.parts:
            found.update(_REGISTERED.findall(path.read_text(encoding="utf-8", errors="replace")))
    return found - {"type"}


def table(found: Schema, base: Schema, about: str) -> str:
    """The text of a table that makes `found` out of `base`."""
    rows = [f"# {about}", _HEADER]
    if base.name != "bvlc":
        rows.append(f"base\t{base.name}")
    lacks = []
    for message, fields in sorted(found.messages.items()):
        known = base.messages.get(message, {})
        for entry in fields.values():
            if known.get(entry.name) != entry:
                rows.append(_row(message, entry))
        lacks += [f"{message}.{name}" for name in known if name not in fields]
    for enum, values in sorted(found.enums.items()):
        named = base.enums.get(enum, {})
        rows += [f"enum\t{enum}\t{v}\t{n}" for v, n in values.items() if named.get(v) != n]
        lacks += [f"{enum}.{value}" for value in named if value not in values]
    lacks += [name for name in base.messages if name not in found.messages]
    rows += [f"lacks\t{name}" for name in lacks]
    if found.layer_types != base.layer_types:
        rows += [f"layer\t{name}" for name in sorted(found.layer_types)]
    return "\n".join(rows) + "\n"


def _row(message: str, entry: Field) -> str:
    cells = ["field", message, entry.name, str(entry.number), entry.label, entry.type]
    cells += [entry.default or "", "packed" if entry.packed else ""]
    return "\t".join(cells).rstrip("\t")


def main() -> None:
    """Write the table that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m caffeio.proto.dialect.tabulate", description=__doc__
    )
    parser.add_argument("proto", type=Path, help="the fork's caffe.proto")
    parser.add_argument("name", help="the dialect's name")
    parser.add_argument("--base", default="bvlc", help="the dialect it is told apart from")
    parser.add_argument("--about", help="one line about the fork")
    parser.add_argument("--source", type=Path, help="folder of the C++ layers")
    options = parser.parse_args()
    base = schema.load(options.base)
    found = compile_proto(options.proto)
    found.layer_types = registered_types(options.source) if options.source else base.layer_types
    text = table(found, base, options.about or f"{options.name}: what differs from {base.name}")
    path = schema.FOLDER / "tables" / f"{options.name}.tsv"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
