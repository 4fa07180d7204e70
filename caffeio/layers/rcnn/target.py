"""AnchorTargetLayer and ProposalTargetLayer: what a Faster R-CNN is trained with.

Sources: lib/rpn/anchor_target_layer.py, proposal_target_layer.py and fast_rcnn/config.py of
rbgirshick/py-faster-rcnn; the class-agnostic form of YuwenXiong/py-R-FCN.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, exactly
from caffeio.layers.python.layer import python_layer
from caffeio.layers.rcnn.proposal import (
    RATIOS,
    SCALES,
    base_anchors,
    rows,
    settings,
    shifted_anchors,
)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (n, m) of pixel boxes (n, 4) and (m, 4)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:4], b[None, :, 2:4])
    both = (high - low + 1).clamp(min=0).prod(-1)
    areas = ((x[:, 2:4] - x[:, :2] + 1).prod(-1) for x in (a, b))
    first, second = areas
    return both / (first[:, None] + second[None] - both)


def offsets(boxes: Tensor, truth: Tensor) -> Tensor:
    """(dx, dy, log width, log height) from boxes (n, 4) to truth (n, 4) (bbox_transform)."""
    size, wanted = (x[:, 2:4] - x[:, :2] + 1 for x in (boxes, truth))
    shift = truth[:, :2] + 0.5 * wanted - boxes[:, :2] - 0.5 * size
    return torch.cat((shift / size, (wanted / size).log()), 1)


def draw(places: Tensor, count: int) -> Tensor:
    """`count` of the places at random, or all if there are fewer."""
    if len(places) <= count:
        return places
    return places[torch.randperm(len(places), device=places.device)[:count]]


class TargetLayer(Layer):
    """A layer whose settings come from config.py, and from param_str in lower case."""

    differentiable = False
    in_place = False
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
    anchors: Tensor  # (A, 4)
    defaults: ClassVar[dict[str, Any]] = {
        "feat_stride": 16, "scales": SCALES, "ratios": RATIOS, "allowed_border": 0,
        "rpn_positive_overlap": 0.7, "rpn_negative_overlap": 0.3, "rpn_clobber_positives": False,
        "rpn_fg_fraction": 0.5, "rpn_batchsize": 256, "rpn_positive_weight": -1.0,
        "rpn_bbox_inside_weights": (1.0, 1.0, 1.0, 1.0),
    }  # fmt: skip

    def setup(self, *shapes: Shape) -> None:
        """Read param_str and make the anchors."""
        super().setup(*shapes)
        anchors = base_anchors(16, self.cfg["ratios"], self.cfg["scales"])
        self.register_buffer("anchors", anchors, persistent=False)
        self.check(shapes[0][0] == 1, f"takes one image, not {shapes[0][0]}")

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return labels, offsets, inside weights, outside weights."""
        score, truth, info = (x.detach() for x in bottoms[:3])
        count, height, width = len(self.anchors), *score.shape[2:]
        if score.is_meta:
            maps = [score.new_empty(1, 4 * count, height, width) for _ in range(3)]
            return score.new_empty(1, 1, count * height, width), *maps
        anchors = shifted_anchors(self.anchors, height, width, self.cfg["feat_stride"])
        truth, info = truth.reshape(-1, 5), info.flatten()
        border = self.cfg["allowed_border"]
        limit = info[[1, 0]] + border
        inside = ((anchors[:, :2] >= -border) & (anchors[:, 2:] < limit)).all(1)
        overlap = overlaps(anchors[inside], truth)
        label = torch.full_like(anchors[:, 0], -1)
        label[inside] = self._label(overlap)
        target, inner, outer = (torch.zeros_like(anchors) for _ in range(3))
        target[inside] = offsets(anchors[inside], truth[overlap.argmax(1)])
        inner[label == 1] = inner.new_tensor(self.cfg["rpn_bbox_inside_weights"])
        objects, background = self._weights(label)
        outer[label == 1] = objects
        outer[label == 0] = background
        label = label.view(1, height, width, count).permute(0, 3, 1, 2)
        maps = [
            x.view(1, height, width, 4 * count).permute(0, 3, 1, 2).contiguous()
            for x in (target, inner, outer)
        ]
        return label.reshape(1, 1, count * height, width), *maps

    def _label(self, overlap: Tensor) -> Tensor:
        """1, 0 or -1 for each anchor inside the image; overlap (anchors, truths)."""
        best = overlap.amax(1)
        low = best < self.cfg["rpn_negative_overlap"]
        favourite = (overlap == overlap.amax(0)).any(1)
        label = torch.full_like(best, -1)
        label[low] = 0
        label[favourite | (best >= self.cfg["rpn_positive_overlap"])] = 1
        if self.cfg["rpn_clobber_positives"]:
            label[low] = 0
        most = int(self.cfg["rpn_fg_fraction"] * self.cfg["rpn_batchsize"])
        for value, limit in ((1, most), (0, None)):
            if limit is None:
                limit = self.cfg["rpn_batchsize"] - int((label == 1).sum())
            places = (label == value).nonzero().flatten()
            kept = draw(places, limit)
            label[places] = -1
            label[kept] = value
        return label

    def _weights(self, label: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Outside weights of objects and of background."""
        share: float = self.cfg["rpn_positive_weight"]
        if share < 0:
            each = 1.0 / (label >= 0).sum()
            return each, each
        return share / (label == 1).sum(), (1 - share) / (label == 0).sum()


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

    def setup(self, *shapes: Shape) -> None:
        """Read param_str."""
        super().setup(*shapes)
        self.classes: int = self.cfg["num_classes"]
        self.check(self.classes > 0, "must give num_classes", field="python_param.param_str")

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return regions, labels, offsets, inside weights, outside weights."""
        regions, truth = (x.detach().flatten(1) for x in bottoms)
        width = 4 * self.classes
        if regions.is_meta:
            return tuple(regions.new_empty(1, n, 1, 1) for n in (5, 1, width, width, width))
        regions = torch.cat((regions, rows(0, truth[:, :4])))
        best, index = overlaps(regions[:, 1:], truth).max(1)
        cfg = self.cfg
        every = cfg["batch_size"] == -1
        size = 2 * len(regions) if every else cfg["batch_size"]
        objects = (best >= cfg["fg_thresh"]).nonzero().flatten()
        objects = draw(objects, size if every else round(cfg["fg_fraction"] * size))
        low, high = cfg["bg_thresh_lo"], cfg["bg_thresh_hi"]
        rest = ((best < high) & (best >= low)).nonzero().flatten()
        kept = torch.cat((objects, draw(rest, size - len(objects))))
        label = truth[index[kept], 4]
        label[len(objects) :] = 0
        target = offsets(regions[kept, 1:], truth[index[kept]])
        if cfg["bbox_normalize_targets_precomputed"]:
            mean, std = (target.new_tensor(cfg[f"bbox_normalize_{k}"]) for k in ("means", "stds"))
            target = (target - mean) / std
        spread, inner = self._by_class(label, target)
        tops = (regions[kept], label.unsqueeze(1), spread, inner, (inner > 0).to(inner.dtype))
        return tuple(top[..., None, None] for top in tops)

    def _by_class(self, label: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and inside weights (S, 4 x classes)."""
        place = label.long().clamp(max=1) if self.classes == 2 else label.long()
        self.check(
            bool((place < self.classes).all()),
            f"a label is not below num_classes {self.classes}",
            field="python_param.param_str",
        )
        mark = torch.nn.functional.one_hot(place, self.classes) * (label > 0).unsqueeze(1)
        mark = mark.unsqueeze(2).to(target.dtype)
        weight = target.new_tensor(self.cfg["bbox_inside_weights"])
        return (mark * target.unsqueeze(1)).flatten(1), (mark * weight).flatten(1)
