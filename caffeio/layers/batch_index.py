"""Layers that pick items of a batch, and the blob that is a parameter.

Sources: src/caffe/layers/batch_reindex_layer.cpp, filter_layer.cpp, parameter_layer.hpp (BVLC),
box_annotator_ohem_layer.cpp (Intel, R-FCN).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, at_least, exactly, owns
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("BatchReindex")
class BatchReindex(LayerType):
    """top[i] = bottom0[bottom1[i]] along axis 0; the gradients of repeated items are added.

    An index outside the batch is a DataError on the CPU; elsewhere its item becomes nan.
    """

    bottoms = exactly(2)
    in_place = False
    label_bottoms = frozenset({1})
    compute = "caffeio.ops.batch_index:batch_reindex"

    def setup(self, *shapes: Shape) -> None:
        """Check the number of axes."""
        self.check(bool(shapes[0]), "bottom 0 is a scalar: there are no items to pick")
        self.check(
            len(shapes[1]) == 1, f"bottom 1 must be a list of indices, not {caffe_shape(shapes[1])}"
        )

        self.check(shapes[0][0] > 0 or shapes[1][0] == 0, "bottom 0 has no items to pick from")

    def shapes(self, x: Shape, index: Shape) -> tuple[Shape, ...]:
        """Give one item for each index."""
        return ((*index, *x[1:]),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Gather."""
        return str(g.op("Gather", [bottoms[0], g.to_int(bottoms[1])], axis=0))


@layer("Filter")
class Filter(LayerType):
    """Keeps the items of its bottoms whose selector, the last bottom, is not 0.

    How many are kept depends on the data (the host waits for a CUDA device); shapes found on the
    meta device are those of a batch that is kept whole, as in Caffe's set-up. Items that are not
    kept get gradient 0, the selector gets none.
    """

    bottoms = at_least(2)
    tops = at_least(1)
    in_place = False
    dynamic = True
    compute = "caffeio.ops.batch_index:keep_items"

    def dies_backward(self, needs: Sequence[bool]) -> str:
        """Say that the selector gets no gradient, if one is asked for."""
        if not needs[-1]:
            return ""
        return f"Filter cannot backpropagate to its selector, bottom {len(needs) - 1}"

    def setup(self, *shapes: Shape) -> None:
        """Check the counts of blobs and items."""
        *items, selector = shapes
        tops = max(1, len(self.context.top_names))
        self.check(
            tops == len(items),
            f"{len(shapes)} bottoms (the last one selects) need {len(items)} tops, not {tops}",
        )
        self.check(
            bool(selector) and prod(selector[1:]) == 1,
            f"the selector must hold one number for each item, not {caffe_shape(selector)}",
        )
        for i, shape in enumerate(items):
            self.check(
                shape[:1] == selector[:1],
                f"bottom {i} ({caffe_shape(shape)}) and the selector ({caffe_shape(selector)}) "
                "must have the same first dimension",
            )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Keep all items, as long as it is not known which."""
        return bottoms[:-1]

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write Compress; how many items are kept is known when it runs."""
        *items, selector = bottoms
        chosen = g.reshape(g.op("Cast", [selector], to=9), -1)  # 9: bool
        tops = tuple(str(g.op("Compress", [x, chosen], axis=0)) for x in items)
        for top in tops:
            g.varies(top, 0)
        return tops


@layer("Parameter")
class Parameter(LayerType):
    """A learnable blob of parameter_param.shape as a top; it starts as zeros."""

    has_blobs = True
    family = "data"
    bottoms = exactly(0)
    fields = owns(parameter_param=("shape",))
    compute = "caffeio.ops.batch_index:parameter"

    def setup(self, *shapes: Shape) -> None:
        """Declare the blob."""
        dims = tuple(self.param.parameter_param.shape.dim)
        self.check(
            all(dim >= 0 for dim in dims),
            f"dimensions must not be negative: {caffe_shape(dims)}",
            field="parameter_param.shape",
        )
        self.add_blob("value", dims)

    def shapes(self) -> tuple[Shape, ...]:
        """Give the shape of the blob."""
        return (self.blob_specs[0].shape,)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Give the blob itself."""
        return g.param(self, 0)


@layer("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(LayerType):
    """Online hard example mining of R-FCN: keeps the rois with the greatest loss of each image.

    Bottoms: rois (R,5,H,W; the first channel is the image), loss, labels (R,1,H,W), weights of the
    box loss (R,C,H,W). Tops: labels, ignore_label where a roi is not kept, and the weights, 0
    there. roi_per_img rois are kept for each image; among equal losses the first ones.
    """

    bottoms = exactly(4)
    tops = exactly(2)
    differentiable = False
    in_place = False
    fields = owns(box_annotator_ohem_param=("roi_per_img", "ignore_label"))
    compute = "caffeio.ops.batch_index:box_annotator_ohem"

    def setup(self, *shapes: Shape) -> None:
        """Check the shapes and roi_per_img."""
        param = self.param.box_annotator_ohem_param
        self.keep: int = param.roi_per_img
        self.ignore: int = param.ignore_label
        self.check(
            self.keep > 0, "must be set, and positive", field="box_annotator_ohem_param.roi_per_img"
        )
        self.check(all(len(shape) <= 4 for shape in shapes), "bottoms have at most 4 axes")
        rois, loss, labels, weights = (self.legacy(shape) for shape in shapes)
        places = (rois[0], *rois[2:])
        fit = rois[1] == 5 and loss == labels == (rois[0], 1, *rois[2:])
        self.check(
            fit and (weights[0], *weights[2:]) == places,
            "bottoms must be rois (R, 5), losses (R, 1), labels (R, 1) and weights (R, C), not "
            + ", ".join(caffe_shape(shape) for shape in shapes),
        )

    @staticmethod
    def legacy(shape: Shape) -> Shape:
        """Num, channels, height, width: axes that are missing count 1."""
        return (*shape, 1, 1, 1, 1)[:4]

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give labels like the labels and weights like the weights."""
        return self.legacy(bottoms[2]), self.legacy(bottoms[3])
