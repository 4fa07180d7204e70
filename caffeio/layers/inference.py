"""Shapes of one layer without running it, where dimensions may be unknown. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from caffeio.errors import LayerError
from caffeio.layers.base import MAX_AXES, MAX_COUNT, LayerContext, LayerType, Shape
from caffeio.layers.dims import UnknownDim, UnknownDimError, with_unknown, without_unknown
from caffeio.layers.sources import Record, SourceLayer
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape


@dataclass(frozen=True, slots=True)
class LayerShapes:
    """What is known of a layer before it runs.

    `tops`: one shape per top, None where nothing is known; an unknown dimension is -1. `blobs`: the
    learnable blobs in Caffe's order. `macs`: multiply-accumulates of one forward pass over the
    whole batch, 0 if negligible, None if unknown. `dynamic`: the shapes of the tops are those of
    set-up and depend on the data later (detections, filters). `note`: of a data layer, where the
    shapes are from, or that they are a guess. `set_up`: False where the bottoms are not known well
    enough to set the layer up, so that its blobs are not known either. `statistics`: the indices of
    blobs that are never trained.
    """

    tops: tuple[Shape | None, ...] = ()
    blobs: tuple[Shape, ...] = ()
    macs: int | None = 0
    dynamic: bool = False
    known_type: bool = True
    note: str = ""
    set_up: bool = True
    statistics: tuple[int, ...] = ()


def infer_layer(
    cls: type[LayerType],
    param: pb.LayerParameter,
    bottoms: Sequence[Shape | None],
    profile: Profile = BVLC,
    *,
    top_count: int,
    phase: str = "TEST",
    where: str = "",
    search_path: Sequence[str] = (),
    record: Record | None = None,
) -> LayerShapes:
    """Ask layer type `cls` for the shapes of the layer's tops and blobs, and its MACs.

    `bottoms`: the bottoms' shapes in order, None for an unknown one, -1 for an unknown dimension.
    `record`: of a data layer, what its first record is. `param` stays as it is. Raises LayerError
    if the parameters do not fit the bottoms.
    """
    own = pb.LayerParameter()
    own.CopyFrom(param)
    names = list(own.top) or [f"({i})" for i in range(top_count)]
    if cls.is_loss:  # as a net does, for a loss that names none
        names += ["(automatic)"] * max(0, cls.tops.low - len(names))
    problem = cls.count_problem(own.type, len(bottoms), len(names))
    if problem is not None:
        raise LayerError(f"layer {own.name!r}: {problem}", where=where or None)
    context = LayerContext(
        phase, profile, where, tuple(own.bottom), tuple(names), search_path=tuple(search_path)
    )
    layer = cls(own, context)
    if len(bottoms) not in cls.bottoms and not cls.is_source:
        raise layer.error(f"takes {cls.bottoms} bottom blob(s), not {len(bottoms)}")
    unknown = LayerShapes((None,) * top_count, macs=None, dynamic=cls.dynamic, set_up=False)
    known = [with_unknown(shape) for shape in bottoms if shape is not None]
    if len(known) < len(bottoms):
        if cls.is_loss and top_count:  # the loss is one number, whatever comes in
            return replace(unknown, tops=((), *unknown.tops[1:]))
        return unknown
    if isinstance(layer, SourceLayer):
        layer.record = record
    try:
        layer.configure(*known)
        found = layer.told(*known)[:top_count]
        macs = layer.macs()
    except UnknownDimError:
        return unknown
    for shape in found:
        check_blob_shape(layer, shape or ())
    return LayerShapes(
        tuple(without_unknown(shape) if shape is not None else None for shape in found),
        tuple(without_unknown(spec.shape) for spec in layer.blob_specs),
        None if isinstance(macs, UnknownDim) else macs,
        cls.dynamic,
        note=layer.note if isinstance(layer, SourceLayer) else "",
        statistics=tuple(i for i, spec in enumerate(layer.blob_specs) if spec.statistic),
    )


def check_blob_shape(layer: LayerType, shape: Shape) -> None:
    """Refuse what Blob::Reshape refuses: negative sizes, and counts that no int holds."""
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise layer.error(f"a top would have the shape {caffe_shape(shape)}")
    known = [n for n in shape if isinstance(n, int)]
    if len(shape) > MAX_AXES or math.prod(known) > MAX_COUNT:
        raise layer.error(f"a top of shape {caffe_shape(shape)} is larger than a blob may be")
