"""What one Caffe says in other words than another: fields with an equal in the target's dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from caffeio.converters.netstate import NetState, StateLayer
from caffeio.layers.registry import is_data_type
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import Lost
from caffeio.proto.dialect.schema import Field, Schema
from caffeio.proto.upgrade.upgrade import V1_TYPES

# Fields that change speed, memory or messages, but no number.
HINTS = frozenset(
    (
        "engine",
        "forward_type",
        "backward_type",
        "forward_math",
        "backward_math",
        "debug",
        "default_forward_type",
        "default_backward_type",
        "default_forward_math",
        "default_backward_math",
        "default_cudnn_math_override",
        "default_conv_algos_override",
        "cudnn_math_override",
        "cudnn_convolution_algo_seeker",
        "conv_algos_override",
        "reduce_buckets",
        "eltwise_mem_sharing",
        "threads",
        "parser_threads",
        "cache",
        "precache",
        "use_gpu_transform",
        "conv_algorithm",
        "compile_net_state",
        "mem_param",
        "prefetch",
        "layer_wise_reduce",
        "data_layout",
        "data_compute_type",
        "fuse",
    )
)
# Fields that only training, or the way to its data, reads.
_TRAINING = frozenset(
    (
        "transform_param",
        "param",
        "loss_weight",
        "include",
        "exclude",
        "phase",
        "propagate_down",
        "share_mode",
        "hard_ratio",
        "hard_mining_label",
        "class_weight",
        "label_smooth_factor",
        "cutting_point",
        "normalize_type",
    )
)
_FUSED = {
    "Convolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "BatchNorm": "batch_norm_param",
}


def unfuse(state: NetState, target: Schema) -> list[str]:
    """Turn `relu: true` flags into ReLU layers (if there is none) where the target has no flag."""
    done: list[str] = []
    for at in range(len(state.layers) - 1, -1, -1):
        layer = state.layers[at]
        name = _FUSED.get(layer.param.type)
        if name is None or not layer.param.HasField(name):
            continue
        p = getattr(layer.param, name)
        known = target.messages.get(type(p).DESCRIPTOR.name, {})
        if "relu" in known or not p.HasField("relu"):
            continue
        slope = getattr(p, "negative_slope", 0.0)
        if p.relu and not _has_relu(state, at):
            relu = pb.LayerParameter(name=f"relu_{layer.param.name}", type="ReLU")
            relu.bottom.append(layer.param.top[0])
            relu.top.append(layer.param.top[0])
            if slope:
                relu.relu_param.negative_slope = slope
            state.layers.insert(at + 1, StateLayer(relu))
            done.append(f"layer {layer.param.name!r}: its fused ReLU is a layer now")
        elif p.relu:
            done.append(f"layer {layer.param.name!r}: flag of fusion removed, its ReLU is there")
        p.ClearField("relu")
        if "negative_slope" in p.DESCRIPTOR.fields_by_name:
            p.ClearField("negative_slope")
    return done[::-1]


def _has_relu(state: NetState, at: int) -> bool:
    """Whether the next layer that reads the top of layer `at` (behind Scale or Split) is a ReLU."""
    tops = set(state.layers[at].param.top)
    for layer in state.layers[at + 1 :]:
        if tops & set(layer.param.bottom):
            if layer.param.type not in ("Scale", "BatchNorm", "Split"):
                return bool(layer.param.type == "ReLU")
            tops |= set(layer.param.top)
    return False


def respell(state: NetState, target: Schema) -> list[str]:
    """Say by other fields what the target's own fields cannot hold."""
    done: list[str] = []
    for layer in state.layers:
        if not isinstance(layer.param, pb.LayerParameter):
            continue
        for text in (*_pooling(layer.param, target), *_loss(layer.param, target)):
            done.append(f"layer {layer.param.name!r}: {text}")
    return done


def _pooling(param: Any, target: Schema) -> Iterator[str]:
    if not param.HasField("pooling_param"):
        return
    p, fields = param.pooling_param, target.messages["PoolingParameter"]
    for both, short in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad")):
        values = list(getattr(p, both))
        if len(values) == 2 and fields[both].label != "repeated":
            setattr(p, f"{short}_h", values[0])
            setattr(p, f"{short}_w", values[1])
            p.ClearField(both)
            yield f"pooling {both} {values[0]} x {values[1]} as {short}_h and {short}_w"
        elif len(set(values)) == 1 and fields[both].label != "repeated":
            del getattr(p, both)[1:]
    floor = p.round_mode == p.FLOOR if p.HasField("round_mode") else not p.ceil_mode
    told = p.HasField("round_mode") or p.HasField("ceil_mode")
    if told and ("round_mode" not in fields or "ceil_mode" not in fields):
        if "ceil_mode" in fields and p.HasField("round_mode"):
            p.ClearField("round_mode")
            p.ceil_mode = not floor
            yield "round_mode as ceil_mode"
        elif "round_mode" in fields and p.HasField("ceil_mode"):
            p.ClearField("ceil_mode")
            p.round_mode = p.FLOOR if floor else p.CEIL
            yield "ceil_mode as round_mode"


