"""Recurrent layers: LSTM and RNN.

Sources: src/caffe/layers/recurrent_layer.cpp, lstm_layer.cpp, rnn_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffeio.layers.base import LayerType, Shape, between, owns
from caffeio.layers.lstm_unit import onnx_unit
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


class Recurrent(LayerType):
    """What LSTM and RNN share: bottoms, the weights of the input, and the state.

    Bottoms: x (T,N,...), cont (T,N), optional static input (N,...), and with expose_hidden the
    initial states (1,N,H). Tops: the outputs (T,N,H) and, with expose_hidden, the last states.

    Without expose_hidden the last state of a forward is the first one of the next (`reset_state`
    makes it zero). States are not saved with the weights. Gradients never go to cont, to the
    initial states, or through the last states.
    """

    has_blobs = True
    takes_blobs = False
    bottoms = between(2, 5)
    tops = between(1, 3)
    in_place = False
    fields = owns(
        recurrent_param=(
            "num_output", "weight_filler", "bias_filler", "debug_info", "expose_hidden",
            "expose_hidden_state",
        )
    )  # fmt: skip
    label_bottoms = frozenset({1})
    unforced_bottoms = frozenset({1})
    learns_all = True
    heeds_propagate_down = False
    states: ClassVar[tuple[str, ...]] = ("h",)

    def setup(self, *shapes: Shape) -> None:
        """Check the shapes and declare the blobs."""
        param = self.param.recurrent_param
        self.hidden: int = param.num_output
        self.check(self.hidden > 0, "must be positive", field="recurrent_param.num_output")
        self.expose: bool = param.expose_hidden or param.expose_hidden_state
        extra = len(self.states) if self.expose else 0
        self.check(
            len(shapes) - extra in (2, 3),
            f"takes {2 + extra} bottoms, or {3 + extra} with a static input, not {len(shapes)}",
        )
        tops = max(1, len(self.context.top_names))
        self.check(tops == 1 + extra, f"produces {1 + extra} tops, not {tops}")
        self.static = len(shapes) - extra == 3
        self.check_shapes(shapes)
        self.steps = shapes[0][0]
        self._declare(prod(shapes[0][2:]), prod(shapes[2][1:]) if self.static else 0)
        for name in self.states:
            self.add_buffer(name, None)
        for i in range(2, len(self.blob_specs)):
            self.add_buffer(f"later_{i}", None)

    def check_shapes(self, shapes: Sequence[Shape]) -> None:
        """Raise LayerError unless the bottoms' shapes fit each other."""
        x, cont = shapes[:2]
        self.check(
            len(x) >= 3 and cont == x[:2],
            f"bottoms 0 and 1 must be (T, N, ...) and (T, N), not {caffe_shape(x)} and "
            f"{caffe_shape(cont)}",
        )
        if self.static:
            self.check(
                len(shapes[2]) >= 2 and shapes[2][0] == x[1],
                f"bottom 2, the static input, must be ({x[1]}, ...), not {caffe_shape(shapes[2])}",
            )
        for i, shape in enumerate(shapes[2 + self.static :], 2 + self.static):
            self.check(
                shape == (1, x[1], self.hidden),
                f"bottom {i}, an initial state, must be (1, {x[1]}, {self.hidden}), not "
                f"{caffe_shape(shape)}",
            )

    def _declare(self, inputs: int, static: int) -> None:
        raise NotImplementedError

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give the outputs (T, N, H) and, with expose_hidden, the last states (1, N, H)."""
        steps, streams = bottoms[0][:2]
        states = len(self.states) if self.expose else 0
        return ((steps, streams, self.hidden), *[(1, streams, self.hidden)] * states)

    def later(self, index: int) -> Any:
        """Blob `index` as the steps after the first read it, None if it is the blob itself.

        In a TRAIN net the unrolled net's later steps keep the memory that the blob had before it
        was shared with another layer: the layer's own fillers' values, which nothing trains.
        """
        return getattr(self, f"later_{index}", None)

    def reset_state(self) -> None:
        """Let the next forward begin with states that are zero (RecurrentLayer::Reset)."""
        for name in self.states:
            setattr(self, name, None)

    def onnx_project(self, g: OnnxGraph, bottoms: Sequence[str]) -> list[str]:
        """`project` in ONNX, one value (N, rows) for each step."""
        if g.dynamic_batch:
            raise g.unsupported("axis 0 is time, which is unrolled: its size is fixed")
        rows = self.blob_specs[1].shape[0]
        x = g.reshape(bottoms[0], 0, 0, self.blob_specs[0].shape[1])
        weight = g.op("Transpose", [g.param(self, 0)], perm=(1, 0))
        out = g.op("Add", [g.op("MatMul", [x, weight]), g.param(self, 1)])
        if self.static:
            flat = g.reshape(bottoms[2], 0, self.blob_specs[2].shape[1])
            out = g.op("Add", [out, g.op("Gemm", [flat, g.param(self, 2)], transB=1)])
        return self.onnx_steps(g, out, (-1, rows))

    def onnx_steps(self, g: OnnxGraph, x: str, shape: Sequence[int]) -> list[str]:
        """The parts of `x` along axis 0, each in `shape`."""
        if self.steps == 1:
            return [g.reshape(x, *shape)]
        sizes = g.ints((1,) * self.steps, "sizes")
        parts = g.op("Split", [x, sizes], outputs=self.steps, axis=0)
        return [g.reshape(part, *shape) for part in parts]

    def onnx_initial(self, g: OnnxGraph, exposed: Sequence[str]) -> list[str]:
        """The states (N,H) to begin with: those of the bottoms, else zeros."""
        if self.expose:
            return [g.reshape(state, -1, self.hidden) for state in exposed]
        import numpy as np

        zeros = np.zeros((self.bottom_shapes[0][1], self.hidden))
        return [g.const(zeros, name) for name in self.states]

    def onnx_finish(
        self, g: OnnxGraph, steps: Sequence[str], last: Sequence[str]
    ) -> tuple[str, ...]:
        """The outputs (T,N,H) of all steps and, with expose_hidden, the last states."""
        axes = g.ints((0,), "axes")
        rows = [g.op("Unsqueeze", [step, axes]) for step in steps]
        tops = [g.op("Concat", rows, axis=0) if len(rows) > 1 else rows[0]]
        if self.expose:
            tops += [g.op("Unsqueeze", [state, axes]) for state in last]
        return tuple(tops)


@layer("LSTM")
class LSTM(Recurrent):
    """LSTM over (T,N,I); blobs: W_xc (4H,I), b_c (4H), [W_xc_static (4H,S)], W_hc (4H,H).

    Gates are in the order input, forget, output, cell. Exposed states: hidden, cell.
    """

    family = "conv"
    states = ("h", "c")
    compute = "caffeio.ops.recurrent:lstm"

    def _declare(self, inputs: int, static: int) -> None:
        param, rows = self.param.recurrent_param, 4 * self.hidden
        self.add_blob("W_xc", (rows, inputs), param.weight_filler)
        self.add_blob("b_c", (rows,), param.bias_filler)
        if static:
            self.add_blob("W_xc_static", (rows, static), param.weight_filler)
        self.add_blob("W_hc", (rows, self.hidden), param.weight_filler)
        # every step of the unrolled net fills weights of its own before they are shared
        self.filled_again = (2 + bool(static),) * (self.steps - 1)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write LSTM if `cont` is constant, else all steps in a row; states begin as zeros."""
        from caffeio.layers.onnx.recurrent import is_native, onnx_native

        if is_native(self, g, bottoms):
            found = onnx_native(self, g, "LSTM", bottoms, (0, 2, 1, 3))
            return found if self.expose else found[:1]
        keeps = self.onnx_steps(g, bottoms[1], (-1, 1))
        recurrent = g.param(self, 2 + self.static)
        h, c = self.onnx_initial(g, bottoms[2 + self.static :])
        hidden = []
        for x, keep in zip(self.onnx_project(g, bottoms), keeps, strict=True):
            gates = g.op("Gemm", [g.op("Mul", [h, keep]), recurrent, x], transB=1)
            c, h = onnx_unit(g, gates, c, keep, self.hidden)
            hidden.append(h)
        return self.onnx_finish(g, hidden, (h, c))

    def macs(self) -> int:
        """Multiply-accumulates of the matrix products."""
        steps, streams = self.bottom_shapes[1]
        sizes = [prod(spec.shape) for spec in self.blob_specs]
        static = sizes[2] if self.static else 0
        once: int = sizes[0] + sizes[2 + self.static]
        return streams * (steps * once + static)


