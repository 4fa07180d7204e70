"""One step of an LSTM: the arithmetic, and LSTMUnit, the layer.

Sources: src/caffe/layers/lstm_unit_layer.cpp; Hochreiter & Schmidhuber 1997. Caffe's gates are in
the order input, forget, output, cell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, Shape, exactly, layer
from caffeio.layers.labels import text
from caffeio.layers.onnx.graph import OnnxGraph


def unit_forward(gates: Tensor, c_prev: Tensor, cont: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM step: activations (N,4H), cell and hidden state (N,H) of gates before activation.

    `cont` (N,1) is 0 where a sequence begins; the forget gate's activation contains it.
    """
    hidden = c_prev.shape[-1]
    acts = gates.clone()
    acts[..., : 3 * hidden].sigmoid_()
    acts[..., 3 * hidden :].tanh_()
    i, f, o, g = torch.split(acts, hidden, -1)
    f.mul_(cont)
    c = torch.addcmul(i * g, f, c_prev)
    return acts, c, o * c.tanh()


def onnx_unit(g: OnnxGraph, gates: str, c_prev: str, cont: str, hidden: int) -> tuple[str, str]:
    """`unit_forward` in ONNX: cell and hidden state of values by name."""
    sizes = g.ints((3 * hidden, hidden), "sizes")
    soft, cell = g.op("Split", [gates, sizes], outputs=2, axis=-1)
    thirds = g.ints((hidden,) * 3, "sizes")
    i, f, o = g.op("Split", [g.op("Sigmoid", [soft]), thirds], outputs=3, axis=-1)
    kept = g.op("Mul", [g.op("Mul", [f, cont]), c_prev])
    c = g.op("Add", [g.op("Mul", [i, g.op("Tanh", [cell])]), kept])
    return c, g.op("Mul", [o, g.op("Tanh", [c])])


def unit_backward(
    acts: Tensor, c_prev: Tensor, c: Tensor, grad_c: Tensor, grad_h: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the gates (before activation) and of the previous cell state.

    The forget gate's is f (1 - f) with `cont` inside f, as Caffe has it: not the derivative when
    cont is neither 0 nor 1.
    """
    i, f, o, g = torch.split(acts, c.shape[-1], -1)
    tanh_c = c.tanh()
    cell = torch.addcmul(grad_c, grad_h * o, 1 - tanh_c * tanh_c)
    by_output = torch.cat([cell * g, cell * c_prev, grad_h * tanh_c, cell * i], -1)
    slope = acts - acts * acts
    slope[..., 3 * c.shape[-1] :] = 1 - g * g
    return by_output * slope, cell * f


class _Unit(torch.autograd.Function):
    """`unit_forward` as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, c_prev: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        acts, c, h = unit_forward(gates, c_prev, cont)
        ctx.save_for_backward(acts, c_prev, c)
        return c, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        acts, c_prev, c = ctx.saved_tensors
        grad_gates, grad_c = unit_backward(acts, c_prev, c, grads[0], grads[1])
        return grad_c, grad_gates, None


@layer("LSTMUnit")
class LSTMUnit(Layer):
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

    def setup(self, *shapes: Shape) -> None:
        """Check the shapes."""
        c, gates, cont = shapes
        fit = len(c) == 3 and c[0] == 1 and gates == (1, c[1], 4 * c[2]) and cont == c[:2]
        self.check(
            fit,
            "bottoms must be c (1, N, H), gates (1, N, 4 H) and cont (1, N), not "
            + ", ".join(text(shape) for shape in shapes),
        )

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cell and the hidden state."""
        c_prev, gates, cont = bottoms
        return _Unit.apply(  # type: ignore[no-any-return,no-untyped-call]
            c_prev, gates, cont.detach().unsqueeze(-1)
        )

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, str]:
        """Sigmoid, Tanh, Mul and Add."""
        c_prev, gates, cont = bottoms
        keep = g.op("Unsqueeze", [cont, g.ints((2,), "axes")])
        return onnx_unit(g, gates, c_prev, keep, g.shape(c_prev)[-1])
