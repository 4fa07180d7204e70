"""Pooling and spatial pyramid pooling.

Sources: src/caffe/layers/pooling_layer.cpp, spp_layer.cpp; He et al. 2014 (SPP).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from caffeio.layers.base import MAX_COUNT, LayerType, Shape, between, owns
from caffeio.layers.dims import known
from caffeio.layers.registry import layer
from caffeio.layers.window import Ints, Window, check_positive, per_axis, window_words
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

FIELD = "pooling_param"
_FIELDS = (
    "pool", "global_pooling", "round_mode", "ceil_mode", "avg_include_pad", "dilation",
    *(n + s for n in ("kernel", "pad", "stride") for s in ("_h", "_w")), "kernel_size", "pad",
    "stride", "kernel_size_3d", "pad_3d", "stride_3d",
)  # fmt: skip
METHODS = ("MAX", "AVE", "STOCHASTIC")


def check_reach(layer: LayerType, shape: Shape, window: Window) -> None:
    """Refuse windows so far beyond the bottom that the values they cover are too many to count."""
    largest = max((*window.stride, *window.pad), default=0)
    layer.check(largest <= MAX_COUNT, f"{largest} is more than an int holds")
    if not all(isinstance(n, int) for n in shape):
        return
    pads = window.padding(shape[2:])[::-1]
    covered = [n + sum(pads[2 * i : 2 * i + 2]) for i, n in enumerate(shape[2:])]
    layer.check(
        math.prod((*shape[:2], *covered)) <= MAX_COUNT,
        f"its windows reach over {' x '.join(map(str, covered))} values of a bottom {shape}",
    )


@layer("Pooling")
class Pooling(LayerType):
    """MAX, AVE or STOCHASTIC of windows over (N, C, H, W), or (N, C, D, H, W) as forks allow.

    The number of windows is rounded up unless `round_mode` is FLOOR (or a fork's `ceil_mode` is
    false); with padding a last window that would start behind the image is left out. With a second
    top MAX also gives the index h * W + w of each maximum. `kernel`, `stride`, `pad`, `dilation`
    have one value for each spatial axis; with `global_pooling` the kernel is the whole plane.
    """

    family = "pool"
    short_type = "Pool"
    tops = between(1, 2)
    in_place = False
    fields = owns(pooling_param=_FIELDS)
    compute = "caffeio.ops.pooling:pool"
    pure = True
    by_image = True
    fresh = True

    @classmethod
    def summary(cls, param: pb.LayerParameter) -> str:
        """Say `max 3x3 /2`."""
        p = param.pooling_param
        method = pb.PoolingParameter.PoolMethod.Name(p.pool).lower()
        words = ["global", method] if p.global_pooling else [method, *window_words(p)]
        if p.round_mode == pb.PoolingParameter.FLOOR:
            words.append("floor")
        return " ".join(words)

    def setup(self, shape: Shape) -> None:
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
        self._read_window(p, shape)
        self._check_window(shape)
        plain = self.method == "MAX" and not self.mask and len(shape) == 4 and known(shape)
        native = plain and self.window(shape).is_native(shape[2:])
        self.native_sizes = shape[2:] if native else None  # at which PyTorch's MAX is Caffe's

    def _read_window(self, p: pb.PoolingParameter, shape: Shape) -> None:
        axes = len(shape) - 2
        self.is_global = p.global_pooling
        suffix = "_3d" if p.kernel_size_3d and axes == 3 else ""
        if self.is_global:
            sized = p.kernel_size or p.HasField("kernel_h") or p.HasField("kernel_w")
            self.check(
                not sized,
                "no kernel may be given with global_pooling",
                field=f"{FIELD}.kernel_size",
            )
            self.kernel = shape[2:]
        else:
            self.kernel = self._per_axis("kernel_size" + suffix, axes, None)
        self.stride = self._per_axis("stride" + suffix, axes, 1)
        self.pad = self._per_axis("pad" + suffix, axes, 0)
        self.dilation = per_axis(self, p, "dilation", FIELD, axes, 1)
        for name in ("kernel", "stride", "dilation"):
            if not (self.is_global and name == "kernel"):
                check_positive(self, getattr(self, name), f"{FIELD}.{name}")
        self.ceil = p.round_mode == pb.PoolingParameter.CEIL and p.ceil_mode
        mkldnn = self.profile.pooling_average == "mkldnn" and any(self.pad)
        clip = any(self.pad) or (self.profile.pooling_clips_kernel_1 and 1 in self.kernel)
        self._window = Window(self.kernel, self.stride, self.pad, self.dilation, self.ceil, clip)
        self.divisor = ("full" if p.avg_include_pad else "real") if mkldnn else "bvlc"

    def _per_axis(self, name: str, axes: int, default: int | None) -> Ints:
        p = self.param.pooling_param
        several = len(getattr(p, name)) > 1 and axes == 2
        self.check(
            self.profile.pooling_lists or not several,
            "is one value in this Caffe; give _h and _w for two",
            field=f"{FIELD}.{name}",
        )
        return per_axis(self, p, name, FIELD, axes, default, both=not self.profile.pooling_lists)

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
            all(n > 0 for n in self._output(shape)),
            f"the kernel {self.kernel} is larger than the bottom {shape} with its pad {self.pad}",
            field=f"{FIELD}.kernel_size",
        )

    def _output(self, shape: Shape) -> Shape:
        if self.is_global and not known(shape):
            return (1,) * len(shape[2:])
        return self.window(shape).output(shape[2:])

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(N, C, spatial) -> (N, C, windows), twice with a mask."""
        check_reach(self, shape, self.window(shape))
        return ((*shape[:2], *self._output(shape)),) * (2 if self.mask else 1)

    def window(self, shape: Shape) -> Window:
        """The windows over a bottom of `shape`."""
        if not self.is_global:
            return self._window
        return replace(self._window, kernel=tuple(shape[2:]))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """Write global or windowed MaxPool and AveragePool with Caffe's windows."""
        from caffeio.layers.onnx.pooling import onnx_pool

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
class SPP(LayerType):
    """Pools (N, C, H, W) into 1, 4, 16, ... bins and joins the levels: (N, C * bins).

    Level l has kernel and stride ceil(size / 2^l) and pad (kernel * 2^l - size + 1) / 2. With one
    level the top keeps 4 axes.
    """

    family = "pool"
    in_place = False
    fields = owns(spp_param=("pyramid_height", "pool"))
    compute = "caffeio.ops.pooling:spatial_pyramid"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for a bottom without 4 axes, or too small for the pyramid."""
        p = self.param.spp_param
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

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(N, C, H, W) -> (N, C * bins of all levels); (N, C, 1, 1) with one level."""
        if self.levels == 1:
            return ((*shape[:2], 1, 1),)
        bins = sum(
            math.prod(self.window(level, shape).output(shape[2:])) for level in range(self.levels)
        )
        return ((shape[0], shape[1] * bins),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write the pooling of every level, flattened and joined."""
        from caffeio.layers.onnx.pooling import onnx_pool

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
