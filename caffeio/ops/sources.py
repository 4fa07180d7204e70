"""What stands for the values of a data layer, which come from a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.sources import SourceLayer


def placeholders(layer: SourceLayer) -> tuple[Tensor, ...]:
    """Return tensors of the right shapes on the meta device."""
    return tuple(torch.empty(shape, device="meta") for shape in layer.top_shapes)
