"""One canonical schema out of the tables of facts in `tables/`.

Every Caffe fork extended caffe.proto on its own: the same number means different things, the
names almost never clash. The canonical schema is therefore the union of all forks by field NAME:
BVLC's numbers for BVLC's fields, numbers of our own (from `OWN` on) for the fields of forks.
A table `tables/<name>.tsv` holds what one fork has; `bvlc.tsv` is whole, the others are deltas.

`python -m caffeio.proto.dialect.schema` writes caffe.proto; the build runs it before protoc.
This module imports nothing but the standard library, so that the build can load it by its path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
OWN = 20000  # first number of a field, and of an enum value, that BVLC does not have

# the main lines, whose files are the most frequent
FAMILIES = ("bvlc", "ssd", "intel", "sara", "intel-2017", "intel-2016", "nvidia")

# Fields that two forks gave the same name and different message types: one message serves both.
_SAME_TYPE = {"message:ReLU6Parameter": "message:ReLUParameter"}
_WIDTH = ("uint32", "int32", "uint64", "int64", "float", "double")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message in one dialect; `type` is a scalar's name, message:X or enum:X."""

    name: str
    number: int
    label: str
    type: str
    default: str | None = None
    packed: bool = False

    @property
    def message(self) -> str | None:
        """The message type's name, or None for a scalar or an enum."""
        return self.type[8:] if self.type.startswith("message:") else None

    @property
    def enum(self) -> str | None:
        """The enum type's name, or None for other types."""
        return self.type[5:] if self.type.startswith("enum:") else None


