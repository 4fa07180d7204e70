"""What a target's compiler refuses in a layer: asked while a net is written, and by lint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from caffeio.converters.from_onnx.targets import Target

if TYPE_CHECKING:  # lint needs no numpy for it
    from caffeio.converters.from_onnx.graph import Dims

# Fields that only some Caffes have, where one that lacks them reads something else.
_FIELDS = (
    ("Pooling", "pooling_param", "round_mode", "PoolingParameter.round_mode"),
    ("Pooling", "pooling_param", "ceil_mode", "PoolingParameter.ceil_mode"),
    ("Pooling", "pooling_param", "avg_include_pad", "PoolingParameter.avg_include_pad"),
)


def complaints(
    target: Target, param: Any, bottoms: Sequence[Dims | None], tops: Sequence[Dims | None]
) -> Iterator[str]:
    """What is wrong with a layer (a LayerParameter) of these shapes for the target."""
    if not target.has(param.type):
        yield f"{target.name} has no layer {param.type}"
        return
    for type_name, message, field, name in _FIELDS:
        has = param.type == type_name and getattr(param, message).HasField(field)
        if has and not target.has_field(name):
            yield f"{target.name} knows no {message}.{field}"
    for shape in (*bottoms, *tops):
        if shape is not None and len(shape) > target.max_axes:
            yield f"a blob {shape} has more than {target.max_axes} axes"
            break
    yield from _passed_over(target, param)
    yield from _axes(target, param)
    yield from _windows(target, param, bottoms)
    yield from _operand(target, param)


def _passed_over(target: Target, param: Any) -> Iterator[str]:
    """Fields that a toolchain reads over."""
    p = param.batch_norm_param
    fresh = p.HasField("use_global_stats") and not p.use_global_stats
    if param.type == "BatchNorm" and fresh and target.rule("stored_statistics"):
        yield "a BatchNorm by the statistics of its bottom is read as one by stored statistics"
    if param.type == "Log" and param.log_param.ListFields() and target.rule("plain_log"):
        yield "the base, scale and shift of a Log are not read"
    if param.type == "Interp" and target.rule("interp_half_pixel"):
        yield "an Interp is computed from the pixels' centres, not with its corners in place"


def _axes(target: Target, param: Any) -> Iterator[str]:
    type_name = param.type
    if type_name == "InnerProduct" and target.rule("product_axis_1"):
        if param.inner_product_param.axis != 1:
            yield f"an InnerProduct over axis {param.inner_product_param.axis}: only axis 1 is read"
    elif type_name in ("Scale", "Bias") and target.rule("channel_scale") and len(param.bottom) == 1:
        p = param.scale_param if type_name == "Scale" else param.bias_param
        if p.axis != 1 or p.num_axes != 1:
            yield f"a {type_name} over other axes than the channels"
    elif type_name == "Softmax" and target.rule("softmax_axis_1") and param.softmax_param.axis != 1:
        yield f"a Softmax over axis {param.softmax_param.axis}: only axis 1 is read"
    elif type_name == "Permute" and (row := target.rule("permute_order")):
        order = ",".join(map(str, param.permute_param.order))
        if order != row.value:
            yield f"a Permute of the order {order}: only {row.value} is taken"
    elif type_name == "Deconvolution" and target.rule("deconvolution_group"):
        p = param.convolution_param
        if p.group not in (1, p.num_output):
            yield f"a Deconvolution of {p.group} groups: only 1, or one for each channel"


def _windows(target: Target, param: Any, bottoms: Sequence[Dims | None]) -> Iterator[str]:
    """What a toolchain that knows maps only reads wrongly in a convolution."""
    if param.type not in ("Convolution", "Deconvolution"):
        return
    p = param.convolution_param
    if target.rule("convolution_maps"):
        axes = next((len(shape) - 1 - p.axis for shape in bottoms if shape is not None), 2)
        if p.axis != 1:
            yield f"a {param.type} whose axis is {p.axis}: only 1 is read"
        elif axes != 2 or len(p.kernel_size) > 2:
            yield f"a {param.type} over other than two axes"
    if target.rule("one_dilation") and len(set(p.dilation)) > 1:
        yield f"a {param.type} with two dilations: they are read in the wrong order"


def _operand(target: Target, param: Any) -> Iterator[str]:
    """A second bottom of a Scale that is not put where it belongs."""
    if param.type not in ("Scale", "Bias") or len(param.bottom) != 2:
        return
    axis = (param.scale_param if param.type == "Scale" else param.bias_param).axis
    row = target.rule("operand")
    if row is not None and row.value != "any" and axis != 0:
        yield f"a {param.type} whose second bottom begins at axis {axis}: only 0 is read"
