"""Messages as flat dicts that can be compared: defaults resolved, spellings made one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from caffeio.converters.report.model import short_float
from caffeio.layers.window import written_values
from caffeio.proto.caffe_pb2 import LayerParameter
from caffeio.shape_text import format_shape

Flat = dict[str, Any]

# Presence alone has a meaning here: `filler {}` is constant 0, no filler at all is 1.
_PRESENCE = {
    "scale_param.filler", "batch_norm_param.use_global_stats", "batch_norm_param.filler",
    "loss_param.normalization", "loss_param.normalize", "loss_param.ignore_label",
    "accuracy_param.ignore_label", "argmax_param.axis",
    "transform_param.random_resize_param", "transform_param.random_aspect_ratio_param",
}  # fmt: skip
_WIRING = {"name", "type", "bottom", "top", "include", "exclude", "blobs", "param"}
_WINDOW_FIELDS = ("kernel_size", "stride", "pad", "dilation")
_WINDOW_DEFAULTS = {"kernel_size": 0, "stride": 1, "pad": 0, "dilation": 1}


def is_repeated(field: Any) -> bool:
    """Whether a FieldDescriptor is a repeated one."""
    return bool(field.is_repeated)


def format_value(field: Any, value: Any) -> str:
    """A value as a prototxt writes it, in one line."""
    if is_repeated(field):
        return "[" + ", ".join(_one(field, item) for item in value) + "]"
    return _one(field, value)


def _one(field: Any, value: Any) -> str:
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)
        return found.name if found is not None else str(value)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return short_float(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if isinstance(value, Message):
        inner = ", ".join(f"{f.name} {format_value(f, v)}" for f, v in value.ListFields())
        return f"{{{inner}}}"
    return str(value)


def flatten(message: Message, prefix: str = "", skip: frozenset[str] = frozenset()) -> Flat:
    """Path -> value as text of everything that is set to something else than its default."""
    out: Flat = {}
    for field, value in message.ListFields():
        if field.name in skip:
            continue
        path = prefix + field.name
        if is_repeated(field):
            if field.message_type is not None and len(value) == 1:
                out.update(flatten(value[0], f"{path}."))
            else:
                out[path] = format_value(field, value)
        elif field.message_type is not None:
            inner = flatten(value, f"{path}.")
            if path in _PRESENCE and not inner:
                inner = {path: "{}"}
            out.update(inner)
        elif path in _PRESENCE or value != field.default_value:
            out[path] = format_value(field, value)
    return out


def layer_fields(param: LayerParameter, blob_count: int | None = None) -> Flat:
    """Everything that a layer does, apart from its name and its wiring."""
    out = flatten(param, skip=frozenset(_WIRING))
    for name in ("convolution_param", "pooling_param", "deformable_convolution_param"):
        if param.HasField(name):
            _one_spelling(getattr(param, name), name, out)
    for index in range(max(len(param.param), 0)):
        spec = param.param[index]
        if blob_count is not None and index >= blob_count:
            break
        if spec.lr_mult != 1:
            out[f"param[{index}].lr_mult"] = short_float(spec.lr_mult)
        if spec.decay_mult != 1:
            out[f"param[{index}].decay_mult"] = short_float(spec.decay_mult)
        if spec.name:
            out[f"param[{index}].name"] = spec.name
        if spec.name and spec.share_mode:
            out[f"param[{index}].share_mode"] = "PERMISSIVE"
    return out


def _one_spelling(p: Any, prefix: str, out: Flat) -> None:
    """`kernel_size: 3` and `kernel_h: 3 kernel_w: 3` become the same."""
    for name in _WINDOW_FIELDS:
        stem = name.removesuffix("_size")
        for variant in (name, f"{stem}_h", f"{stem}_w"):
            out.pop(f"{prefix}.{variant}", None)
        values = written_values(p, name)
        if len(set(values)) == 1:
            values = values[:1]
        if values and values != (_WINDOW_DEFAULTS[name],):
            out[f"{prefix}.{name}"] = format_shape(values, " x ")


def default_text(message: Message, path: str) -> str:
    """What a field that is not set means, for display: its default, or `-`."""
    names = path.replace("]", "").replace("[", ".").split(".")
    if names[0] == "param" and len(names) > 2:
        return "1" if names[-1].endswith("mult") else "-"
    if names[-1] in _WINDOW_DEFAULTS and len(names) == 2:
        return str(_WINDOW_DEFAULTS[names[-1]]) if names[-1] != "kernel_size" else "-"
    descriptor: Any = message.DESCRIPTOR
    field: Any = None
    for name in names:
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            return "-"
        descriptor = field.message_type
    if field is None or is_repeated(field) or field.message_type is not None or path in _PRESENCE:
        return "-"
    return _one(field, field.default_value) or "-"


def rules_text(param: LayerParameter) -> str:
    """The include and exclude rules: `TRAIN`, `TEST stage val`, `not TRAIN`; "" for none."""

    def one(rule: Any) -> str:
        words: list[str] = []
        if rule.HasField("phase"):
            words.append("TEST" if rule.phase else "TRAIN")
        if rule.HasField("min_level"):
            words.append(f"level >= {rule.min_level}")
        if rule.HasField("max_level"):
            words.append(f"level <= {rule.max_level}")
        words += [f"stage {stage}" for stage in rule.stage]
        words += [f"not stage {stage}" for stage in rule.not_stage]
        return " ".join(words) or "always"

    rules = [one(rule) for rule in param.include] + [f"not {one(rule)}" for rule in param.exclude]
    return " or ".join(rules)


def changed_fields(left: Flat, right: Flat) -> list[str]:
    """Paths whose values differ, in the order of the left, then of the right."""
    paths: Sequence[str] = list(dict.fromkeys([*left, *right]))
    return [path for path in paths if left.get(path) != right.get(path)]


def absent_message(path: str, left: LayerParameter, right: LayerParameter) -> str | None:
    """The path of the innermost message around `path` that only one of the two layers has.

    Messages directly in a layer do not count: an absent one means its defaults.
    """
    names = path.split(".")
    a: Any = left
    b: Any = right
    for depth, name in enumerate(names[:-1]):
        field = a.DESCRIPTOR.fields_by_name.get(name)
        if field is None or field.message_type is None or is_repeated(field):
            return None
        if depth and a.HasField(name) != b.HasField(name):
            return ".".join(names[: depth + 1])
        a, b = getattr(a, name), getattr(b, name)
    return None


def message_text(message: Any, path: str) -> str:
    """The message at `path` in one line, `-` if it is absent."""
    names = path.split(".")
    for name in names[:-1]:
        message = getattr(message, name)
    if not message.HasField(names[-1]):
        return "-"
    return _one(message.DESCRIPTOR.fields_by_name[names[-1]], getattr(message, names[-1]))
