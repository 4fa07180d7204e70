"""AnchorTargetLayer and ProposalTargetLayer: what a Faster R-CNN is trained with.

Sources: lib/rpn/anchor_target_layer.py, proposal_target_layer.py and fast_rcnn/config.py of
rbgirshick/py-faster-rcnn; the class-agnostic form of YuwenXiong/py-R-FCN.
"""

from __future__ import annotations

from typing import Any, ClassVar

from caffeio.layers.base import LayerType, Shape, exactly
from caffeio.layers.python.native import python_layer
from caffeio.layers.rcnn.proposal import (
    RATIOS,
    SCALES,
    base_anchors,
    settings,
)


class TargetLayer(LayerType):
    """A layer whose settings come from config.py, and from param_str in lower case."""

    differentiable = False
    in_place = False
    dynamic = True
    defaults: ClassVar[dict[str, Any]] = {}

    def setup(self, *shapes: Shape) -> None:
        """Read param_str."""
        self.cfg = settings(self, dict(self.defaults))


@python_layer("rpn.anchor_target_layer", "AnchorTargetLayer")
class AnchorTargetLayer(TargetLayer):
    """Labels and offsets of the anchors of one image.

    Bottoms: scores (1, 2A, H, W), of which only the size counts, truths (G, 5) of x1, y1, x2, y2,
    label, image's height, width and scale (1, 3), image. Tops: labels (1, 1, A x H, W; 1 object, 0
    background, -1 neither), offsets and their two weights (1, 4A, H, W). An anchor inside the image
    is an object if it overlaps a truth most of all anchors or by rpn_positive_overlap; it is
    background below rpn_negative_overlap; of both a random half batch stays.
    """

    bottoms = exactly(4)
    tops = exactly(4)
    anchors: Any  # (A, 4)
    defaults: ClassVar[dict[str, Any]] = {
        "feat_stride": 16, "scales": SCALES, "ratios": RATIOS, "allowed_border": 0,
        "rpn_positive_overlap": 0.7, "rpn_negative_overlap": 0.3, "rpn_clobber_positives": False,
        "rpn_fg_fraction": 0.5, "rpn_batchsize": 256, "rpn_positive_weight": -1.0,
        "rpn_bbox_inside_weights": (1.0, 1.0, 1.0, 1.0),
    }  # fmt: skip
    compute = "caffeio.ops.rcnn.target:anchor_target_layer"

    def setup(self, *shapes: Shape) -> None:
        """Read param_str and make the anchors."""
        super().setup(*shapes)
        anchors = base_anchors(16, self.cfg["ratios"], self.cfg["scales"])
        self.add_buffer("anchors", anchors)
        self.check(
            len(shapes[0]) == 4 and shapes[0][0] == 1, f"takes one image, not {shapes[0][:1]}"
        )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give labels (1, 1, A x H, W), and offsets and two weights (1, 4A, H, W)."""
        count, (height, width) = len(self.anchors), bottoms[0][2:]
        return (1, 1, count * height, width), *[(1, 4 * count, height, width)] * 3


@python_layer("rpn.proposal_target_layer", "ProposalTargetLayer")
class ProposalTargetLayer(TargetLayer):
    """A sample of an image's regions with their labels and offsets.

    Bottoms: regions (R, 5), truths (G, 5). Tops, all with two more axes of 1 as in R-FCN:
    batch_size regions (S, 5), a fg_fraction of which overlaps a truth by fg_thresh; their labels
    (S, 1), 0 for the rest; offsets and two weights (S, 4 x num_classes), only those of the label's
    class set. num_classes 2 means one class for all objects, as in class-agnostic R-FCN.
    batch_size -1 keeps all objects and all background.
    """

    bottoms = exactly(2)
    tops = exactly(5)
    defaults: ClassVar[dict[str, Any]] = {
        "num_classes": 0, "batch_size": 128, "fg_fraction": 0.25, "fg_thresh": 0.5,
        "bg_thresh_hi": 0.5, "bg_thresh_lo": 0.1, "bbox_inside_weights": (1.0, 1.0, 1.0, 1.0),
        "bbox_normalize_targets_precomputed": False,
        "bbox_normalize_means": (0.0, 0.0, 0.0, 0.0), "bbox_normalize_stds": (0.1, 0.1, 0.2, 0.2),
    }  # fmt: skip
    compute = "caffeio.ops.rcnn.target:proposal_target_layer"

    def setup(self, *shapes: Shape) -> None:
        """Read param_str."""
        super().setup(*shapes)
        self.classes: int = self.cfg["num_classes"]
        self.check(self.classes > 0, "must give num_classes", field="python_param.param_str")
        self.check(
            all(len(shape) > 1 for shape in shapes), "takes regions (R, 5) and truths (G, 5)"
        )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give one region, as long as it is not known how many there are."""
        width = 4 * self.classes
        return tuple((1, n, 1, 1) for n in (5, 1, width, width, width))
