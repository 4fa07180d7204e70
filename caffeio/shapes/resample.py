"""Layers that change the resolution without a window: resize, upsample, reorganise."""

from __future__ import annotations

from caffeio.shapes.base import UNKNOWN, LayerShapes, Query, agree, rule


@rule("Interp")
def interp(q: Query) -> LayerShapes:
    """DeepLab's bilinear resize with aligned corners; the second bottom may give the size."""
    p, shape = q.param.interp_param, q.shape()
    if len(q.bottoms) > 1:
        return LayerShapes(((*shape[:2], *q.shape(1)[2:]),))
    sizes = []
    for n, wanted in zip(shape[2:], (p.height, p.width), strict=False):
        if n < 0 and not (p.HasField("height") and p.HasField("width")):
            sizes.append(UNKNOWN)
            continue
        inside = n + p.pad_beg + p.pad_end
        if p.HasField("shrink_factor"):
            inside = (inside - 1) // p.shrink_factor + 1
        if p.HasField("zoom_factor"):
            inside += (inside - 1) * (p.zoom_factor - 1)
        elif p.HasField("height") and p.HasField("width") and not p.HasField("shrink_factor"):
            inside = wanted
        sizes.append(inside)
    return LayerShapes(((*shape[:2], *sizes),))


@rule("Upsample")
def upsample(q: Query) -> LayerShapes:
    """SegNet's unpooling by a mask (two bottoms), or nearest neighbours (one)."""
    p, shape = q.param.upsample_param, q.shape()
    scales = (
        p.scale_h if p.HasField("scale_h") else p.scale,
        p.scale_w if p.HasField("scale_w") else p.scale,
    )
    cut = (int(p.pad_out_h), int(p.pad_out_w))
    sizes = [
        UNKNOWN if n < 0 else int(n * scale) - less
        for n, scale, less in zip(shape[2:], scales, cut, strict=False)
    ]
    if p.HasField("upsample_h") and p.HasField("upsample_w"):
        sizes = [p.upsample_h, p.upsample_w]
    elif not all(scales):
        q.fail("give scale, scale_h and scale_w, or upsample_h and upsample_w", "upsample_param")
    if len(q.bottoms) > 1 and not all(map(agree, shape, q.bottoms[1] or shape)):
        q.fail(f"the mask {q.bottoms[1]} does not fit the bottom {shape}", "bottom")
    return LayerShapes(((*shape[:2], *sizes),))


@rule("Reorg")
def reorg(q: Query) -> LayerShapes:
    """Darknet's space to depth (or back with `reverse`)."""
    p, shape = q.param.reorg_param, q.shape()
    stride = p.stride
    if stride < 1:
        q.fail("must be 1 or more", "reorg_param.stride")
    n, c, h, w = shape
    if p.reverse:
        return LayerShapes(((n, _over(c, stride * stride), _by(h, stride), _by(w, stride)),))
    return LayerShapes(((n, _by(c, stride * stride), _over(h, stride), _over(w, stride)),))


def _by(dim: int, factor: int) -> int:
    return UNKNOWN if dim < 0 else dim * factor


def _over(dim: int, divisor: int) -> int:
    return UNKNOWN if dim < 0 else dim // divisor
