"""MultiBoxLoss: SSD's loss of locations and classes.

Source: src/caffe/layers/multibox_loss_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.labels import normalization
from caffeio.layers.registry import layer
from caffeio.layers.ssd.boxes import check_predictions, code_type
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape

KNOWN = (
    "loc_loss_type", "conf_loss_type", "loc_weight", "num_classes", "share_location", "match_type",
    "overlap_threshold", "use_prior_for_matching", "background_label_id", "use_difficult_gt",
    "do_neg_mining", "neg_pos_ratio", "neg_overlap", "code_type", "encode_variance_in_target",
    "map_object_to_agnostic", "ignore_cross_boundary_bbox", "bp_inside", "mining_type",
    "nms_param", "sample_size", "use_prior_for_nms",
)  # fmt: skip


@layer("MultiBoxLoss")
class MultiBoxLoss(LayerType):
    """(loc_weight * loss of the matched boxes + loss of classes) / number of matched boxes.

    Bottoms: locations (N, P x 4 x location classes), scores before softmax (N, P x num_classes),
    priors (1, 2, P x 4), ground truth (1, 1, boxes, 8). Boxes: smooth L1 of the encoded
    differences (or half their square, L2). Classes: softmax (or logistic) over the matched priors
    and the mined negatives, or over all priors without mining. The divisor follows loss_param's
    normalization. A part of the loss whose bottom has propagate_down: false is left out.
    """

    bottoms = exactly(4)
    is_loss = True
    reads_loss_param = True
    in_place = False
    label_bottoms = frozenset({2, 3})
    fields = owns(multibox_loss_param=KNOWN)
    compute = "caffeio.ops.ssd.multibox_loss:multi_box_loss"

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters and that the bottoms have equally many priors."""
        p, field = self.param.multibox_loss_param, "multibox_loss_param"
        kind = pb.MultiBoxLossParameter
        self.classes: int = p.num_classes
        self.check(self.classes > 0, "must be set", field=f"{field}.num_classes")
        self.mining = kind.MiningType.Name(p.mining_type)
        self.location_classes = 1 if p.share_location else self.classes
        self.softmax = p.conf_loss_type == kind.SOFTMAX
        self.squared = p.loc_loss_type == kind.L2
        self.code = code_type(p.code_type)
        self.background: int = p.background_label_id
        self.mode = normalization(self, "VALID")
        self.check(
            self.mode in ("FULL", "VALID", "BATCH_SIZE", "NONE"), f"{self.mode} is not supported",
            field="loss_param.normalization",
        )  # fmt: skip
        mines = self.mining != "NONE"
        for name, ok, message in (
            ("mining_type", not mines or p.share_location, "mining needs share_location"),
            ("do_neg_mining", not p.HasField("do_neg_mining") or p.do_neg_mining == mines,
             f"contradicts mining_type {self.mining}"),
            ("background_label_id", not self.softmax or self.background < self.classes,
             "is no class"),
            ("map_object_to_agnostic", not p.map_object_to_agnostic or self.classes == 2,
             "needs num_classes 2"),
        ):  # fmt: skip
            self.check(ok, message, field=f"{field}.{name}")
        check_predictions(self, shapes, self.location_classes, self.classes)
        self.check(
            shapes[3][-1:] == (8,), f"ground truth has rows of 8, not {caffe_shape(shapes[3])}"
        )
        self.parts = tuple(self.param.propagate_down[:2]) or (True, True)
