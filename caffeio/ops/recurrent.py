"""Recurrent layers: LSTM and RNN.

Sources: src/caffe/layers/recurrent_layer.cpp, lstm_layer.cpp, rnn_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from caffeio.ops.lstm_unit import unit_backward, unit_forward
from caffeio.ops.tracing import apply, is_exporting

if TYPE_CHECKING:
    from caffeio.layers.recurrent import LSTM, RNN, Recurrent


class _LSTMSequence(torch.autograd.Function):
    """T steps from inputs (T,N,4H), which hold W x + b: hidden states (T,N,H) and the last cell.

    The gradient of the recurrent weight is one matrix product over all steps. Initial states and
    the last cell state get and give no gradient: Caffe's do not cross batches.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        h: Tensor,
        c: Tensor,
        cont: Tensor,
        later: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        acts, conted, cells, hidden = [], [], [c], []
        transposed = weight.t()
        for x, keep in zip(inputs.unbind(0), cont.unsqueeze(-1).unbind(0), strict=True):
            conted.append(h * keep)
            a, c, h = unit_forward(torch.addmm(x, conted[-1], transposed), c, keep)
            acts.append(a)
            cells.append(c)
            hidden.append(h)
            if later is not None:
                transposed = later.t()
        ctx.own = later is not None
        ctx.save_for_backward(
            weight, weight if later is None else later, cont, *acts, *conted, *cells
        )
        last = c.clone()
        ctx.mark_non_differentiable(last)
        return torch.stack(hidden), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, later, cont, *saved = ctx.saved_tensors
        steps = len(cont)
        acts, conted, cells = saved[:steps], saved[steps : 2 * steps], saved[2 * steps :]
        grad_h = torch.zeros_like(cells[0])
        grad_c = torch.zeros_like(cells[0])
        by_step: list[Tensor] = []
        for t in reversed(range(steps)):
            grad_h = grad_h + grads[0][t]
            gates, grad_c = unit_backward(acts[t], cells[t], cells[t + 1], grad_c, grad_h)
            grad_h = (gates @ (later if t else weight)) * cont[t].unsqueeze(-1)
            by_step.append(gates)
        inputs = torch.stack(by_step[::-1])
        seen = 1 if ctx.own else steps  # the gradient of the steps' own memory is lost
        states = torch.cat(list(conted[:seen]))
        return inputs, inputs[:seen].flatten(0, 1).t() @ states, None, None, None, None


def initial(layer: Recurrent, x: Tensor, exposed: Sequence[Tensor]) -> list[Tensor]:
    """The states (N,H) to begin with: those of the bottoms, or those left by the last forward.

    As in Caffe, whose memory never shrinks, a batch with more streams than any before begins
    with zeros. So does every run of a program of torch.export, which keeps no states.
    """
    if layer.expose:
        return [state.detach().squeeze(0) for state in exposed]
    streams, out = x.shape[1], []
    for name in layer.states:
        old: Tensor | None = None if is_exporting() else getattr(layer, name)
        if old is None or old.shape[0] < streams or old.device != x.device:
            old = x.new_zeros(streams, layer.hidden)
            if not (x.is_meta or is_exporting()):
                setattr(layer, name, old)
        out.append(old[:streams].clone())
    return out


def finish(
    layer: Recurrent, outputs: Tensor, last: Sequence[Tensor]
) -> Tensor | tuple[Tensor, ...]:
    """Keep the last states, or return them as tops."""
    if layer.expose:
        return (outputs, *(state.detach().unsqueeze(0) for state in last))
    if not (outputs.is_meta or is_exporting()):
        for name, state in zip(layer.states, last, strict=True):
            getattr(layer, name)[: len(state)] = state.detach()
    return outputs


def check_steps(layer: Recurrent, bottoms: Sequence[Tensor]) -> None:
    """Raise when T, which is fixed, is another one, or a shape does not fit."""
    shapes = [tuple(b.shape) for b in bottoms]
    layer.check_shapes(shapes)
    layer.check(
        shapes[0][0] == layer.steps,
        f"the number of time steps is fixed: {layer.steps}, not {shapes[0][0]}",
    )


def project(layer: Recurrent, bottoms: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b for all steps at once, plus the static input's part (blob 2)."""
    out = linear(bottoms[0].flatten(2), weight, bias)
    if layer.static:
        out = out + linear(bottoms[2].flatten(1), layer.blobs[2])
    return out


def lstm(layer: LSTM, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the hidden states, and with expose_hidden the last hidden and cell state."""
    check_steps(layer, bottoms)
    inputs = project(layer, bottoms, layer.blobs[0], layer.blobs[1])
    h, c = initial(layer, bottoms[0], bottoms[2 + layer.static :])
    weight, later = layer.blobs[2 + layer.static], layer.later(2 + layer.static)
    outputs, last = apply(_LSTMSequence, inputs, weight, h, c, bottoms[1].detach(), later)
    return finish(layer, outputs, (outputs[-1], last))


def rnn(layer: RNN, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the outputs, and with expose_hidden the last hidden state."""
    check_steps(layer, bottoms)
    first = 2 + layer.static
    inputs = project(layer, bottoms, layer.blobs[0], layer.blobs[1])
    transposed = layer.blobs[first].t()
    cont = bottoms[1].detach().unsqueeze(-1)
    (h,) = initial(layer, bottoms[0], bottoms[first:])
    hidden = []
    for x, keep in zip(inputs.unbind(0), cont.unbind(0), strict=True):
        h = torch.addmm(x, h * keep, transposed).tanh()
        hidden.append(h)
        if layer.later(first) is not None:
            transposed = layer.later(first).t()
    outputs = _rnn_outputs(layer, torch.stack(hidden), first + 1).tanh()
    return finish(layer, outputs, (h,))


def _rnn_outputs(layer: RNN, hidden: Tensor, index: int) -> Tensor:
    """W_ho h + b_o, of which later steps may have their own."""
    own = [layer.later(index), layer.later(index + 1)]
    weights = [layer.blobs[index], layer.blobs[index + 1]]
    if own == [None, None]:
        return linear(hidden, *weights)
    rest = [blob if later is None else later for blob, later in zip(weights, own, strict=True)]
    return torch.cat([linear(hidden[:1], *weights), linear(hidden[1:], *rest)])
