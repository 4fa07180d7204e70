"""Pooling and spatial pyramid pooling.

Sources: src/caffe/layers/pooling_layer.cpp, spp_layer.cpp; He et al. 2014 (SPP).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, between, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.layers.onnx.pooling import onnx_pool
from caffeio.layers.pool_ops import Window, average_pool, max_pool, stochastic_pool
from caffeio.layers.window import check_positive, per_axis
from caffeio.proto import caffe_pb2 as pb

FIELD = "pooling_param"
_FIELDS = (
    "pool", "global_pooling", "round_mode", "ceil_mode", "avg_include_pad", "dilation",
    *(n + s for n in ("kernel", "pad", "stride") for s in ("_h", "_w")), "kernel_size", "pad",
    "stride", "kernel_size_3d", "pad_3d", "stride_3d",
)  # fmt: skip
METHODS = ("MAX", "AVE", "STOCHASTIC")


def pool(
    x: Tensor, method: str, window: Window, *, divisor: str, train: bool, mask: bool
) -> tuple[Tensor, Tensor | None]:
    """Pool `x` (N, C, spatial) by a method of METHODS; the mask is that of MAX."""
    if method == "MAX":
        return max_pool(x, window, mask=mask)
    if method == "AVE":
        return average_pool(x, window, divisor), None
    return stochastic_pool(x, window, train=train), None


@layer("Pooling")
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC of windows over (N, C, H, W), or (N, C, D, H, W) as forks allow.

    The number of windows is rounded up unless `round_mode` is FLOOR (or a fork's `ceil_mode` is
    false); with padding a last window that would start behind the image is left out. With a second
    top MAX also gives the index h * W + w of each maximum. `kernel`, `stride`, `pad`, `dilation`
    have one value for each spatial axis; with `global_pooling` the kernel is the whole plane.
    """

    tops = between(1, 2)
    in_place = False

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for fields that contradict each other or the bottom."""
        p = self.param.pooling_param
        self.check(
            len(shape) in (4, 5),
            f"needs a bottom of 4 axes (num, channels, height, width), or of 5, not {shape}",
        )
        self.method = pb.PoolingParameter.PoolMethod.Name(p.pool)
        self.check(self.method in METHODS, f"{self.method} is not supported", field=f"{FIELD}.pool")
        self.mask = len(self.context.top_names) > 1
        self.check(
            self.method == "MAX" or not self.mask,
            "only MAX has a second top",
            field=f"{FIELD}.pool",
        )
        check_fields(self, FIELD, _FIELDS)
        self._read_window(p, shape)
        self._check_window(shape)

    def _read_window(self, p: pb.PoolingParameter, shape: Shape) -> None:
        axes = len(shape) - 2
        self.is_global = p.global_pooling
        if self.is_global:
            sized = p.kernel_size or p.HasField("kernel_h") or p.HasField("kernel_w")
            self.check(
                not sized,
                "no kernel may be given with global_pooling",
                field=f"{FIELD}.kernel_size",
            )
            self.kernel = shape[2:]
        elif p.kernel_size_3d and axes == 3:
            self.kernel = per_axis(self, p, "kernel_size_3d", FIELD, axes, None)
        else:
            self.kernel = per_axis(self, p, "kernel_size", FIELD, axes, None)
        suffix = "_3d" if p.kernel_size_3d and axes == 3 else ""
        self.stride = per_axis(self, p, "stride" + suffix, FIELD, axes, 1)
        self.pad = per_axis(self, p, "pad" + suffix, FIELD, axes, 0)
        self.dilation = per_axis(self, p, "dilation", FIELD, axes, 1)
        for name in ("kernel", "stride", "dilation"):
            if not (self.is_global and name == "kernel"):
                check_positive(self, getattr(self, name), f"{FIELD}.{name}")
        self.ceil = p.round_mode == pb.PoolingParameter.CEIL and p.ceil_mode
        mkldnn = self.profile.pooling_average == "mkldnn" and any(self.pad)
        clip = any(self.pad) or (self.profile.pooling_clips_kernel_1 and 1 in self.kernel)
        self._window = Window(self.kernel, self.stride, self.pad, self.dilation, self.ceil, clip)
        self.divisor = ("full" if p.avg_include_pad else "real") if mkldnn else "bvlc"

    def _check_window(self, shape: Shape) -> None:
        if self.is_global:
            plain = not any(self.pad) and all(s == 1 for s in self.stride)
            self.check(
                plain, "only pad 0 and stride 1 go with global_pooling", field=f"{FIELD}.pad"
            )
        if any(self.pad):
            self.check(
                self.method != "STOCHASTIC", "only MAX and AVE can be padded", field=f"{FIELD}.pad"
            )
            self.check(
                all(p < k for p, k in zip(self.pad, self.kernel, strict=True)),
                f"pad {self.pad} must be below the kernel {self.kernel}",
                field=f"{FIELD}.pad",
            )
        plain_max = self.method == "MAX" or all(d == 1 for d in self.dilation)
        self.check(plain_max, "only MAX can be dilated", field=f"{FIELD}.dilation")
        self.check(
            self.method != "STOCHASTIC" or len(shape) == 4,
            "STOCHASTIC needs a bottom of 4 axes", field=f"{FIELD}.pool",
        )  # fmt: skip
        self.check(
            all(n > 0 for n in self.window(shape).output(shape[2:])),
            f"the kernel {self.kernel} is larger than the bottom {shape} with its pad {self.pad}",
            field=f"{FIELD}.kernel_size",
        )

    def window(self, shape: Shape) -> Window:
        """The windows over a bottom of `shape`."""
        if not self.is_global:
            return self._window
        return replace(self._window, kernel=tuple(shape[2:]))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        """(N, C, spatial) -> (N, C, windows), and the mask if it is wanted."""
        if self.is_global and self.method == "AVE":
            return x.mean(tuple(range(2, x.dim())), keepdim=True)
        y, mask = pool(
            x, self.method, self.window(tuple(x.shape)),
            divisor=self.divisor, train=self.train_phase, mask=self.mask,
        )  # fmt: skip
        return y if mask is None else (y, mask)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """Global or windowed MaxPool and AveragePool with Caffe's windows."""
        sizes = g.shape(bottoms[0])[2:]
        if self.is_global and not self.mask and self.method != "STOCHASTIC":
            kind = {"MAX": "GlobalMaxPool", "AVE": "GlobalAveragePool"}[self.method]
            return str(g.op(kind, bottoms))
        if self.method == "STOCHASTIC" and self.train_phase:
            raise g.unsupported("STOCHASTIC draws at random in TRAIN")
        return onnx_pool(
            g, bottoms[0], self.method, self.window(self.bottom_shapes[0]), sizes,
            divisor=self.divisor, mask=self.mask,
        )  # fmt: skip


