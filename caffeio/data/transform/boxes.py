"""Boxes of SSD: sampling, constraints, and what cropping, resizing and mirroring make of them.

Sources: src/caffe/util/{bbox_util,sampler,im_transforms}.cpp of SSD and the sara fork; Liu et al.,
"SSD: Single Shot MultiBox Detector", 2016. A box is (xmin, ymin, xmax, ymax) in units of the
image's width and height; boxes are float32 arrays (n, 4), arithmetic is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from caffeio.data.transform.augment import uniform
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Boxes = NDArray[np.float32]
Word = Callable[[], int]
_F = np.float32


def area(boxes: Boxes) -> NDArray[np.float32]:
    """Width times height; 0 where a corner is on the wrong side."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.where((width < 0) | (height < 0), _F(0), width * height)


def intersection(a: Boxes, b: Boxes) -> Boxes:
    """The common part of boxes; all 0 where there is none."""
    out = np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])],
                         -1)  # fmt: skip
    apart = (out[..., 0] > out[..., 2]) | (out[..., 1] > out[..., 3])
    return np.where(apart[..., None], _F(0), out)


def jaccard(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Intersection over union."""
    common = area(intersection(a, b))
    total = area(a) + area(b) - common
    return np.where(common > 0, common / np.where(total > 0, total, _F(1)), _F(0))


def coverage(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """How much of `a` lies in `b`."""
    common, own = area(intersection(a, b)), area(a)
    return np.where(common > 0, common / np.where(own > 0, own, _F(1)), _F(0))


def clip(boxes: Boxes) -> Boxes:
    """Cut the boxes to [0, 1]."""
    return np.clip(boxes, _F(0), _F(1))


def project(source: Boxes, boxes: Boxes) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes in the coordinates of the box `source`, clipped; and which of them have any area."""
    out_of = (
        (boxes[:, 0] >= source[2]) | (boxes[:, 2] <= source[0])
        | (boxes[:, 1] >= source[3]) | (boxes[:, 3] <= source[1])
    )  # fmt: skip
    size = source[2:] - source[:2]
    out = clip((boxes - source[[0, 1, 0, 1]]) / size[[0, 1, 0, 1]])
    return out, ~out_of & (area(out) > 0)


# -- sampling --------------------------------------------------------------------------------


def sample_box(sampler: pb.Sampler, next_word: Word) -> Boxes:
    """One random box in the unit square: four draws (scale, aspect, x, y)."""
    scale = uniform(next_word, sampler.min_scale, sampler.max_scale)
    aspect = uniform(next_word, sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    square = float(scale) ** 2
    aspect = max(aspect, _F(square))
    aspect = min(aspect, _F(1 / square))
    root = math.sqrt(aspect)  # in double: in float32 a side can come out above 1
    width, height = _F(float(scale) * root), _F(float(scale) / root)
    x = uniform(next_word, 0, float(_F(1) - width))
    y = uniform(next_word, 0, float(_F(1) - height))
    return np.array([x, y, x + width, y + height], _F)


def satisfies(box: Boxes, objects: Boxes, constraint: pb.SampleConstraint) -> bool:
    """Whether `box` meets the constraint with some object.

    Of jaccard_overlap, sample_coverage and object_coverage real Caffe in effect obeys only the
    first that is set: once an object has passed it, failing the others does not undo that.
    """
    measures = (
        ("jaccard_overlap", jaccard(box, objects)),
        ("sample_coverage", coverage(box, objects)),
        ("object_coverage", coverage(objects, box)),
    )
    for name, values in measures:
        low, high = f"min_{name}", f"max_{name}"
        has_low, has_high = constraint.HasField(low), constraint.HasField(high)
        if has_low or has_high:
            ok = np.ones(len(objects), bool)
            if has_low:
                ok &= values >= _F(getattr(constraint, low))
            if has_high:
                ok &= values <= _F(getattr(constraint, high))
            return bool(ok.any())
    return True


def check_sampler(sampler: pb.Sampler) -> None:
    """Raise DataError for bounds that Caffe refuses."""
    ok = 0 < sampler.min_scale <= sampler.max_scale <= 1
    if not ok or not 0 < sampler.min_aspect_ratio <= sampler.max_aspect_ratio:
        raise DataError(
            "needs 0 < min_scale <= max_scale <= 1 and 0 < min_aspect_ratio <= max_aspect_ratio"
        )


def batch_samples(objects: Boxes, samplers: list[pb.BatchSampler], next_word: Word) -> list[Boxes]:
    """The sampled boxes of all samplers that use the original image."""
    found: list[Boxes] = []
    for sampler in samplers:
        if not sampler.use_original_image:
            continue
        count = 0
        for _ in range(sampler.max_trials):
            if sampler.HasField("max_sample") and count >= sampler.max_sample:
                break
            box = sample_box(sampler.sampler, next_word)
            if satisfies(box, objects, sampler.sample_constraint):
                count += 1
                found.append(box)
    return found


# -- what transforms make of boxes -----------------------------------------------------------


def resize_boxes(boxes: Boxes, resize: pb.ResizeParameter, width: int, height: int) -> Boxes:
    """Boxes of an image of this size after `resize` (UpdateBBoxByResizePolicy)."""
    new_w, new_h = _F(resize.width), _F(resize.height)
    w, h = _F(width), _F(height)
    aspect = w / h
    x, y = boxes[:, 0::2] * w, boxes[:, 1::2] * h
    zero = _F(0)
    mode = resize.resize_mode
    if mode == pb.ResizeParameter.FIT_SMALL_SIZE:
        if aspect < new_w / new_h:
            new_h = new_w / aspect
        else:
            new_w = aspect * new_h
    pad_x = pad_y = zero
    if mode == pb.ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        if aspect > new_w / new_h:
            pad_y = (new_h - new_w / aspect) / _F(2)
        else:
            pad_x = (new_w - aspect * new_h) / _F(2)
    x = _stretch(x, w, new_w, pad_x)
    y = _stretch(y, h, new_h, pad_y)
    out = np.empty_like(boxes)
    out[:, 0::2], out[:, 1::2] = x / new_w, y / new_h
    return out


def _stretch(edges: Boxes, old: np.float32, new: np.float32, pad: np.float32) -> Boxes:
    """Lower and upper edges (n, 2) along one axis."""
    scaled = edges * (new - _F(2) * pad) / old if pad else edges * new / old
    out = np.empty_like(edges)
    out[:, 0] = pad + np.maximum(_F(0), scaled[:, 0])
    out[:, 1] = pad + np.minimum(new, scaled[:, 1])
    return out


def emitted(source: Boxes, boxes: Boxes, constraint: pb.EmitConstraint) -> NDArray[np.bool_]:
    """Which boxes are kept by emit_constraint (MeetEmitConstraint)."""
    if constraint.emit_type == pb.EmitConstraint.CENTER:
        x = (boxes[:, 0] + boxes[:, 2]) / _F(2)
        y = (boxes[:, 1] + boxes[:, 3]) / _F(2)
        inside = (x >= source[0]) & (x <= source[2]) & (y >= source[1]) & (y <= source[3])
        return np.asarray(inside)
    if constraint.emit_type == pb.EmitConstraint.MIN_OVERLAP:
        return coverage(boxes, source) > _F(constraint.emit_overlap)
    raise DataError(f"emit_type {constraint.emit_type} is not implemented")


def extrapolate(
    boxes: Boxes, resize: pb.ResizeParameter, width: int, height: int, crop: Boxes
) -> Boxes:
    """Boxes in units of height_scale and width_scale (ExtrapolateBBox); only FIT_SMALL_SIZE."""
    scales = resize.height_scale > 0 and resize.width_scale > 0
    if not scales or resize.resize_mode != pb.ResizeParameter.FIT_SMALL_SIZE:
        return boxes
    aspect = _F(width) / _F(height)
    new_h, new_w = _F(resize.height), _F(resize.width)
    if aspect < new_w / new_h:
        new_h = new_w / aspect
    else:
        new_w = new_h * aspect
    crop_h, crop_w = new_h * (crop[3] - crop[1]), new_w * (crop[2] - crop[0])
    if crop_w < resize.width_scale or crop_h < resize.height_scale:
        raise DataError("resize_param.height_scale or width_scale is larger than the crop")
    factor = np.array([crop_w / _F(resize.width_scale), crop_h / _F(resize.height_scale)], _F)
    return boxes * factor[[0, 1, 0, 1]]
