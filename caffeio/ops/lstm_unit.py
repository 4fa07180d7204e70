"""One step of an LSTM: the arithmetic, and LSTMUnit, the layer.

Sources: src/caffe/layers/lstm_unit_layer.cpp; Hochreiter & Schmidhuber 1997. Caffe's gates are in
the order input, forget, output, cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.ops.tracing import apply

if TYPE_CHECKING:
    from caffeio.layers.lstm_unit import LSTMUnit


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


def lstm_unit(layer: LSTMUnit, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell and the hidden state."""
    c_prev, gates, cont = bottoms
    state: tuple[Tensor, Tensor] = apply(_Unit, c_prev, gates, cont.detach().unsqueeze(-1))
    return state
