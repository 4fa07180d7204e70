"""A convolution that has taken in the BatchNorm, Scale, ReLU or sum behind it, for inference.

The folded weights are computed in float64 and rounded once. On the CPU they are kept in the layout
that oneDNN wants, which makes the tops channels-last; elsewhere PyTorch's own convolution runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.ops.conv import make_room

if TYPE_CHECKING:
    from caffeio.layers.batch_norm import BatchNorm
    from caffeio.layers.conv import BaseConvolution


def can_fold(layer: Any) -> bool:
    """Whether `layer` is a convolution of images by itself, not a transposed one."""
    return getattr(layer, "transposed", True) is False and layer.spatial == 2 and layer.start == 1


def has_packed_form() -> bool:
    """Whether this PyTorch has oneDNN's convolution with packed weights."""
    mkldnn = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    backend: Any = torch.backends.mkldnn
    wanted = bool(backend.is_available() and backend.enabled)
    return wanted and all(hasattr(mkldnn, name) for name in names)


class FoldedConvolution:
    """Convolution (+ BatchNorm) (+ Scale) (+ sum with another blob) (+ ReLU), as one operation."""

    def __init__(self, layer: BaseConvolution) -> None:
        self.layer = layer
        self.norm: BatchNorm | None = None
        self.scale: Any = None
        self.adds = False  # the second bottom is added, in its own memory if `in_place`
        self.in_place = False
        self.slope: float | None = layer.negative_slope if layer.relu else None  # of the ReLU
        # weight, bias and whether the bottom needs no zeros behind it, by what the bottom is
        self._packed: dict[tuple[Any, ...], tuple[Tensor, Tensor | None, bool]] = {}
        self._activation: tuple[str, list[float]] = ("none", [])  # as oneDNN calls the ReLU
        self.forms = 1  # how many sizes of bottoms the weights are kept packed for

    def is_finite(self) -> bool:
        """Whether the folded weights are: a variance of 0 with eps 0 has no such form."""
        return all(bool(t.isfinite().all()) for t in self.fold() if t is not None)

    @torch.no_grad()
    def fold(self) -> tuple[Tensor, Tensor | None]:
        """Compute weight and bias of the one convolution that does it all."""
        layer = self.layer
        weight = layer.blobs[0].detach()
        bias = layer.blobs[1].detach() if layer.has_bias else None
        if self.norm is None and self.scale is None:
            return weight, bias
        channels = weight.shape[0]
        factor = weight.new_ones(channels, dtype=torch.float64)
        shift = torch.zeros_like(factor) if bias is None else bias.double()
        if self.norm is not None:
            blobs = [blob.detach().double() for blob in self.norm.blobs]
            seen = torch.where(blobs[2] == 0, 0.0, 1.0 / blobs[2])
            factor = (blobs[1] * seen + self.norm.eps).rsqrt()
            shift = (shift - blobs[0] * seen) * factor
            factor, shift = _times(factor, shift, blobs[3:])
        if self.scale is not None:
            factor, shift = _times(factor, shift, [b.detach().double() for b in self.scale.blobs])
        folded = weight * factor.view(-1, *[1] * (weight.dim() - 1))  # in float64
        return folded.to(weight.dtype), shift.to(weight.dtype)

    def _pack(self, x: Tensor) -> tuple[Tensor, Tensor | None, bool]:
        """Make the weights for bottoms like `x`, in the form that is fastest here."""
        layer = self.layer
        if x.shape[1] != layer.channels:
            raise layer.error(
                f"the bottom's {x.shape[1]} channels do not fit a kernel made for {layer.channels}"
            )
        roomy = make_room(x, layer.least)
        weight, bias = self.fold()
        if _is_packable(roomy):
            form = (layer.pad, layer.stride, layer.dilation, layer.group)
            self._activation = self._named_activation()
            packed = torch.ops.mkldnn._reorder_convolution_weight
            weight = packed(weight.contiguous(), *form, list(roomy.shape))
            bias = None if bias is None else bias.clone()
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
        if len(self._packed) >= self.forms:
            self._packed.clear()
        made = self._packed[x.shape, x.dtype, x.device] = weight, bias, roomy is x
        return made

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and the blob to add -> (N, num_output, positions)."""
        layer = self.layer
        weight, bias, roomy = self._packed.get((x.shape, x.dtype, x.device)) or self._pack(x)
        if not roomy:
            x = make_room(x, layer.least)
        if not weight.is_mkldnn:
            return self._plain(x, other, weight, bias)
        form = (layer.pad, layer.stride, layer.dilation, layer.group)
        attr, scalars = self._activation
        mkldnn = torch.ops.mkldnn
        y: Tensor
        if other is None:
            y = mkldnn._convolution_pointwise.default(x, weight, bias, *form, attr, scalars, "")
            return y
        rest = ("add", 1.0, None if attr == "none" else attr, scalars, "")
        if self.in_place and other.is_contiguous(memory_format=torch.channels_last):
            y = mkldnn._convolution_pointwise_.binary(other, x, weight, bias, *form, *rest)
        else:
            other = other.contiguous(memory_format=torch.channels_last)
            y = mkldnn._convolution_pointwise.binary(x, other, weight, bias, *form, *rest)
        return y

    def _named_activation(self) -> tuple[str, list[float]]:
        if self.slope is None:
            return "none", []
        return ("leaky_relu", [self.slope]) if self.slope else ("relu", [])

    def _plain(
        self, x: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        layer = self.layer
        y = F.conv2d(x, weight, bias, layer.stride, layer.pad, layer.dilation, layer.group)
        if other is not None:
            y += other
        if self.slope is None:
            return y
        return F.leaky_relu_(y, self.slope) if self.slope else F.relu_(y)


def _times(factor: Tensor, shift: Tensor, blobs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Put y * blobs[0] + blobs[1] behind y = x * factor + shift."""
    if blobs:
        factor, shift = factor * blobs[0], shift * blobs[0]
    if len(blobs) > 1:
        shift = shift + blobs[1]
    return factor, shift


def _is_packable(x: Tensor) -> bool:
    return (
        x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and has_packed_form()
    )
