"""Layers that pick items of a batch, and the blob that is a parameter.

Sources: src/caffe/layers/batch_reindex_layer.cpp, filter_layer.cpp, parameter_layer.hpp (BVLC),
box_annotator_ohem_layer.cpp (Intel, R-FCN).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.layers.base import Layer, Shape, at_least, exactly, layer
from caffeio.layers.labels import text
from caffeio.layers.onnx.graph import OnnxGraph


@layer("BatchReindex")
class BatchReindex(Layer):
    """top[i] = bottom0[bottom1[i]] along axis 0; the gradients of repeated items are added.

    An index outside the batch is a DataError on the CPU; elsewhere its item becomes nan.
    """

    bottoms = exactly(2)
    in_place = False
    label_bottoms = frozenset({1})

    def setup(self, *shapes: Shape) -> None:
        """Check the number of axes."""
        self.check(bool(shapes[0]), "bottom 0 is a scalar: there are no items to pick")
        self.check(
            len(shapes[1]) == 1, f"bottom 1 must be a list of indices, not {text(shapes[1])}"
        )

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the picked items."""
        x = bottoms[0]
        wanted = bottoms[1].detach().long()
        index = wanted.clamp(0, max(x.shape[0] - 1, 0))
        outside = index != wanted
        if x.shape[0] == 0 and wanted.shape[0]:
            raise self.error("bottom 0 has no items to pick from")
        if wanted.device.type == "cpu" and not torch.compiler.is_compiling():
            if bool(outside.any()):
                place = int(outside.nonzero()[0])
                raise DataError(
                    f"layer {self.name!r} (type {self.kind}): index {int(wanted[place])} at item "
                    f"{place} is outside 0..{x.shape[0] - 1}",
                    where=self.context.where or None,
                )
            return x.index_select(0, index)
        picked = x.index_select(0, index)
        return picked.masked_fill(outside.view(-1, *[1] * (x.dim() - 1)), torch.nan)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Gather."""
        return str(g.op("Gather", [bottoms[0], g.to_int(bottoms[1])], axis=0))


@layer("Filter")
class Filter(Layer):
    """Keeps the items of its bottoms whose selector, the last bottom, is not 0.

    How many are kept depends on the data (the host waits for a CUDA device); shapes found on the
    meta device are those of a batch that is kept whole, as in Caffe's set-up. Items that are not
    kept get gradient 0, the selector gets none.
    """

    bottoms = at_least(2)
    tops = at_least(1)
    in_place = False

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
            f"the selector must hold one number for each item, not {text(selector)}",
        )
        for i, shape in enumerate(items):
            self.check(
                shape[:1] == selector[:1],
                f"bottom {i} ({text(shape)}) and the selector ({text(selector)}) must have the "
                "same first dimension",
            )

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the kept items of each bottom but the last."""
        *items, selector = bottoms
        if selector.is_meta:
            return tuple(torch.empty_like(x) for x in items)
        index = selector.detach().flatten().nonzero().flatten()
        return tuple(x.index_select(0, index) for x in items)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Compress; how many items are kept is known when it runs."""
        *items, selector = bottoms
        chosen = g.reshape(g.op("Cast", [selector], to=9), -1)  # 9: bool
        tops = tuple(str(g.op("Compress", [x, chosen], axis=0)) for x in items)
        for top in tops:
            g.varies(top, 0)
        return tops


@layer("Parameter")
class Parameter(Layer):
    """A learnable blob of parameter_param.shape as a top; it starts as zeros."""

    bottoms = exactly(0)

    def setup(self, *shapes: Shape) -> None:
        """Declare the blob."""
        dims = tuple(self.param.parameter_param.shape.dim)
        self.check(
            all(dim >= 0 for dim in dims),
            f"dimensions must not be negative: {text(dims)}",
            field="parameter_param.shape",
        )
        self.add_blob("value", dims)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the blob."""
        blob: Tensor = self.blobs[0]
        return blob.view(blob.shape)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """The blob itself."""
        return g.param(self, 0)


@layer("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(Layer):
    """Online hard example mining of R-FCN: keeps the rois with the greatest loss of each image.

    Bottoms: rois (R,5,H,W; the first channel is the image), loss, labels (R,1,H,W), weights of the
    box loss (R,C,H,W). Tops: labels, ignore_label where a roi is not kept, and the weights, 0
    there. roi_per_img rois are kept for each image; among equal losses the first ones.
    """

    bottoms = exactly(4)
    tops = exactly(2)
    differentiable = False
    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check the shapes and roi_per_img."""
        param = self.param.box_annotator_ohem_param
        self.keep: int = param.roi_per_img
        self.ignore: int = param.ignore_label
        self.check(
            self.keep > 0, "must be set, and positive", field="box_annotator_ohem_param.roi_per_img"
        )
        rois, loss, labels, weights = (self._legacy(shape) for shape in shapes)
        places = (rois[0], *rois[2:])
        fit = rois[1] == 5 and loss == labels == (rois[0], 1, *rois[2:])
        self.check(
            fit and (weights[0], *weights[2:]) == places,
            "bottoms must be rois (R, 5), losses (R, 1), labels (R, 1) and weights (R, C), not "
            + ", ".join(text(shape) for shape in shapes),
        )

    @staticmethod
    def _legacy(shape: Shape) -> Shape:
        """Num, channels, height, width: axes that are missing count 1."""
        return (*shape, 1, 1, 1, 1)[:4]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels and weights of the hard rois."""
        rois, loss, labels, weights = (x.detach().reshape(self._legacy(x.shape)) for x in bottoms)
        image = rois[:, 0].flatten().long()
        order = loss.flatten().argsort(descending=True, stable=True)
        order = order[image[order].argsort(stable=True)]  # by image, the greatest loss first
        grouped = image[order]
        place = torch.arange(len(order), device=order.device)
        rank = place - torch.searchsorted(grouped, grouped)
        kept = torch.empty_like(image, dtype=torch.bool)
        kept[order] = rank < self.keep
        mask = kept.view(labels.shape)
        return labels.masked_fill(~mask, float(self.ignore)), weights.masked_fill(~mask, 0.0)
