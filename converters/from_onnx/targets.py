"""What each target's Caffe takes: layer types, fields, ranks and habits, out of `targets/*.tsv`.

A row is a fact: kind, name, value, state, source. A "layer" is taken, a "wrong" one is taken and
computes other numbers, which `value` says; "only" are the values of a field (its layer type and
path) that are read, or "set" where it must be given; a "rule" is one of RULES. `state` is "read"
for what stands in public source code or a public document, "run" for what was tried here, "hearsay"
for what people report and nobody here has checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from caffeio.errors import CaffeIOError

FOLDER = Path(__file__).with_name("targets")
STATES = ("read", "run", "hearsay")
KINDS = ("title", "base", "dialect", "layer", "lacks", "field", "rule", "only", "wrong")
RULES = {
    "max_axes": "blobs of more axes are refused",
    "plain_names": "names hold letters, digits and _ . - only",
    "one_input": "there is one Input layer, and no net-level `input`",
    "input_layer": "inputs are Input layers, not net-level `input` fields",
    "batch_1": "the batch is 1",
    "in_place_relu": "a ReLU behind a convolution is expected in place",
    "stored_statistics": "BatchNorm goes by its stored statistics, whatever use_global_stats says",
    "product_axis_1": "InnerProduct has axis 1",
    "channel_scale": "Scale and Bias hold one number for each channel",
    "softmax_axis_1": "Softmax has axis 1",
    "permute_order": "Permute has this order only",
    "line_behind_power": "a Power of power 1 behind another Power is computed wrongly",
    "scale_of_positions": "a Scale of positions behind a convolution is taken for one of channels",
    "outputs_are_layers": "an output is asked for by the name of its layer",
    "plain_log": "the fields of a Log are not read",
    "thin_depthwise": "a 3 x 3 kernel a channel over a map of one row or column is read beside it",
    "convolution_maps": "Convolution and Deconvolution slide over two axes, behind axis 1",
    "one_number": "two numbers in one field of a window are misread; its _h and _w are right",
    "permute_batch": "Permute leaves the batch in its place",
    "padded_average": "an AVE Pooling leaves its padding out of the mean",
    "overhang": "an AVE Pooling counts all of a window that reaches beyond the padding",
    "whole_window": "a Pooling as large as its map is taken for a global one without padding",
    "last_axis_reduction": "a Reduction takes the last axis only",
    "scale_axes": "a Scale has blobs of so many axes",
    "regions_of_4_axes": "ROIPooling's regions have four axes",
    "operand": "a second bottom of a Scale or Bias has axes: any, from axis 0 on, or N and C",
    "deconvolution_group": "Deconvolution has one group, or one for each channel",
}


@dataclass(frozen=True)
class TargetRow:
    """One fact of a table."""

    kind: str
    name: str
    value: str
    state: str
    source: str


@dataclass
class Target:
    """The facts on one target; `rows` are all of them, those of its base included."""

    name: str
    title: str = ""
    dialect: str = "bvlc"
    layers: dict[str, TargetRow] = field(default_factory=dict)
    fields: dict[str, TargetRow] = field(default_factory=dict)
    rules: dict[str, TargetRow] = field(default_factory=dict)
    only: dict[str, TargetRow] = field(default_factory=dict)
    wrong: dict[str, TargetRow] = field(default_factory=dict)
    rows: list[TargetRow] = field(default_factory=list)

    def has(self, kind: str) -> bool:
        """Whether it has a layer type."""
        return kind in self.layers

    def has_field(self, name: str) -> bool:
        """Whether it has a field beyond those of BVLC's Caffe 1.0, as "PoolingParameter.x"."""
        return name in self.fields

    def fields_of(self, message: str) -> set[str]:
        """Its fields of a message beyond those of BVLC's Caffe 1.0."""
        owned = (name.partition(".") for name in self.fields)
        return {field for owner, _, field in owned if owner == message}

    def rule(self, name: str) -> TargetRow | None:
        """The row of a rule, if the target has it."""
        return self.rules.get(name)

    @property
    def max_axes(self) -> int:
        """The most axes that a blob may have."""
        row = self.rules.get("max_axes")
        return int(row.value) if row else 32


def target_names() -> list[str]:
    """Names of all targets."""
    return sorted(path.stem for path in FOLDER.glob("*.tsv"))


@cache
def get_target(name: str) -> Target:
    """The target called `name`. Raises CaffeIOError, listing the known ones."""
    if name not in target_names():
        raise CaffeIOError(f"unknown target {name!r}; known are {', '.join(target_names())}")
    text = (FOLDER / f"{name}.tsv").read_text("utf-8")
    target = Target(name)
    for number, line in enumerate(text.splitlines(), 1):
        if line and not line.startswith("#"):
            _add_row(target, _row(line, f"{name}.tsv:{number}"))
    return target


def _row(line: str, where: str) -> TargetRow:
    parts = line.split("\t")
    if len(parts) != 5 or parts[0] not in KINDS or parts[3] not in STATES or not parts[4]:
        raise CaffeIOError("a row is kind, name, value, state and source", where=where)
    if parts[0] == "rule" and parts[1] not in RULES:
        raise CaffeIOError(f"unknown rule {parts[1]!r}", where=where)
    return TargetRow(*parts)


def _add_row(target: Target, row: TargetRow) -> None:
    if row.kind == "base":
        base = get_target(row.name)
        target.dialect = base.dialect
        target.layers.update(base.layers)
        target.fields.update(base.fields)
        target.rules.update(base.rules)
        target.only.update(base.only)
        target.wrong.update(base.wrong)
        target.rows += base.rows
        return
    target.rows.append(row)
    if row.kind == "title":
        target.title = row.name
    elif row.kind == "dialect":
        target.dialect = row.name
    elif row.kind == "layer":
        target.layers[row.name] = row
    elif row.kind == "field":
        target.fields[row.name] = row
    elif row.kind == "only":
        target.only[row.name] = row
    elif row.kind == "wrong":
        target.wrong[row.name] = row
    elif row.kind == "lacks":
        for table in (target.layers, target.fields, target.rules, target.only, target.wrong):
            table.pop(row.name, None)
    else:
        target.rules[row.name] = row
