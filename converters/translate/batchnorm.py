"""BatchNorm as the Caffes store it, and from one form to another.

BVLC:    mean and variance, both multiplied by the third blob (the factor); scale and shift are in a
         Scale layer behind it.
Intel:   the same, and its MKL engines keep scale and shift as blobs 4 and 5 of the BatchNorm.
NVIDIA:  mean and variance as they are, factor 1; scale and shift as blobs 4 and 5 if `scale_bias`.
Sources: batch_norm_layer.cpp of the three, mkldnn_batch_norm_layer.cpp and net.cpp of Intel's.
"""

from __future__ import annotations

import numpy as np

from caffeio.converters.netstate import NetState, StateBlob, StateLayer
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.schema import Schema
from caffeio.proto.io.blobs import Array

NVIDIA_EPS = 1e-5  # the least eps of NVIDIA's Caffe (CUDNN_BN_MIN_EPSILON)


def merged_form(schema: Schema) -> str | None:
    """How a dialect keeps scale and shift in a BatchNorm: "intel", "nvidia", or None."""
    fields = schema.messages.get("BatchNormParameter", {})
    if "use_weight_bias" in fields:
        return "intel"
    return "nvidia" if "scale_bias" in fields else None


def split_merged(state: NetState) -> list[str]:
    """Make BatchNorm and Scale of every BatchNorm with scale (and shift) blobs; say which."""
    done = []
    names = {layer.param.name for layer in state.layers}
    for at in range(len(state.layers) - 1, -1, -1):
        layer = state.layers[at]
        if layer.param.type == "BatchNorm" and len(layer.blobs) in (4, 5):
            state.layers.insert(at + 1, _take_scale(layer, names))
            done.append(f"layer {layer.param.name!r}: split into BatchNorm and Scale")
        elif layer.param.HasField("batch_norm_param") and _has_filler(layer.param):
            done.append(f"layer {layer.param.name!r}: fillers of a scale that it has not dropped")
        _clear_merged_fields(layer.param)
    return done[::-1]


def _has_filler(param: pb.LayerParameter) -> bool:
    names = ("filler", "scale_filler", "bias_filler")
    return any(param.batch_norm_param.HasField(name) for name in names)


def _take_scale(layer: StateLayer, names: set[str]) -> StateLayer:
    """Take scale and shift out of a BatchNorm; return the Scale layer for them."""
    norm = layer.param
    name = f"scale_{norm.name}"
    while name in names:
        name += "_"
    names.add(name)
    scale = pb.LayerParameter(name=name, type="Scale", bottom=norm.top[:1], top=norm.top[:1])
    if norm.HasField("phase"):
        scale.phase = norm.phase
    scale.include.extend(norm.include)
    scale.exclude.extend(norm.exclude)
    scale.param.extend(norm.param[3:])
    del norm.param[3:]
    p, q = scale.scale_param, norm.batch_norm_param
    p.bias_term = len(layer.blobs) == 5
    if q.HasField("filler"):
        p.filler.CopyFrom(q.filler)
    elif q.HasField("scale_filler"):
        p.filler.CopyFrom(q.scale_filler)
    if q.HasField("bias_filler"):
        p.bias_filler.CopyFrom(q.bias_filler)
    out = StateLayer(scale, layer.blobs[3:], origin=layer.origin[3:])
    del layer.blobs[3:], layer.origin[3:]
    return out


def _clear_merged_fields(param: pb.LayerParameter) -> None:
    if param.HasField("batch_norm_param"):
        for name in ("filler", "scale_filler", "bias_filler", "use_weight_bias", "bias_term"):
            param.batch_norm_param.ClearField(name)
        param.batch_norm_param.ClearField("scale_bias")


def merge_scales(state: NetState, form: str) -> list[str]:
    """Put each Scale that directly follows a BatchNorm into it, as the MKL engines do; say which.

    The Scale must scale channels, be the only reader of the BatchNorm's top, and (form "nvidia")
    have a shift.
    """
    done, at = [], 0
    while at + 1 < len(state.layers):
        norm, scale = state.layers[at], state.layers[at + 1]
        if _can_merge(state, at, form):
            _merge(norm, scale, form)
            del state.layers[at + 1]
            done.append(f"layer {scale.param.name!r}: merged into {norm.param.name!r}")
        at += 1
    return done


def _can_merge(state: NetState, at: int, form: str) -> bool:
    norm, scale = state.layers[at], state.layers[at + 1]
    if (norm.param.type, scale.param.type) != ("BatchNorm", "Scale"):
        return False
    p = scale.param.scale_param
    plain = p.axis == 1 and p.num_axes == 1 and len(scale.param.bottom) == 1
    top, after = norm.param.top[0], state.layers[at + 2 :]
    mine = scale.param.bottom[0] == top
    # out of place, others may read what the Scale reads
    shared = scale.param.top[0] != top and any(top in layer.param.bottom for layer in after)
    blobs = len(norm.blobs) == 3 and len(scale.blobs) == 1 + p.bias_term
    return plain and mine and not shared and blobs and (form == "intel" or p.bias_term)


def _merge(norm: StateLayer, scale: StateLayer, form: str) -> None:
    p, q = scale.param.scale_param, norm.param.batch_norm_param
    norm.param.top[0] = scale.param.top[0]
    norm.blobs += scale.blobs
    norm.origin += scale.origin
    if form == "nvidia":
        q.scale_bias = True
    elif not p.bias_term:
        q.bias_term = False
    if p.HasField("filler"):
        (q.scale_filler if form == "nvidia" else q.filler).CopyFrom(p.filler)
    if p.HasField("bias_filler"):
        q.bias_filler.CopyFrom(p.bias_filler)
    if len(scale.param.param) and len(norm.param.param) <= 3:
        specs = norm.param.param
        while len(specs) < 3:
            specs.add(lr_mult=0, decay_mult=0)
        specs.extend(scale.param.param)


def divide_by_factor(state: NetState) -> list[str]:
    """Make averages of the sums that BVLC and Intel store, as NVIDIA's Caffe has them."""
    done = []
    for layer in state.layers:
        if layer.param.type != "BatchNorm" or len(layer.blobs) < 3:
            continue
        factor = _factor(layer.blobs[2])
        if factor is None or factor == 1:
            continue
        scale = np.float32(0 if factor == 0 else 1 / factor)
        for k in (0, 1):
            layer.blobs[k] = StateBlob(array=(layer.blobs[k].array() * scale).astype(np.float32))
        layer.blobs[2] = StateBlob(array=np.ones(layer.blobs[2].shape, np.float32))
        done.append(f"layer {layer.param.name!r}: statistics divided by their factor {factor:g}")
    return done


def _factor(blob: StateBlob) -> float | None:
    array: Array = blob.array()
    return float(array.reshape(-1)[0]) if array.size == 1 else None


def keep_nvidia_eps(state: NetState) -> list[str]:
    """Write the eps that NVIDIA's Caffe uses where the file gives a smaller one."""
    done = []
    for layer in state.layers:
        if (
            layer.param.type == "BatchNorm"
            and layer.param.batch_norm_param.eps < NVIDIA_EPS * 0.999
        ):
            layer.param.batch_norm_param.eps = NVIDIA_EPS
            done.append(f"layer {layer.param.name!r}: eps {NVIDIA_EPS:g}, the least of NVIDIA's")
    return done
