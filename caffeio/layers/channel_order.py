"""ShuffleChannel and Reorg: values change places between channels and pixels.

Sources: shuffle_channel_layer.cpp (ShuffleNet), reorg_layer.cpp (Intel; darknet's order).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import Shape, owns
from caffeio.layers.map_layer import MapLayer
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("ShuffleChannel")
class ShuffleChannel(MapLayer):
    """Mixes `group` groups of channels: channel i of group g moves to place i * group + g."""

    fields = owns(shuffle_channel_param=None)
    compute = "caffeio.ops.channel_order:shuffle_channel"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check that the channels divide."""
        super().setup(*shapes)
        self.group: int = self.param.shuffle_channel_param.group
        self.check(
            self.group > 0 and shapes[0][1] % self.group == 0,
            f"{shapes[0][1]} channels do not divide into {self.group} groups",
            field="shuffle_channel_param.group",
        )

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Reshape, Transpose, Reshape."""
        _, c, h, w = g.shape(bottoms[0])
        if g.dynamic_size:
            grouped = g.reshape(bottoms[0], 0, self.group, c // self.group, -1)
            mixed = g.op("Transpose", [grouped], perm=(0, 2, 1, 3))
            return str(g.op("Reshape", [mixed, g.op("Shape", bottoms)]))
        grouped = g.reshape(bottoms[0], 0, self.group, c // self.group, h, w)
        return g.reshape(g.op("Transpose", [grouped], perm=(0, 2, 1, 3, 4)), 0, c, h, w)


@layer("Reorg")
class Reorg(MapLayer):
    """Makes (N, C s^2, H/s, W/s) of (N,C,H,W) as darknet does, or (N, C/s^2, H s, W s) (reverse).

    darknet reads the bottom's memory as (N, C/s^2, H s, W s), so C must divide by s^2 both ways.
    The gradient is the derivative (Intel's code passes back a buffer that nobody writes).
    """

    family = "pool"
    fields = owns(reorg_param=None)
    compute = "caffeio.ops.channel_order:reorg"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check that the sizes divide."""
        super().setup(*shapes)
        param = self.param.reorg_param
        self.stride: int = param.stride
        self.reverse: bool = param.reverse
        self.check(self.stride > 0, "must be set, and positive", field="reorg_param.stride")
        _, channels, height, width = shapes[0]
        s = self.stride
        fit = channels % (s * s) == 0
        if not self.reverse:
            fit = fit and height % s == 0 and width % s == 0
        self.check(
            fit,
            f"a bottom of {caffe_shape(shapes[0])} does not divide by stride {s}",
            field="reorg_param.stride",
        )

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Move a factor s^2 between channels and pixels."""
        n, c, h, w = shape
        s = self.stride
        if self.reverse:
            return ((n, c // (s * s), h * s, w * s),)
        return ((n, c * s * s, h // s, w // s),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Reshape, Transpose, Reshape."""
        _, c, h, w = g.shape(bottoms[0])
        s = self.stride
        if self.reverse:
            x = g.reshape(bottoms[0], 0, s, s, c // (s * s), h, w)
            x = g.op("Transpose", [x], perm=(0, 3, 4, 1, 5, 2))
            return g.reshape(x, 0, c // (s * s), h * s, w * s)
        x = g.reshape(bottoms[0], 0, c // (s * s), h, s, w, s)
        x = g.op("Transpose", [x], perm=(0, 3, 5, 1, 2, 4))
        return g.reshape(x, 0, c * s * s, h // s, w // s)
