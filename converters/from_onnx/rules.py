"""What a target's compiler refuses in a layer: asked while a net is written, and by lint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from caffeio.converters.from_onnx.targets import Target
from caffeio.layers.window import axis_values

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
    if wrong := target.wrong.get(param.type):
        yield f"{target.name} computes a {param.type} otherwise: {wrong.value}"
        return
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
    yield from _values(target, param)
    yield from _axes(target, param)
    yield from _ranks(target, param, bottoms)
    yield from _windows(target, param, bottoms)
    yield from _poolings(target, param, bottoms, tops)
    yield from _operand(target, param, bottoms)


def _values(target: Target, param: Any) -> Iterator[str]:
    """Values of fields that are read over, or taken for others."""
    for row in target.only.values():
        type_name, _, path = row.name.partition(" ")
        if type_name != param.type:
            continue
        message, *inner, name = [param, *path.split(".")]
        for part in inner:
            message = getattr(message, part)
        field = message.DESCRIPTOR.fields_by_name[name]
        if row.value == "set":
            if not message.HasField(name):
                yield f"a {type_name} without {name}: it must be given"
            continue
        found = _word(field, getattr(message, name))
        if found not in row.value.split(","):
            yield f"a {type_name} whose {name} is {found}: only {row.value} is read"


def _word(field: Any, value: Any) -> str:
    """A field's value as a prototxt shows it."""
    if field.enum_type is not None:
        name: str = field.enum_type.values_by_number[value].name
        return name
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _passed_over(target: Target, param: Any) -> Iterator[str]:
    """Fields that a toolchain reads over."""
    p = param.batch_norm_param
    fresh = p.HasField("use_global_stats") and not p.use_global_stats
    if param.type == "BatchNorm" and fresh and target.rule("stored_statistics"):
        yield "a BatchNorm by the statistics of its bottom is read as one by stored statistics"
    if param.type == "Log" and param.log_param.ListFields() and target.rule("plain_log"):
        yield "the base, scale and shift of a Log are not read"


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
    elif type_name == "Permute" and target.rule("permute_batch"):
        if list(param.permute_param.order)[:1] not in ([], [0]):
            yield "a Permute that moves the batch: it is passed over"
    elif type_name == "Deconvolution" and target.rule("deconvolution_group"):
        p = param.convolution_param
        if p.group not in (1, p.num_output):
            yield f"a Deconvolution of {p.group} groups: only 1, or one for each channel"


def _ranks(target: Target, param: Any, bottoms: Sequence[Dims | None]) -> Iterator[str]:
    """Axes that are right or wrong by how many the bottoms have."""
    type_name, rank = param.type, len(bottoms[0]) if bottoms and bottoms[0] else 0
    if type_name == "Reduction" and rank and target.rule("last_axis_reduction"):
        axis = param.reduction_param.axis
        if axis % rank != rank - 1:
            yield f"a Reduction from axis {axis} on of {rank}: the last axis only is read"
    regions = bottoms[1] if type_name == "ROIPooling" and len(bottoms) > 1 else None
    if regions is not None and len(regions) < 4 and target.rule("regions_of_4_axes"):
        yield f"an ROIPooling whose regions are {regions}: they need four axes"
    row = target.rule("scale_axes") if type_name == "Scale" and rank else None
    if row is not None and str(rank) not in row.value.split(","):
        yield f"a Scale of a blob of {rank} axes: only {row.value} are taken"


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
    if row := target.rule("one_number"):
        for name in ("kernel_size", "stride", "pad", "dilation"):
            if len(set(getattr(p, name))) > 1:
                yield f"a {param.type} with two numbers in {name}: {row.value}"


def _poolings(
    target: Target, param: Any, bottoms: Sequence[Dims | None], tops: Sequence[Dims | None]
) -> Iterator[str]:
    """Windows of a Pooling that are counted or placed otherwise."""
    p = param.pooling_param
    if param.type != "Pooling" or p.global_pooling or not (bottoms and tops):
        return
    bottom, top = bottoms[0], tops[0]
    if bottom is None or top is None or len(bottom) != 4:
        return
    kernel, stride, pads = (
        axis_values(p, name, 2, default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0))
    )
    if target.rule("whole_window") and any(pads) and kernel == bottom[2:]:
        yield "a padded Pooling as large as its map: it is taken for a global one"
    if p.pool != p.AVE:
        return
    if target.rule("padded_average") and any(pads):
        yield "an AVE Pooling with padding: the padding is left out of the mean"
    over = [(top[2 + i] - 1) * stride[i] + kernel[i] > bottom[2 + i] + 2 * pads[i] for i in (0, 1)]
    if target.rule("overhang") and any(over):
        yield "an AVE Pooling whose last windows reach beyond the padding: all of them is counted"


def _operand(target: Target, param: Any, bottoms: Sequence[Dims | None]) -> Iterator[str]:
    """A second bottom of a Scale or Bias that is not put where it belongs."""
    row = target.rule("operand")
    if row is None or param.type not in ("Scale", "Bias") or len(param.bottom) != 2:
        return
    if param.type == "Scale" and param.scale_param.bias_term:
        yield "the bias of a Scale with two bottoms is not read"
    axis = (param.scale_param if param.type == "Scale" else param.bias_param).axis
    shape = bottoms[1] if len(bottoms) == 2 else None
    if row.value != "any" and axis != 0:
        yield f"a {param.type} whose second bottom begins at axis {axis}: only 0 is read"
    elif shape is not None and not takes_operand(target, axis, len(shape)):
        wanted = "only one of N and C is read" if shape else "one number without an axis is refused"
        yield f"a {param.type} whose second bottom is {shape}: {wanted}"


def takes_operand(target: Target, begin: int, axes: int) -> bool:
    """Whether a second bottom of a Scale or Bias may have so many axes, and stand from `begin`."""
    row = target.rule("operand")
    if row is None:
        return True
    if not axes:
        return False
    return row.value == "any" or (begin == 0 and (row.value == "axis 0" or axes == 2))
