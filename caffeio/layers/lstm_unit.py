"""One step of an LSTM: the arithmetic, and LSTMUnit, the layer.

Sources: src/caffe/layers/lstm_unit_layer.cpp; Hochreiter & Schmidhuber 1997. Caffe's gates are in
the order input, forget, output, cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, exactly
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


def onnx_unit(g: OnnxGraph, gates: str, c_prev: str, cont: str, hidden: int) -> tuple[str, str]:
    """`unit_forward` in ONNX: cell and hidden state of values by name."""
    sizes = g.ints((3 * hidden, hidden), "sizes")
    soft, cell = g.op("Split", [gates, sizes], outputs=2, axis=-1)
    thirds = g.ints((hidden,) * 3, "sizes")
    i, f, o = g.op("Split", [g.op("Sigmoid", [soft]), thirds], outputs=3, axis=-1)
    kept = g.op("Mul", [g.op("Mul", [f, cont]), c_prev])
    c = g.op("Add", [g.op("Mul", [i, g.op("Tanh", [cell])]), kept])
    return c, g.op("Mul", [o, g.op("Tanh", [c])])


@layer("LSTMUnit")
class LSTMUnit(LayerType):
    """One step of an LSTM: c = cont f c_prev + i g, h = o tanh(c).

    Bottoms: c_prev (1,N,H), gates (1,N,4H) in the order i, f, o, g, cont (1,N). Tops: c, h.
    """

    bottoms = exactly(3)
    tops = exactly(2)
    in_place = False
    reads_top = True
    reads_bottoms = None
    backward = "caffeio.ops.backward:LSTMUnit"
    label_bottoms = frozenset({2})
    unforced_bottoms = frozenset({2})
    compute = "caffeio.ops.lstm_unit:lstm_unit"

    def setup(self, *shapes: Shape) -> None:
        """Check the shapes."""
        c, gates, cont = shapes
        fit = len(c) == 3 and c[0] == 1 and gates == (1, c[1], 4 * c[2]) and cont == c[:2]
        self.check(
            fit,
            "bottoms must be c (1, N, H), gates (1, N, 4 H) and cont (1, N), not "
            + ", ".join(caffe_shape(shape) for shape in shapes),
        )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give both tops the shape of c."""
        return bottoms[0], bottoms[0]

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, str]:
        """Write Sigmoid, Tanh, Mul and Add."""
        c_prev, gates, cont = bottoms
        keep = g.op("Unsqueeze", [cont, g.ints((2,), "axes")])
        return onnx_unit(g, gates, c_prev, keep, g.shape(c_prev)[-1])
