"""PriorBox and PriorBoxClustered: the boxes that SSD's predictions are relative to.

Sources: src/caffe/layers/prior_box_layer.cpp (weiliu89/caffe, branch ssd; Intel),
prior_box_clustered_layer.cpp (training_toolbox_caffe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.tracing import is_exporting

if TYPE_CHECKING:
    from caffeio.layers.ssd.prior_box import PriorBox


def prior_box(layer: PriorBox, *bottoms: Tensor) -> Tensor:
    """Return the boxes and their variances."""
    x, image = bottoms
    if x.is_meta:
        return x.new_empty(1, 2, x.shape[2] * x.shape[3] * len(layer.boxes) * 4)
    sizes = ((x.shape[2], x.shape[3]), (image.shape[2], image.shape[3]))
    key = (sizes, x.device)
    known: Tensor | None = layer.made.get(key)
    if known is not None:
        return known
    top = torch.from_numpy(layer.priors(sizes)).to(x.device)
    if not is_exporting():
        layer.made[key] = top
    return top
