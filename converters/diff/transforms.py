"""What a data layer shows to the net, step by step, in words."""

from __future__ import annotations

from caffeio.converters.report.model import short_float
from caffeio.proto.caffe_pb2 import LayerParameter, ResizeParameter, TransformationParameter

_INTERPOLATION = {"LINEAR": "bilinear", "CUBIC": "bicubic", "NEAREST": "nearest", "AREA": "area"}


def describe(param: LayerParameter, phase: str) -> dict[str, str]:
    """Step -> words, in the order in which the steps happen; only steps that are taken."""
    t = param.transform_param
    steps = {"source": _source(param)}
    if t.force_color or t.force_gray:
        steps["colour"] = "always colour" if t.force_color else "always gray"
    steps.update(_window(t))
    steps.update(_crop(t, phase))
    if t.mirror:
        steps["mirror"] = "every second image, left to right"
    noise = [f.name for f, _ in t.ListFields() if f.name in _OTHERS]
    if noise:
        steps["distortion"] = ", ".join(name.removesuffix("_param") for name in noise)
    steps.update(_values(t))
    return {name: text for name, text in steps.items() if text}


_OTHERS = frozenset(
    {"distort_param", "expand_param", "noise_param", "emit_constraint", "flow", "bgr2rgb", "pad"}
)


def _source(param: LayerParameter) -> str:
    for name in ("data_param", "image_data_param", "hdf5_data_param", "window_data_param"):
        if param.HasField(name):
            p = getattr(param, name)
            words = [f"{p.source}, {p.batch_size} a batch"]
            if getattr(p, "shuffle", False):
                words.append("shuffled")
            return ", ".join(words)
    return param.type


def _window(t: TransformationParameter) -> dict[str, str]:
    """Resizing, and the random windows of Intel's Caffe."""
    out = {}
    if t.HasField("random_resize_param"):
        p = t.random_resize_param
        low, high = p.min_size, p.max_size
        size = str(low) if low == high else f"{low or 'its own'} to {high or 'its own'}"
        out["resize"] = f"shorter side to {size} ({_interpolation(p.resize_param)})"
    elif t.HasField("random_aspect_ratio_param"):
        r = t.random_aspect_ratio_param
        change = r.aspect_ratio_change
        narrow, wide = change**2, 1 / change**2 if change else 0
        size = f"{t.crop_size} x {t.crop_size}" if t.crop_size else "its own size"
        out["window"] = (
            f"random, {short_float(100 * r.min_area_ratio)} to "
            f"{short_float(100 * r.max_area_ratio)} % of the area, height:width {narrow:.3g} to "
            f"{wide:.3g}, resized to {size} ({_interpolation(r.resize_param)})"
        )
    for resize in t.resize_param:
        if resize.height and resize.width:
            out["resize"] = f"to {resize.height} x {resize.width} ({_interpolation(resize)})"
    if t.img_rand_resize_lower or t.img_rand_resize_upper:
        out["resize"] = (
            f"shorter side to {t.img_rand_resize_lower} to {t.img_rand_resize_upper}, at random"
        )
    return out


def _interpolation(p: ResizeParameter) -> str:
    names = [ResizeParameter.Interp_mode.Name(mode) for mode in p.interp_mode] or ["LINEAR"]
    return " or ".join(_INTERPOLATION.get(name, name.lower()) for name in names)


def _crop(t: TransformationParameter, phase: str) -> dict[str, str]:
    if not t.crop_size:
        return {}
    place = "random" if phase == "TRAIN" else "centre"
    words = f"{place} {t.crop_size} x {t.crop_size}"
    if t.HasField("random_aspect_ratio_param") and not t.HasField("random_resize_param"):
        return {"crop": f"{words}, only if no window was found"}
    if t.HasField("random_resize_param"):
        p = t.random_resize_param
        if p.min_size and p.min_size == p.max_size:
            seen = (t.crop_size / p.min_size) ** 2
            words += f", {100 * seen:.3g} % of a square image"
    else:
        words += " of the image as stored"
    return {"crop": words}


def _values(t: TransformationParameter) -> dict[str, str]:
    """Mean, scale, and the range that 0 to 255 becomes."""
    out = {}
    if t.mean_file:
        out["mean"] = f"image {t.mean_file}"
    elif t.mean_value:
        out["mean"] = ", ".join(short_float(v) for v in t.mean_value)
    if t.scale != 1:
        inverse = 1 / t.scale if t.scale else 0
        whole = abs(inverse - round(inverse)) < 1e-3 * abs(inverse) and inverse
        out["scale"] = f"1/{round(inverse)}" if whole else short_float(t.scale)
    if not t.mean_file:
        means = list(t.mean_value) or [0.0]
        low, high = -max(means) * t.scale, (255 - min(means)) * t.scale
        out["values"] = f"{low:.4g} to {high:.4g}"
    return out
