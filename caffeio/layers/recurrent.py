"""Recurrent layers: LSTM and RNN.

Sources: src/caffe/layers/recurrent_layer.cpp, lstm_layer.cpp, rnn_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from caffeio.layers.base import Layer, Shape, between, layer
from caffeio.layers.labels import text
from caffeio.layers.lstm_unit import onnx_unit, unit_backward, unit_forward
from caffeio.layers.onnx.graph import OnnxGraph


class _LSTMSequence(torch.autograd.Function):
    """T steps from inputs (T,N,4H), which hold W x + b: hidden states (T,N,H) and the last cell.

    The gradient of the recurrent weight is one matrix product over all steps. Initial states and
    the last cell state get and give no gradient: Caffe's do not cross batches.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, h: Tensor, c: Tensor, cont: Tensor
    ) -> tuple[Tensor, Tensor]:
        acts, conted, cells, hidden = [], [], [c], []
        transposed = weight.t()
        for x, keep in zip(inputs.unbind(0), cont.unsqueeze(-1).unbind(0), strict=True):
            conted.append(h * keep)
            a, c, h = unit_forward(torch.addmm(x, conted[-1], transposed), c, keep)
            acts.append(a)
            cells.append(c)
            hidden.append(h)
        ctx.save_for_backward(weight, cont, *acts, *conted, *cells)
        last = c.clone()
        ctx.mark_non_differentiable(last)
        return torch.stack(hidden), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, cont, *saved = ctx.saved_tensors
        steps = len(cont)
        acts, conted, cells = saved[:steps], saved[steps : 2 * steps], saved[2 * steps :]
        grad_h = torch.zeros_like(cells[0])
        grad_c = torch.zeros_like(cells[0])
        by_step: list[Tensor] = []
        for t in reversed(range(steps)):
            grad_h = grad_h + grads[0][t]
            gates, grad_c = unit_backward(acts[t], cells[t], cells[t + 1], grad_c, grad_h)
            grad_h = (gates @ weight) * cont[t].unsqueeze(-1)
            by_step.append(gates)
        inputs = torch.stack(by_step[::-1])
        states = torch.cat(list(conted))
        return inputs, inputs.flatten(0, 1).t() @ states, None, None, None