@layer("SPP")
class SPP(Layer):
    """Pools (N, C, H, W) into 1, 4, 16, ... bins and joins the levels: (N, C * bins).

    Level l has kernel and stride ceil(size / 2^l) and pad (kernel * 2^l - size + 1) / 2. With one
    level the top keeps 4 axes.
    """

    in_place = False

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for a bottom without 4 axes, or too small for the pyramid."""
        p = self.param.spp_param
        check_fields(self, "spp_param", ("pyramid_height", "pool"))
        self.check(len(shape) == 4, f"needs a bottom of 4 axes, not {shape}")
        self.check(min(shape[2:]) > 0, f"the bottom {shape} is empty")
        self.levels: int = p.pyramid_height
        self.check(self.levels > 0, "must be above 0", field="spp_param.pyramid_height")
        self.method = pb.SPPParameter.PoolMethod.Name(p.pool)
        for level in range(self.levels):
            w = self.window(level, shape)
            self.check(
                all(p < k for p, k in zip(w.pad, w.kernel, strict=True)),
                f"level {level} needs pad {w.pad}, which is not below its kernel {w.kernel}: the "
                f"bottom {shape} is too small",
                field="spp_param.pyramid_height",
            )
            self.check(
                self.method != "STOCHASTIC" or not any(w.pad),
                f"level {level} needs pad {w.pad}; only MAX and AVE can be padded",
                field="spp_param.pool",
            )

    @staticmethod
    def window(level: int, shape: Shape) -> Window:
        """The windows of one level over a bottom of `shape`."""
        bins = 2**level
        kernel = tuple(math.ceil(n / bins) for n in shape[2:])
        pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, shape[2:], strict=True))
        return Window(kernel, kernel, pad, (1, 1), clip=any(pad))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C * bins of all levels); (N, C, 1, 1) with one level."""
        shape, train = tuple(x.shape), self.train_phase
        pooled = [
            pool(x, self.method, w, divisor="bvlc", train=train, mask=False)[0]
            for w in (self.window(level, shape) for level in range(self.levels))
        ]
        if self.levels == 1:
            return pooled[0]
        return torch.cat([y.flatten(1) for y in pooled], 1)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Pooling of every level, flattened and joined."""
        if self.method == "STOCHASTIC" and self.train_phase:
            raise g.unsupported("STOCHASTIC draws at random in TRAIN")
        shape = g.shape(bottoms[0])
        pooled = [
            str(onnx_pool(g, bottoms[0], self.method, w, shape[2:], divisor="bvlc", mask=False))
            for w in (self.window(level, shape) for level in range(self.levels))
        ]
        if self.levels == 1:
            return pooled[0]
        return str(g.op("Concat", [g.op("Flatten", [y], axis=1) for y in pooled], axis=1))
