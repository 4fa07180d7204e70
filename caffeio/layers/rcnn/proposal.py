"""Proposal: regions out of the scores and offsets of a region proposal network.

Sources: lib/rpn/proposal_layer.py, generate_anchors.py and fast_rcnn/config.py of
rbgirshick/py-faster-rcnn (the Python layer); proposal_layer.cpp of PVANET (the native type).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, between, exactly, layer
from caffeio.layers.labels import text
from caffeio.layers.python.layer import python_layer

RATIOS, SCALES = (0.5, 1.0, 2.0), (8.0, 16.0, 32.0)


def settings(owner: Layer, defaults: dict[str, Any]) -> dict[str, Any]:
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


def base_anchors(base: int, ratios: Sequence[float], scales: Sequence[float]) -> Tensor:
    """Boxes (ratios x scales, 4) around the first cell, float32, of whole widths and heights.

    The ratio is height over width; both are rounded before they are scaled.
    """
    width = np.rint(np.sqrt(base * base / np.asarray(ratios, np.float64)))
    height = np.rint(width * np.asarray(ratios, np.float64))
    size = np.stack((width, height), 1)[:, None] * np.asarray(scales, np.float64)[:, None]
    half, middle = (size.reshape(-1, 2) - 1) / 2, (base - 1) / 2
    return torch.from_numpy(np.concatenate((middle - half, middle + half), 1).astype(np.float32))


def shifted_anchors(base: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The anchors of all cells, (height x width x A, 4)."""
    x = torch.arange(width, device=base.device) * stride
    y = torch.arange(height, device=base.device) * stride
    shift = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).repeat(1, 1, 2)
    return (shift.unsqueeze(2) + base).view(-1, 4)


