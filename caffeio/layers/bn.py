"""BN: batch normalization with scale and shift in one layer, as three families of forks have it.

Sources: bn_layer.cpp of SegNet (2 blobs), of PSPNet and temporal-segment-networks (slope and bias,
frozen), of happynear's and Wei Liu's older Caffes (moving_average, decay).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, between, owns
from caffeio.layers.batch_norm import batch_statistics, force_spec
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

FIELD = "bn_param"
SEGNET_EPS = 1e-9
_SLOPE_FIELDS = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine")
_SEGNET_FIELDS = ("scale_filler", "shift_filler", "bn_mode")
_MOVING_FIELDS = ("var_eps", "moving_average", "decay", "across_spatial")


def form_of(param: pb.LayerParameter) -> str:
    """Which BN a layer means: "segnet", "slope" or "moving", by its fields, else by its blobs."""
    p = param.bn_param
    if any(p.HasField(name) for name in _SLOPE_FIELDS):
        return "slope"
    if any(p.HasField(name) for name in _MOVING_FIELDS):
        return "moving"
    if p.HasField("bn_mode") or len(param.blobs) == 2:
        return "segnet"
    if p.HasField("scale_filler") or p.HasField("shift_filler"):
        return "moving" if len(param.blobs) == 4 else "segnet"
    return "slope"


@layer("BN")
class BN(LayerType):
    """y = (x - mean) / sqrt(variance + eps) * scale + shift over axis 1; biased variances.

    Blobs: scale, shift and, but for SegNet's form, running mean and variance, all [1, C, 1, 1].
    segnet: statistics of the batch in both phases (further tops: mean, variance), or none at all in
    bn_mode INFERENCE. slope: stored statistics in TEST and where `frozen`. moving: stored
    statistics in TEST with moving_average, else the batch's.
    """

    has_blobs = True
    count_tells = True
    family = "norm"
    tops = between(1, 3)
    fields = owns(bn_param=(*_SLOPE_FIELDS, *_MOVING_FIELDS[:3], *_SEGNET_FIELDS))
    compute = "caffeio.ops.bn:bn"

    def setup(self, shape: Shape) -> None:
        """Declare the blobs; raises LayerError for what the stored statistics cannot give."""
        p = self.param.bn_param
        self.check(2 <= len(shape) <= 4, f"needs a bottom of 2 to 4 axes, not {shape}")
        self.form = form_of(self.param)
        self.outputs = len(self.context.top_names) or 1
        self.check(self.outputs == 1 or self.form == "segnet", "only SegNet's BN has further tops")
        self.plain = self.form == "segnet" and p.bn_mode == pb.BNParameter.INFERENCE
        self.check(self.outputs == 1 or not self.plain, "INFERENCE has one top", field=FIELD)
        self.frozen = self.form == "slope" and p.frozen
        self.keep = p.momentum if self.form == "slope" else 1 - p.decay
        self.eps = {"segnet": SEGNET_EPS, "slope": p.eps, "moving": p.var_eps}[self.form]
        stored = self.form == "slope" or (self.form == "moving" and p.moving_average)
        self.uses_stored = self.frozen or (stored and not self.train_phase)
        self.updates = self.train_phase and not self.frozen
        self._declare(p, shape[1])

    def _declare(self, p: pb.BNParameter, channels: int) -> None:
        shape = (1, channels, 1, 1)
        slope = self.form == "slope"
        names = ("slope_filler", "bias_filler") if slope else ("scale_filler", "shift_filler")
        for blob, name in zip(("scale", "shift"), names, strict=True):
            self.add_blob(blob, shape, getattr(p, name) if p.HasField(name) else None)
        stored = self.form != "segnet" and not (
            self.form == "moving" and len(self.param.blobs) == 2
        )
        self.check(
            stored or not self.uses_stored,
            "these blobs hold no statistics for the TEST phase",
            field=f"{FIELD}.moving_average",
        )
        self.updates = self.updates and stored
        if stored:
            self.add_blob("mean", shape, statistic=slope)
            self.add_blob("variance", shape, default=float(self.frozen), statistic=slope)
        if slope:
            for i in range(0 if self.frozen else 2, 4):
                force_spec(self.param, i, 0, 0)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Give the bottom's shape, and [1, C, 1, 1] for the statistics."""
        return (shape, *[(1, shape[1], 1, 1)] * (self.outputs - 1))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write BatchNormalization with stored statistics; in SegNet's INFERENCE Mul and Add."""
        (x,) = bottoms
        channels = (self.blob_specs[0].shape[1],)
        if self.plain:
            spread = (*channels, *[1] * (len(g.shape(x)) - 2))
            scaled = g.op("Mul", [x, g.param(self, 0, shape=spread)])
            return str(g.op("Add", [scaled, g.param(self, 1, shape=spread)]))
        blobs = [g.param(self, i, shape=channels) for i in range(4 if self.uses_stored else 2)]
        if not self.uses_stored:
            if self.outputs > 1:
                raise g.unsupported("statistics as tops")
            blobs += batch_statistics(g, x)
        return str(g.op("BatchNormalization", [x, *blobs], epsilon=self.eps))