class Recurrent(Layer):
    """What LSTM and RNN share: bottoms, the weights of the input, and the state.

    Bottoms: x (T,N,...), cont (T,N), optional static input (N,...), and with expose_hidden the
    initial states (1,N,H). Tops: the outputs (T,N,H) and, with expose_hidden, the last states.

    Without expose_hidden the last state of a forward is the first one of the next (`reset_state`
    makes it zero). States are not saved with the weights. Gradients never go to cont, to the
    initial states, or through the last states.
    """

    bottoms = between(2, 5)
    tops = between(1, 3)
    in_place = False
    label_bottoms = frozenset({1})
    unforced_bottoms = frozenset({1})
    learns_all = True
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
        self._check_shapes(shapes)
        self.steps = shapes[0][0]
        self._declare(prod(shapes[0][2:]), prod(shapes[2][1:]) if self.static else 0)
        for name in self.states:
            self.register_buffer(name, None, persistent=False)

    def _check_shapes(self, shapes: Sequence[Shape]) -> None:
        x, cont = shapes[:2]
        self.check(
            len(x) >= 3 and cont == x[:2],
            f"bottoms 0 and 1 must be (T, N, ...) and (T, N), not {text(x)} and {text(cont)}",
        )
        if self.static:
            self.check(
                len(shapes[2]) >= 2 and shapes[2][0] == x[1],
                f"bottom 2, the static input, must be ({x[1]}, ...), not {text(shapes[2])}",
            )
        for i, shape in enumerate(shapes[2 + self.static :], 2 + self.static):
            self.check(
                shape == (1, x[1], self.hidden),
                f"bottom {i}, an initial state, must be (1, {x[1]}, {self.hidden}), not "
                f"{text(shape)}",
            )

    def _declare(self, inputs: int, static: int) -> None:
        raise NotImplementedError

    def reset_state(self) -> None:
        """Let the next forward begin with states that are zero (RecurrentLayer::Reset)."""
        for name in self.states:
            setattr(self, name, None)

    def initial(self, x: Tensor, exposed: Sequence[Tensor]) -> list[Tensor]:
        """The states (N,H) to begin with: those of the bottoms, or those left by the last forward.

        As in Caffe, whose memory never shrinks, a batch with more streams than any before begins
        with zeros.
        """
        if self.expose:
            return [state.detach().squeeze(0) for state in exposed]
        streams, out = x.shape[1], []
        for name in self.states:
            old: Tensor | None = getattr(self, name)
            if old is None or old.shape[0] < streams or old.device != x.device:
                old = x.new_zeros(streams, self.hidden)
                if not x.is_meta:
                    setattr(self, name, old)
            out.append(old[:streams].clone())
        return out

    def finish(self, outputs: Tensor, last: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Keep the last states, or return them as tops."""
        if self.expose:
            return (outputs, *(state.detach().unsqueeze(0) for state in last))
        if not outputs.is_meta:
            for name, state in zip(self.states, last, strict=True):
                getattr(self, name)[: len(state)] = state.detach()
        return outputs

    def check_steps(self, bottoms: Sequence[Tensor]) -> None:
        """Raise when T, which is fixed, is another one, or a shape does not fit."""
        shapes = [tuple(b.shape) for b in bottoms]
        self._check_shapes(shapes)
        self.check(
            shapes[0][0] == self.steps,
            f"the number of time steps is fixed: {self.steps}, not {shapes[0][0]}",
        )

    def project(self, bottoms: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """W x + b for all steps at once, plus the static input's part (blob 2)."""
        out = linear(bottoms[0].flatten(2), weight, bias)
        if self.static:
            out = out + linear(bottoms[2].flatten(1), self.blobs[2])
        return out

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

    states = ("h", "c")

    def _declare(self, inputs: int, static: int) -> None:
        param, rows = self.param.recurrent_param, 4 * self.hidden
        self.add_blob("W_xc", (rows, inputs), param.weight_filler)
        self.add_blob("b_c", (rows,), param.bias_filler)
        if static:
            self.add_blob("W_xc_static", (rows, static), param.weight_filler)
        self.add_blob("W_hc", (rows, self.hidden), param.weight_filler)
        # every step of the unrolled net fills weights of its own before they are shared
        self.filled_again = (2 + bool(static),) * (self.steps - 1)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the hidden states, and with expose_hidden the last hidden and cell state."""
        self.check_steps(bottoms)
        inputs = self.project(bottoms, self.blobs[0], self.blobs[1])
        h, c = self.initial(bottoms[0], bottoms[2 + self.static :])
        outputs, last = _LSTMSequence.apply(  # type: ignore[no-untyped-call]
            inputs, self.blobs[2 + self.static], h, c, bottoms[1].detach()
        )
        return self.finish(outputs, (outputs[-1], last))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """All steps one after the other: ONNX's LSTM knows no `cont`. States begin as zeros."""
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
        sizes = [blob.numel() for blob in self.blobs]
        static = sizes[2] if self.static else 0
        once: int = sizes[0] + sizes[2 + self.static]
        return streams * (steps * once + static)


@layer("RNN")
class RNN(Recurrent):
    """h_t = tanh(W_hh (cont_t h_{t-1}) + W_xh x_t + b_h [+ static]), o_t = tanh(W_ho h_t + b_o).

    Blobs: W_xh (H,I), b_h (H), [W_xh_static (H,S)], W_hh (H,H), W_ho (H,H), b_o (H). Top: o.
    """

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

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs, and with expose_hidden the last hidden state."""
        self.check_steps(bottoms)
        first = 2 + self.static
        inputs = self.project(bottoms, self.blobs[0], self.blobs[1])
        transposed = self.blobs[first].t()
        cont = bottoms[1].detach().unsqueeze(-1)
        (h,) = self.initial(bottoms[0], bottoms[first:])
        hidden = []
        for x, keep in zip(inputs.unbind(0), cont.unbind(0), strict=True):
            h = torch.addmm(x, h * keep, transposed).tanh()
            hidden.append(h)
        outputs = linear(torch.stack(hidden), self.blobs[first + 1], self.blobs[first + 2]).tanh()
        return self.finish(outputs, (h,))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """All steps one after the other; the state begins as zeros."""
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
        sizes = [blob.numel() for blob in self.blobs]
        static = sizes[2] if self.static else 0
        once: int = sizes[0] + sizes[first] + sizes[first + 1]
        return streams * (steps * once + static)