def shift_boxes(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (n, 4) in pixels moved by (dx, dy, log width, log height) (bbox_transform_inv)."""
    extent = boxes[:, 2:] - boxes[:, :2] + 1
    middle = boxes[:, :2] + 0.5 * extent + deltas[:, :2] * extent
    half = 0.5 * deltas[:, 2:].exp() * extent
    return torch.cat((middle - half, middle + half), 1)


def suppress(
    boxes: Tensor, threshold: float, most: int, *, pixel: float = 1, strict: bool = True
) -> Tensor:
    """Indices of at most `most` boxes (n, 4), best first, that overlap no kept one too much.

    Too much is more than the threshold (`strict`) or as much. `pixel` is what a box counts on top
    of the difference of its corners. The boxes go to the host: the loop is over the kept ones.
    """
    host = boxes.cpu().numpy()
    low, high = host[:, :2], host[:, 2:]
    area = np.prod(high - low + pixel, axis=1)
    left = np.arange(len(host))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(best)
        span = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left]) + pixel
        both = np.prod(span.clip(min=0), axis=1)
        limit = threshold * (area[best] + area[left] - both)
        left = left[both <= limit] if strict else left[both < limit]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


class ProposalBase(Layer):
    """Bottoms: scores (N, 2A, H, W), offsets (N, 4A, H, W), image's height, width and scale."""

    bottoms = exactly(3)
    tops = between(1, 2)
    differentiable = False
    in_place = False
    anchors: Tensor  # (A, 4)
    stride: int
    before: int  # how many are looked at, at most
    after: int  # how many are kept of each image, at most
    threshold: float

    def hold(self, anchors: Tensor) -> None:
        """Keep the anchors with the net, wherever it goes."""
        self.register_buffer("anchors", anchors, persistent=False)

    def check_maps(self, shapes: tuple[Shape, ...]) -> None:
        """Check the channels of scores and offsets."""
        count = len(self.anchors)
        for i, channels in ((0, 2 * count), (1, 4 * count)):
            self.check(
                len(shapes[i]) == 4 and shapes[i][1] == channels,
                f"{count} anchors need {channels} channels in bottom {i}, not {text(shapes[i])}",
            )

    def boxes(self, deltas: Tensor, info: Tensor) -> Tensor:
        """The boxes of one image (H x W x A, 4), cut to it; deltas (4A, H, W)."""
        height, width = deltas.shape[1:]
        anchors = shifted_anchors(self.anchors, height, width, self.stride)
        boxes = shift_boxes(anchors, deltas.permute(1, 2, 0).reshape(-1, 4))
        edge = info[[1, 0, 1, 0]] - 1
        return torch.minimum(boxes, edge).clamp(min=0)

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of one image's boxes and scores."""
        order = scores.argsort(descending=True, stable=True)
        order = order[: self.before] if self.before > 0 else order
        kept = order[suppress(boxes[order], self.threshold, self.after or len(order))]
        return boxes[kept], scores[kept]


def rows(image: int, boxes: Tensor) -> Tensor:
    """Regions (n, 5) of one image."""
    return torch.cat((boxes.new_full((len(boxes), 1), image), boxes), 1)


def big_enough(boxes: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Which boxes are at least that wide and high, in pixels."""
    extent = boxes[:, 2:] - boxes[:, :2] + 1
    return (extent[:, 0] >= width) & (extent[:, 1] >= height)


@layer("Proposal")
class Proposal(ProposalBase):
    """The best regions of each image, as PVANET's native layer makes them.

    Bottom 2 is one row of height, width, and their scales. Boxes that are smaller than min_size
    (scaled) count as of score 0. Tops: regions (R, 5) and their scores (R).
    """

    def setup(self, *shapes: Shape) -> None:
        """Read the parameters and make the anchors."""
        p = self.param.proposal_param
        self.check(
            bool(p.ratio and p.scale), "give ratios and scales", field="proposal_param.ratio"
        )
        self.hold(base_anchors(p.base_size, p.ratio, p.scale))
        self.stride, self.before, self.after = p.feat_stride, p.pre_nms_topn, p.post_nms_topn
        self.threshold = p.nms_thresh
        self.check_maps(shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the regions, and their scores with a second top."""
        scores, deltas, info = (x.detach() for x in bottoms)
        count = max(1, len(self.context.top_names))
        if scores.is_meta:
            most = len(scores) * self.after
            return (scores.new_empty(most, 5), scores.new_empty(most))[:count]
        info = info.flatten()
        least = self.param.proposal_param.min_size
        tall, wide = info[2] * least, info[min(3, len(info) - 1)] * least
        regions, values = [], []
        for i in range(len(scores)):
            boxes = self.boxes(deltas[i], info)
            score = scores[i, len(self.anchors) :].permute(1, 2, 0).flatten()
            boxes, score = self.best(boxes, score * big_enough(boxes, wide, tall))
            regions.append(rows(i, boxes))
            values.append(score)
        return (torch.cat(regions), torch.cat(values))[:count]


@python_layer("rpn.proposal_layer", "ProposalLayer")
class ProposalLayer(ProposalBase):
    """The best regions of one image, as py-faster-rcnn's Python layer makes them.

    Bottom 2 is (1, 3): height, width, scale. Boxes that are smaller than rpn_min_size (scaled) are
    left out. The package's settings are those of its config.py for the layer's phase; param_str
    gives feat_stride, scales, and any of the settings by their names in lower case. Tops: regions
    (R, 5), scores (R, 1).
    """

    def setup(self, *shapes: Shape) -> None:
        """Read param_str and make the anchors."""
        p = settings(self, {
            "feat_stride": 16, "scales": SCALES, "ratios": RATIOS, "rpn_nms_thresh": 0.7,
            "rpn_pre_nms_top_n": 12000 if self.train_phase else 6000,
            "rpn_post_nms_top_n": 2000 if self.train_phase else 300, "rpn_min_size": 16,
        })  # fmt: skip
        self.hold(base_anchors(16, p["ratios"], p["scales"]))
        self.stride, self.threshold = p["feat_stride"], p["rpn_nms_thresh"]
        self.before, self.after = p["rpn_pre_nms_top_n"], p["rpn_post_nms_top_n"]
        self.least = p["rpn_min_size"]
        self.check_maps(shapes)
        self.check(shapes[0][0] == 1, f"takes one image, not {shapes[0][0]}")

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the regions, and their scores with a second top."""
        scores, deltas, info = (x.detach() for x in bottoms)
        count = max(1, len(self.context.top_names))
        if scores.is_meta:
            return (scores.new_empty(1, 5), scores.new_empty(1, 1, 1, 1))[:count]
        info = info.flatten()
        boxes = self.boxes(deltas[0], info)
        score = scores[0, len(self.anchors) :].permute(1, 2, 0).flatten()
        kept = big_enough(boxes, self.least * info[2], self.least * info[2])
        boxes, score = self.best(boxes[kept], score[kept])
        return (rows(0, boxes), score.unsqueeze(1))[:count]