@layer("RNN")
class RNN(Recurrent):
    """h_t = tanh(W_hh (cont_t h_{t-1}) + W_xh x_t + b_h [+ static]), o_t = tanh(W_ho h_t + b_o).

    Blobs: W_xh (H,I), b_h (H), [W_xh_static (H,S)], W_hh (H,H), W_ho (H,H), b_o (H). Top: o.
    """

    family = "conv"
    compute = "caffeio.ops.recurrent:rnn"

    def _declare(self, inputs: int, static: int) -> None:
        param, rows = self.param.recurrent_param, self.hidden
        self.add_blob("W_xh", (rows, inputs), param.weight_filler)
        self.add_blob("b_h", (rows,), param.bias_filler)
        if static:
            self.add_blob("W_xh_static", (rows, static), param.weight_filler)
        self.add_blob("W_hh", (rows, rows), param.weight_filler)
        self.add_blob("W_ho", (rows, rows), param.weight_filler)
        self.add_blob("b_o", (rows,), param.bias_filler)
        first = 2 + bool(static)
        self.filled_again = (first, first + 1, first + 2) * (self.steps - 1)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write RNN if `cont` is constant, else all steps in a row; states begin as zeros."""
        from caffeio.layers.onnx.recurrent import is_native, onnx_native

        if is_native(self, g, bottoms):
            h, *last = onnx_native(self, g, "RNN", bottoms, (0,))
            weight = g.op("Transpose", [g.param(self, 3)], perm=(1, 0))
            out = g.op("Add", [g.op("MatMul", [h, weight]), g.param(self, 4)])
            return (str(g.op("Tanh", [out])), *(last if self.expose else ()))
        first = 2 + self.static
        keeps = self.onnx_steps(g, bottoms[1], (-1, 1))
        blobs = [g.param(self, i) for i in range(first, first + 3)]
        (h,) = self.onnx_initial(g, bottoms[first:])
        outputs = []
        for x, keep in zip(self.onnx_project(g, bottoms), keeps, strict=True):
            h = g.op("Tanh", [g.op("Gemm", [g.op("Mul", [h, keep]), blobs[0], x], transB=1)])
            outputs.append(g.op("Tanh", [g.op("Gemm", [h, *blobs[1:]], transB=1)]))
        return self.onnx_finish(g, outputs, (h,))

    def macs(self) -> int:
        """Multiply-accumulates of the matrix products."""
        steps, streams = self.bottom_shapes[1]
        first = 2 + self.static
        sizes = [prod(spec.shape) for spec in self.blob_specs]
        static = sizes[2] if self.static else 0
        once: int = sizes[0] + sizes[first] + sizes[first + 1]
        return streams * (steps * once + static)
