"""BatchNorm in its three meanings (BVLC, Intel, NVIDIA), and its fusion with Scale.

Sources: src/caffe/layers/batch_norm_layer.cpp of BVLC, Intel and NVIDIA Caffe,
mkldnn_batch_norm_layer.cpp, cudnn_batch_norm_layer.cu; Ioffe & Szegedy 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

_FIELDS = (
    "use_global_stats", "moving_average_fraction", "eps", "relu", "fused_relu", "stats_batch_size",
    "use_weight_bias", "bias_term", "filler", "scale_bias", "scale_filler", "bias_filler",
)  # fmt: skip


def force_spec(param: pb.LayerParameter, index: int, lr_mult: float, decay_mult: float) -> None:
    """Overwrite the multipliers of blob `index`, as the set-up of some forks' layers does."""
    while len(param.param) <= index:
        param.param.add()
    param.param[index].lr_mult = lr_mult
    param.param[index].decay_mult = decay_mult


def batch_statistics(g: OnnxGraph, x: str) -> list[str]:
    """Mean and biased variance of `x` (N, C, ...) itself in ONNX: C values each."""
    axes = [i for i in range(len(g.shape(x))) if i != 1]
    mean = g.op("ReduceMean", [x], axes=axes)
    centred = g.op("Sub", [x, mean])
    variance = g.op("ReduceMean", [g.op("Mul", [centred, centred])], axes=axes)
    return [g.reshape(value, -1) for value in (mean, variance)]


@layer("BatchNorm")
class BatchNorm(LayerType):
    """y = (x - mean) / sqrt(variance + eps) over axis 1, by batch or stored statistics.

    Blobs: mean [C], variance [C], factor [1]. BVLC and Intel store sums, blob = L * blob + new,
    and divide by the factor when they use them; NVIDIA stores averages, as its cuDNN engine does.
    Merged forms (Intel's MKL engines, NVIDIA's scale_bias) add scale [C] and bias [C].
    """

    has_blobs = True
    count_tells = True
    family = "norm"
    short_type = "BN"
    heeds_propagate_down = False
    fields = owns(batch_norm_param=_FIELDS)
    blob_names = ("mean", "variance", "factor", "scale", "bias")
    compute = "caffeio.ops.batch_norm:batch_norm"
    fresh = True

    @classmethod
    def summary(cls, param: pb.LayerParameter) -> str:
        """Say `fraction 0.999, batch statistics`."""
        p = param.batch_norm_param
        words = f"fraction {p.moving_average_fraction:.7g}"
        if p.HasField("use_global_stats"):
            words += f", {'global' if p.use_global_stats else 'batch'} statistics"
        return words

    def setup(self, shape: Shape) -> None:
        """Declare the blobs; raises LayerError for bottoms without a channel axis."""
        p = self.param.batch_norm_param
        self.check(len(shape) >= 2, f"needs a bottom of 2 axes or more, not {len(shape)}")
        self.channels = shape[1]
        self.eps = max(p.eps, self.profile.batch_norm_min_eps)
        self.fraction = p.moving_average_fraction
        self.averages = self.profile.batch_norm == "averages"
        self.merged = not self.averages and self._mkl_engine()
        self.use_global = not self.train_phase
        if p.HasField("use_global_stats") and not self.averages:
            self.use_global = p.use_global_stats
        self.updates = not self.use_global and (self.train_phase or not self.merged)
        self.pure = self.by_image = self.use_global  # one product and one sum a channel
        self.part = p.stats_batch_size  # 0: the whole batch
        self.check(
            not self.part or shape[0] % self.part == 0,
            f"{self.part} does not divide the batch of {shape[0]}",
            field="batch_norm_param.stats_batch_size",
        )
        self.relu = p.relu or p.fused_relu
        self._declare(p)

    def _mkl_engine(self) -> bool:
        p = self.param.batch_norm_param
        if p.engine == pb.BatchNormParameter.DEFAULT:
            return self.profile.merge_batch_norm_scale or len(self.param.blobs) in (4, 5)
        return p.engine in (pb.BatchNormParameter.MKL2017, pb.BatchNormParameter.MKLDNN)

    def _declare(self, p: pb.BatchNormParameter) -> None:
        c = (self.channels,)
        masked = self.profile.mask_batch_norm_statistics or self.merged or self.averages
        factor = 1.0 if self.averages else 0.0
        if self.averages:
            for i in range(3):
                force_spec(self.param, i, 0, 0)
        self.add_blob("mean", c, statistic=masked)
        self.add_blob("variance", c, statistic=masked)
        self.add_blob("factor", (1,), default=factor, statistic=masked)
        filler = p.scale_filler if self.averages else p.filler
        given = p.HasField("scale_filler") if self.averages else p.HasField("filler")
        bias_given = p.HasField("bias_filler")
        has_scale = self.merged and p.use_weight_bias
        has_bias = has_scale and p.bias_term
        if self.averages:
            has_scale = has_bias = p.scale_bias or given or bias_given
            for i in (3, 4) if has_scale else ():
                force_spec(self.param, i, 1, 1)
        if has_scale:
            self.add_blob("scale", c, filler if given else None, default=1.0)
        if has_bias:
            self.add_blob("bias", c, p.bias_filler if bias_given else None)

    @property
    def fusible(self) -> bool:
        """Whether `fused_batch_norm_scale` may run this layer with the Scale behind it."""
        return len(self.blob_specs) == 3 and not self.relu

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write one BatchNormalization."""
        extra = [g.param(self, i) for i in range(3, len(self.blob_specs))]
        return self.onnx_scaled(g, bottoms[0], *extra)

    def onnx_scaled(
        self, g: OnnxGraph, x: str, weight: str | None = None, bias: str | None = None
    ) -> str:
        """BatchNormalization with the scale and bias of this layer or of the Scale behind it."""
        import numpy as np

        ones, zeros = np.ones(self.channels), np.zeros(self.channels)
        scale = [weight or g.const(ones, "scale"), bias or g.const(zeros, "bias")]
        if self.use_global:
            stored = zip(("mean", "variance"), self.global_statistics(), strict=True)
            statistics = [g.const(value, name) for name, value in stored]
        elif self.part and self.part != g.shape(x)[0]:
            raise g.unsupported("stats_batch_size splits the batch")
        else:
            statistics = batch_statistics(g, x)
        y: str = g.op("BatchNormalization", [x, *scale, *statistics], epsilon=self.eps)
        return g.relu(y) if self.relu else y

    def global_statistics(self) -> list[Any]:
        """Stored mean and variance as arrays; zeros while the factor is 0 (nothing was seen)."""
        mean, variance, factor = (blob.detach().cpu().numpy() for blob in self.blobs[:3])
        scale = 1 / factor if factor != 0 else factor
        return [mean * scale, variance * scale]