@dataclass(slots=True)
class Schema:
    """A dialect: messages by name (fields by name), enums by name (numbers by value name)."""

    name: str
    about: str = ""
    messages: dict[str, dict[str, Field]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    layer_types: set[str] = field(default_factory=set)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # values that occur


def dialect_names() -> list[str]:
    """The names of all dialects that have a table, the great families first.

    The order decides whose default a field of several forks has in the canonical schema.
    """
    return list(_names(FOLDER / "tables"))


@cache
def _names(folder: Path) -> tuple[str, ...]:
    """What stands in the folder of the tables, which is asked some ten times a file."""
    names = sorted(path.stem for path in folder.glob("*.tsv"))
    return (*FAMILIES, *(name for name in names if name not in FAMILIES))


def _rows(name: str) -> Iterator[list[str]]:
    with (FOLDER / "tables" / f"{name}.tsv").open(encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("# field"):
                yield line.rstrip("\n").split("\t")


@cache
def load(name: str) -> Schema:
    """Read the table of dialect `name`; a delta is laid over the table of its base (bvlc)."""
    rows = list(_rows(name))
    base = next((row[1] for row in rows if row[0] == "base"), "bvlc")
    out = Schema(name) if name == "bvlc" else _copy(load(base), name)
    out.layer_types = {row[1] for row in rows if row[0] == "layer"} or out.layer_types
    for row in rows:
        if row[0].startswith("#"):
            out.about = out.about or row[0][1:].strip()
        elif row[0] == "field":
            _, message, key, number, label, kind, default, packed, *_ = *row, "", ""
            entry = Field(key, int(number), label, kind, default or None, packed == "packed")
            fields = out.messages.setdefault(message, {})
            # a number that the fork gave to another name is no longer the base's
            for other in [f.name for f in fields.values() if f.number == entry.number]:
                del fields[other]
            fields[key] = entry
        elif row[0] == "enum":
            values = out.enums.setdefault(row[1], {})
            for value in [v for v, n in values.items() if n == int(row[3])]:
                del values[value]
            values[row[2]] = int(row[3])
        elif row[0] == "lacks":
            _drop(out, row[1])
        elif row[0] == "range":
            out.ranges[row[1]] = (float(row[2]), float(row[3]))
        elif row[0] not in ("base", "layer"):
            raise ValueError(f"{name}.tsv: unknown kind of row {row[0]!r}")
    for message, fields in out.messages.items():
        out.messages[message] = dict(sorted(fields.items(), key=lambda item: item[1].number))
    out.ranges = {path: span for path, span in out.ranges.items() if _has(out, path)}
    return out


def _has(schema: Schema, path: str) -> bool:
    message, _, field_name = path.rpartition(".")
    return field_name in schema.messages.get(message, {})


def _copy(base: Schema, name: str) -> Schema:
    messages = {message: dict(fields) for message, fields in base.messages.items()}
    enums = {enum: dict(values) for enum, values in base.enums.items()}
    return Schema(name, "", messages, enums, set(base.layer_types), dict(base.ranges))


def _drop(schema: Schema, path: str) -> None:
    """Take out a message, a field of a message, or a value of an enum."""
    outer, _, last = path.rpartition(".")
    if schema.messages.pop(path, None) is None:
        schema.messages.get(outer, {}).pop(last, None)
        schema.enums.get(outer, {}).pop(last, None)


def _merge(mine: Field, other: Field) -> Field:
    """The field that can hold both: repeated wins over one, the wider number over the narrower."""
    kind = mine.type
    theirs = _SAME_TYPE.get(other.type, other.type)
    if kind != theirs:
        if kind not in _WIDTH or theirs not in _WIDTH:
            raise ValueError(f"{mine.name}: {kind} in one dialect, {theirs} in another")
        # bvlc's own integers stay as they are: no file needs the OpenCL branch's 64 bits
        if mine.number >= OWN:
            kind = max(kind, theirs, key=_WIDTH.index)
    if "repeated" in (mine.label, other.label):
        return replace(mine, label="repeated", type=kind, default=None)
    return replace(mine, type=kind)


@cache
def canonical() -> Schema:
    """The union of all dialects by name; labels are optional or repeated, never required."""
    out = Schema("canonical", "the union of all dialects by field name")
    for name in dialect_names():
        for message, fields in load(name).messages.items():
            mine = out.messages.setdefault(message, {})
            for entry in fields.values():
                if entry.name in mine:
                    mine[entry.name] = _merge(mine[entry.name], entry)
                    continue
                number = (
                    entry.number
                    if name == "bvlc"
                    else OWN + sum(f.number >= OWN for f in mine.values())
                )
                label = "optional" if entry.label == "required" else entry.label
                kind = _SAME_TYPE.get(entry.type, entry.type)
                mine[entry.name] = replace(entry, number=number, label=label, type=kind)
        for enum, values in load(name).enums.items():
            known = out.enums.setdefault(enum, {})
            for value, number in values.items():
                if value not in known:
                    taken = number in known.values()
                    own = OWN + sum(n >= OWN for n in known.values())
                    known[value] = own if taken or name != "bvlc" else number
        out.layer_types |= load(name).layer_types
    return out


def proto_text() -> str:
    """The text of caffe.proto."""
    schema = canonical()
    out = [
        "// The canonical schema: the union of all dialects by field name.",
        "// Made by schema.py from the tables in dialect/tables/; do not edit.",
        'syntax = "proto2";',
        "package caffeio;",
    ]
    for enum, values in schema.enums.items():
        if "." not in enum:
            out += ["", *_enum(enum, values, "")]
    top = sorted(name for name in schema.messages if "." not in name and name != "__file__")
    for name in top:
        out += ["", *_message(schema, name, "")]
    return "\n".join(out) + "\n"


def _enum(name: str, values: dict[str, int], indent: str) -> list[str]:
    lines = [f"{indent}  {value} = {number};" for value, number in values.items()]
    return [f"{indent}enum {name.rpartition('.')[2]} {{", *lines, f"{indent}}}"]


def _message(schema: Schema, name: str, indent: str) -> list[str]:
    inner = indent + "  "
    out = [f"{indent}message {name.rpartition('.')[2]} {{"]
    for enum, values in schema.enums.items():
        if enum.rpartition(".")[0] == name:
            out += _enum(enum, values, inner)
    for nested in sorted(schema.messages):
        if nested.rpartition(".")[0] == name:
            out += _message(schema, nested, inner)
    for entry in sorted(schema.messages[name].values(), key=lambda f: f.number):
        kind = entry.message or entry.enum or entry.type
        options = []
        if entry.default is not None and entry.label != "repeated":
            quoted = entry.type in ("string", "bytes")
            options.append(
                f'default = "{entry.default}"' if quoted else f"default = {entry.default}"
            )
        if entry.packed:
            options.append("packed = true")
        tail = f" [{', '.join(options)}]" if options else ""
        out.append(f"{inner}{entry.label} {kind} {entry.name} = {entry.number}{tail};")
    return [*out, f"{indent}}}"]


def write() -> Path:
    """Write caffe.proto beside this file, if it is not there as it should be."""
    path, text = FOLDER.parent / "caffe.proto", proto_text()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    write()