def _loss(param: Any, target: Schema) -> Iterator[str]:
    """PRE_FIXED with the number 1 is NONE; a divisor of 1 is no divisor."""
    p = param.loss_param
    modes = target.enums.get("LossParameter.NormalizationMode", {})
    fixed = param.HasField("loss_param") and p.normalization == p.PRE_FIXED
    if fixed and p.pre_fixed_normalizer == 1 and "PRE_FIXED" not in modes and "NONE" in modes:
        p.normalization = p.NONE
        p.ClearField("pre_fixed_normalizer")
        yield "normalization PRE_FIXED by 1 as NONE"


def write_out_defaults(state: NetState, source: Schema, target: Schema) -> list[str]:
    """Write values that the file leaves to defaults which the target has otherwise."""
    done = []
    for layer in state.layers:
        for message in _parameters(layer.param, source):
            name = type(message).DESCRIPTOR.full_name.partition(".")[2]
            known = target.messages.get(name, {})
            for entry in source.messages.get(name, {}).values():
                if _differs(entry, known.get(entry.name)) and not message.HasField(entry.name):
                    value = _value(message, entry)
                    setattr(message, entry.name, value)
                    done.append(f"layer {layer.param.name!r}: default {entry.name} {entry.default}")
    return done


def _parameters(param: Any, source: Schema) -> list[Any]:
    """The parameter messages of a layer: those that are there, and that of its own type."""
    out = [value for entry, value in param.ListFields() if _is_message(entry)]
    own = str(param.type).lower() if isinstance(param, pb.LayerParameter) else ""
    for entry in source.messages["LayerParameter"].values() if own else ():
        owner = entry.name.removesuffix("_param").replace("_", "")
        if entry.message and owner == own and not param.HasField(entry.name):
            empty = getattr(param, entry.name)
            out.append(empty)
    return out


def _is_message(entry: Any) -> bool:
    return entry.message_type is not None and not entry.is_repeated


def _differs(mine: Field, other: Field | None) -> bool:
    if other is None or mine.name in HINTS or "repeated" in (mine.label, other.label):
        return False
    return None not in (mine.default, other.default) and mine.default != other.default


def _value(message: Any, entry: Field) -> Any:
    kind = type(getattr(message, entry.name))
    text = entry.default or ""
    if entry.enum:
        return message.DESCRIPTOR.fields_by_name[entry.name].enum_type.values_by_name[text].number
    return text == "true" if kind is bool else kind(text)


def sort_lost(lost: list[Lost], message: Any) -> tuple[list[Lost], list[str]]:
    """Of what the target cannot express: what changes numbers, and in a line each what does not.

    Hints of speed change no number, a value that is the field's default means nothing, and what
    only training reads (data layers, fillers, rates) changes nothing of the net that was trained.
    """
    matters: list[Lost] = []
    hints, defaults, training = Counter[str](), Counter[str](), Counter[str]()
    for item in lost:
        name = next(part for part in reversed(item.path) if isinstance(part, str))
        if name in HINTS:
            hints[name] += 1
        elif _is_default(message, item):
            defaults[name] += 1
        elif _only_training(message, item):
            training[name] += 1
        else:
            matters.append(item)
    notes = [f"dropped {name} ({n} times): it changes no number" for name, n in hints.items()]
    notes += [f"dropped {name} ({n} times): it is the default" for name, n in defaults.items()]
    notes += [f"dropped {name} ({n} times): only training reads it" for name, n in training.items()]
    return matters, notes


def _only_training(message: Any, item: Lost) -> bool:
    """Whether a value belongs to data layers, fillers, rates or rules of phases."""
    names = [part for part in item.path if isinstance(part, str)]
    if any(name in _TRAINING or name.endswith("filler") for name in names):
        return True
    if len(item.path) < 2 or not isinstance(item.path[1], int):
        return False
    kind = getattr(message, str(item.path[0]))[item.path[1]].type
    if not isinstance(kind, str):
        kind = V1_TYPES.get(pb.V1LayerParameter.LayerType.Name(kind), "")
    return is_data_type(kind)


def _is_default(message: Any, item: Lost) -> bool:
    outer: Any = message
    for part in item.path[:-1]:
        outer = outer[part] if isinstance(part, int) else getattr(outer, part)
    name = item.path[-1]
    if isinstance(name, int):
        return False
    entry = outer.DESCRIPTOR.fields_by_name[name]
    if entry.is_repeated or entry.message_type is not None:
        return False
    return bool(getattr(outer, name) == entry.default_value)
