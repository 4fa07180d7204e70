"""Proposal: regions out of the scores and offsets of a region proposal network.

Sources: lib/rpn/proposal_layer.py, generate_anchors.py and fast_rcnn/config.py of
rbgirshick/py-faster-rcnn (the Python layer); proposal_layer.cpp of PVANET (the native type).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffeio.layers.base import LayerType, Shape, between, exactly, owns
from caffeio.layers.python.native import python_layer
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

RATIOS, SCALES = (0.5, 1.0, 2.0), (8.0, 16.0, 32.0)


def settings(owner: LayerType, defaults: dict[str, Any]) -> dict[str, Any]:
    """The keys of a Python layer's param_str (YAML or a Python dict) over the defaults."""
    given = owner.param.python_param.param_str.replace("!!python/tuple", "").strip()
    if not given.startswith("{"):
        given = "{" + ",".join(line for line in given.splitlines() if line.strip()) + "}"
    given = re.sub(r"([{,]\s*)([A-Za-z_]\w*)\s*:", r"\1'\2':", given)
    try:
        found = ast.literal_eval(given)
    except (SyntaxError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise owner.error(
            "is neither YAML nor a dictionary of numbers, texts and lists",
            field="python_param.param_str",
        )
    unknown = sorted(set(found) - set(defaults))
    owner.check(
        not unknown, f"unknown keys {', '.join(unknown)} (known: {', '.join(defaults)})",
        field="python_param.param_str",
    )  # fmt: skip
    return {**defaults, **found}


def base_anchors(base: int, ratios: Sequence[float], scales: Sequence[float]) -> Any:
    """Boxes (ratios x scales, 4) around the first cell, float32, of whole widths and heights.

    The ratio is height over width; both are rounded before they are scaled.
    """
    import numpy as np

    width = np.rint(np.sqrt(base * base / np.asarray(ratios, np.float64)))
    height = np.rint(width * np.asarray(ratios, np.float64))
    size = np.stack((width, height), 1)[:, None] * np.asarray(scales, np.float64)[:, None]
    half, middle = (size.reshape(-1, 2) - 1) / 2, (base - 1) / 2
    return np.concatenate((middle - half, middle + half), 1).astype(np.float32)


class ProposalBase(LayerType):
    """Bottoms: scores (N, 2A, H, W), offsets (N, 4A, H, W), image's height, width and scale."""

    bottoms = exactly(3)
    tops = between(1, 2)
    differentiable = False
    in_place = False
    dynamic = True
    anchors: Any  # (A, 4)
    stride: int
    before: int  # how many are looked at, at most
    after: int  # how many are kept of each image, at most
    threshold: float
    least: float  # width and height below which a box is small, before scaling

    def arguments(self) -> dict[str, Any]:
        """What `caffeio.ops.rcnn.proposal.propose` is told."""
        return {
            "stride": self.stride, "before": self.before, "after": self.after,
            "threshold": self.threshold, "least": float(self.least),
        }  # fmt: skip

    def check_maps(self, shapes: tuple[Shape, ...]) -> None:
        """Check the channels of scores and offsets."""
        count = len(self.anchors)
        for i, channels in ((0, 2 * count), (1, 4 * count)):
            self.check(
                len(shapes[i]) == 4 and shapes[i][1] == channels,
                f"{count} anchors need {channels} channels in bottom {i}, not "
                f"{caffe_shape(shapes[i])}",
            )


@layer("Proposal")
class Proposal(ProposalBase):
    """The best regions of each image, as PVANET's native layer makes them.

    Bottom 2 is one row of height, width, and their scales. Boxes that are smaller than min_size
    (scaled) count as of score 0. Tops: regions (R, 5) and their scores (R).
    """

    fields = owns(proposal_param=None)
    compute = "caffeio.ops.rcnn.proposal:proposal"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Read the parameters and make the anchors."""
        p = self.param.proposal_param
        self.check(
            bool(p.ratio and p.scale) and all(ratio > 0 for ratio in p.ratio),
            "give ratios and scales, all positive",
            field="proposal_param.ratio",
        )
        self.add_buffer("anchors", base_anchors(p.base_size, p.ratio, p.scale))
        self.stride, self.before, self.after = p.feat_stride, p.pre_nms_topn, p.post_nms_topn
        self.threshold, self.least = p.nms_thresh, p.min_size
        self.check_maps(shapes)

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give as many regions as there can be at most."""
        most = bottoms[0][0] * self.after
        return ((most, 5), (most,))[: self.n_tops]

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write NonMaxSuppression of the best boxes."""
        from caffeio.layers.onnx.regions import onnx_proposals

        return onnx_proposals(self, g, bottoms, float(self.least), drops=False)[: self.n_tops]


@python_layer("rpn.proposal_layer", "ProposalLayer")
class ProposalLayer(ProposalBase):
    """The best regions of one image, as py-faster-rcnn's Python layer makes them.

    Bottom 2 is (1, 3): height, width, scale. Boxes that are smaller than rpn_min_size (scaled) are
    left out. The package's settings are those of its config.py for the layer's phase; param_str
    gives feat_stride, scales, and any of the settings by their names in lower case. Tops: regions
    (R, 5), scores (R, 1).
    """

    compute = "caffeio.ops.rcnn.proposal:proposal_layer"

    def setup(self, *shapes: Shape) -> None:
        """Read param_str and make the anchors."""
        p = settings(self, {
            "feat_stride": 16, "scales": SCALES, "ratios": RATIOS, "rpn_nms_thresh": 0.7,
            "rpn_pre_nms_top_n": 12000 if self.train_phase else 6000,
            "rpn_post_nms_top_n": 2000 if self.train_phase else 300, "rpn_min_size": 16,
        })  # fmt: skip
        self.add_buffer("anchors", base_anchors(16, p["ratios"], p["scales"]))
        self.stride, self.threshold = p["feat_stride"], p["rpn_nms_thresh"]
        self.before, self.after = p["rpn_pre_nms_top_n"], p["rpn_post_nms_top_n"]
        self.least = p["rpn_min_size"]
        self.check_maps(shapes)
        self.check(shapes[0][0] == 1, f"takes one image, not {shapes[0][0]}")

    def arguments(self) -> dict[str, Any]:
        """What `caffeio.ops.rcnn.proposal.propose` is told."""
        return {**super().arguments(), "drops": True}

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give one region, as long as it is not known how many there are."""
        return ((1, 5), (1, 1, 1, 1))[: self.n_tops]

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write NonMaxSuppression of the best boxes."""
        from caffeio.layers.onnx.regions import onnx_proposals

        rows, scores = onnx_proposals(self, g, bottoms, float(self.least), drops=True)
        column = g.reshape(scores, -1, 1)
        g.varies(column, 0, (1, 1))
        return (rows, column)[: self.n_tops]
