from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from caffeio.errors import LayerError
from caffeio.net import load_net
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.build import COMPILE_WARNING, build, check_compiled, meta_shapes, run

T, N, D, S, H = 4, 3, 2, 5, 3


@pytest.mark.parametrize("case", layer_cases("LSTM", "RNN", "LSTMUnit"))
def test_golden(case):
    check_case(case)


def text(kind: str, **fields: object) -> str:
    rest = " ".join(f"{key}: {str(value).lower()}" for key, value in fields.items())
    return f'type: "{kind}" recurrent_param {{ num_output: {H} {rest} }}'


def make(kind, *, static=False, expose=False, steps=T, streams=N):
    states = 2 if kind == "LSTM" else 1
    shapes = [(steps, streams, D), (steps, streams)]
    shapes += [(streams, S)] * static + [(1, streams, H)] * (states if expose else 0)
    tops = 1 + (states if expose else 0)
    return build(text(kind, expose_hidden=expose), *shapes, tops=tops), shapes


def bottoms_of(shapes, seed=0):
    torch.manual_seed(seed)
    bottoms = [torch.randn(shape) for shape in shapes]
    bottoms[1] = (torch.rand(shapes[1]) > 0.4).float()
    return bottoms


def lstm(blobs, x, cont, static, h, c):
    """The equations, one stream and step after the other, in float64."""
    w, b, *rest = blobs
    outputs = []
    for t in range(len(x)):
        gates = x[t] @ w.T + b + (cont[t][:, None] * h) @ rest[-1].T
        if static is not None:
            gates = gates + static @ rest[0].T
        i, f, o = (gates[:, k * H : (k + 1) * H].sigmoid() for k in range(3))
        g = gates[:, 3 * H :].tanh()
        c = cont[t][:, None] * f * c + i * g
        h = o * c.tanh()
        outputs.append(h)
    return torch.stack(outputs), h, c


def rnn(blobs, x, cont, static, h):
    w, b, *rest = blobs
    outputs = []
    for t in range(len(x)):
        inner = x[t] @ w.T + b + (cont[t][:, None] * h) @ rest[-3].T
        if static is not None:
            inner = inner + static @ rest[0].T
        h = inner.tanh()
        outputs.append((h @ rest[-2].T + rest[-1]).tanh())
    return torch.stack(outputs), h


def reference(kind, layer, bottoms, static, states=None):
    """Outputs and gradients for a random gradient of the first top."""
    blobs = [blob.detach().double().requires_grad_() for blob in layer.blobs]
    x = bottoms[0].double().requires_grad_()
    fixed = bottoms[2].double().requires_grad_() if static else None
    zeros = [torch.zeros(bottoms[0].shape[1], H, dtype=torch.float64)] * (
        2 if kind == "LSTM" else 1
    )
    states = zeros if states is None else [s.double().squeeze(0) for s in states]
    out, *last = (lstm if kind == "LSTM" else rnn)(blobs, x, bottoms[1].double(), fixed, *states)
    leaves = [x, *([fixed] if static else []), *blobs]
    return out, last, leaves


@pytest.mark.parametrize("expose", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_equations(kind, static, expose):
    layer, shapes = make(kind, static=static, expose=expose)
    bottoms = [b.requires_grad_(i != 1) for i, b in enumerate(bottoms_of(shapes))]
    states = bottoms[2 + static :] if expose else None
    tops = run(layer, *bottoms)
    detached = [b.detach() for b in bottoms]
    out, last, leaves = reference(
        kind, layer, detached, static, None if states is None else detached[2 + static :]
    )
    assert_close(tops[0], out.detach(), "outputs")
    direction = torch.randn(tops[0].shape)
    mine = [bottoms[0], *([bottoms[2]] if static else []), *layer.blobs]
    grads = torch.autograd.grad(tops[0], mine, direction)
    expected = torch.autograd.grad(out, leaves, direction.double())
    for i, (a, b) in enumerate(zip(grads, expected, strict=True)):
        assert_close(a, b, f"gradient {i}")
    if states is not None:
        for top, value in zip(tops[1:], last, strict=True):
            assert_close(top, value.detach().unsqueeze(0), "last state")
            assert not top.requires_grad  # Caffe passes no gradient back through it
        assert torch.autograd.grad(run(layer, *bottoms)[0].sum(), states, allow_unused=True) == (
            (None,) * len(states)
        )


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_state_goes_on(kind):
    """Two halves give what the whole gives; the gradient stays in its half."""
    whole, shapes = make(kind)
    half, _ = make(kind, steps=T // 2)
    half.load_state_dict(whole.state_dict())
    bottoms = bottoms_of(shapes)
    expected = whole(*bottoms)
    parts = [half(*(b[i : i + T // 2] for b in bottoms)) for i in (0, T // 2)]
    torch.testing.assert_close(torch.cat(parts), expected)
    parts[1].sum().backward()  # no graph of the first half is needed
    half.reset_state()
    assert torch.equal(half(*(b[: T // 2] for b in bottoms)), parts[0])


def test_state_is_neither_saved_nor_learned():
    layer, shapes = make("LSTM")
    layer(*bottoms_of(shapes))
    assert layer.h.abs().max() > 0
    assert sorted(layer.state_dict()) == ["W_hc", "W_xc", "b_c"]
    assert not layer.h.requires_grad and layer.h.grad_fn is None


def test_number_of_streams_may_change():
    """Caffe's memory of a state grows to zeros, and keeps what lies behind a smaller batch."""
    layer, _ = make("RNN")
    assert layer.h is None

    def step(streams: int) -> Tensor:
        return layer(torch.ones(T, streams, D), torch.ones(T, streams))

    one = step(2)
    assert not torch.equal(step(2), one)
    step(3)  # more than ever: begins with zeros
    fresh, _ = make("RNN")
    fresh.load_state_dict(layer.state_dict())
    fresh(torch.ones(T, 3, D), torch.ones(T, 3))
    assert torch.equal(layer.h, fresh.h)
    three = layer.h.clone()
    step(1)
    assert layer.h.shape == (3, H)
    assert torch.equal(layer.h[1:], three[1:]) and not torch.equal(layer.h[0], three[0])


def test_states_of_a_net_are_reset():
    net = load_net("""
    layer { name: "in" type: "Input" top: "x" top: "cont"
            input_param { shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 } } }
    layer { name: "l" type: "LSTM" bottom: "x" bottom: "cont" top: "y" recurrent_param {
            num_output: 2 weight_filler { type: "uniform" min: -1 max: 1 } } }
    """)
    inputs = {"x": torch.randn(2, 1, 3), "cont": torch.ones(2, 1)}
    first = net(inputs)["y"]
    assert not torch.equal(net(inputs)["y"], first)
    net.reset_state()
    assert torch.equal(net(inputs)["y"], first)


def unit_by_hand(c_prev, gates, cont, grad_c, grad_h):
    """Caffe's LSTMUnit, element by element; returns c, h, gradients of c_prev and gates."""
    c, h = np.empty((N, H)), np.empty((N, H))
    grads, grad_gates = np.empty((N, H)), np.empty((N, 4 * H))
    for n in range(N):
        for d in range(H):
            i, f, o = (1 / (1 + np.exp(-gates[n, k * H + d])) for k in range(3))
            g = np.tanh(gates[n, 3 * H + d])
            f = f * cont[n]
            c[n, d] = f * c_prev[n, d] + i * g
            tanh_c = np.tanh(c[n, d])
            h[n, d] = o * tanh_c
            cell = grad_c[n, d] + grad_h[n, d] * o * (1 - tanh_c**2)
            grads[n, d] = cell * f
            for k, value in enumerate(
                (
                    cell * g * i * (1 - i),
                    cell * c_prev[n, d] * f * (1 - f),
                    grad_h[n, d] * tanh_c * o * (1 - o),
                    cell * i * (1 - g * g),
                )
            ):
                grad_gates[n, k * H + d] = value
    return c, h, grads, grad_gates


def test_unit_when_a_sequence_partly_goes_on():
    """With cont between 0 and 1 Caffe's gradient of the forget gate is not the derivative."""
    torch.manual_seed(5)
    c_prev = torch.randn(1, N, H, requires_grad=True)
    gates = torch.randn(1, N, 4 * H, requires_grad=True)
    cont = torch.tensor([[0.0, 0.5, 1.0]])
    grad_c, grad_h = torch.randn(1, N, H), torch.randn(1, N, H)
    layer = build('type: "LSTMUnit"', (1, N, H), (1, N, 4 * H), (1, N), tops=2)
    tops = run(layer, c_prev, gates, cont)
    found = torch.autograd.grad(tops, (c_prev, gates), (grad_c, grad_h))
    numbers = [t.detach().double().numpy()[0] for t in (c_prev, gates, cont, grad_c, grad_h)]
    expected = unit_by_hand(*numbers)
    for mine, theirs in zip((*tops, *found), expected, strict=True):
        assert_close(mine[0], theirs, "LSTMUnit")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((T, N), (T, N)), r"must be \(T, N, ...\)"),
        (((T, N, D), (T, N, 1)), r"not 4 3 2 and 4 3 1"),
        (((T, N, D), (T, N + 1)), "not 4 3 2 and 4 4"),
        (((T, N, D), (T, N), (N + 1, S)), r"static input, must be \(3, ...\), not 4 5"),
        (((T, N, D),) + ((T, N),) * 3, "takes 2 bottoms, or 3 with a static input, not 4"),
    ],
)
def test_shape_errors(shapes, message):
    with pytest.raises(LayerError, match=message):
        build(text("LSTM"), *shapes)


def test_other_errors():
    with pytest.raises(LayerError, match="num_output: must be positive"):
        build('type: "RNN"', (T, N, D), (T, N))
    with pytest.raises(LayerError, match="produces 3 tops, not 1"):
        build(text("LSTM", expose_hidden=True), (T, N, D), (T, N), (1, N, H), (1, N, H))
    with pytest.raises(LayerError, match=r"an initial state, must be \(1, 3, 3\), not 3 3"):
        build(text("RNN", expose_hidden=True), (T, N, D), (T, N), (N, H), tops=2)
    layer, _ = make("RNN")
    with pytest.raises(LayerError, match="time steps is fixed: 4, not 5"):
        layer(torch.randn(T + 1, N, D), torch.ones(T + 1, N))
    with pytest.raises(LayerError, match="bottoms must be c"):
        build('type: "LSTMUnit"', (1, N, H), (1, N, 3 * H), (1, N), tops=2)


def test_blobs():
    names = {
        ("LSTM", False): ["W_xc 12 2", "b_c 12", "W_hc 12 3"],
        ("LSTM", True): ["W_xc 12 2", "b_c 12", "W_xc_static 12 5", "W_hc 12 3"],
        ("RNN", False): ["W_xh 3 2", "b_h 3", "W_hh 3 3", "W_ho 3 3", "b_o 3"],
        ("RNN", True): ["W_xh 3 2", "b_h 3", "W_xh_static 3 5", "W_hh 3 3", "W_ho 3 3", "b_o 3"],
    }
    for (kind, static), expected in names.items():
        layer, _ = make(kind, static=static)
        found = [" ".join(map(str, (s.name, *s.shape))) for s in layer.blob_specs]
        assert found == expected


def test_meta_shapes_and_macs():
    for kind, states in (("LSTM", 2), ("RNN", 1)):
        layer, shapes = make(kind, static=True, expose=True)
        layer.bottom_shapes = tuple(shapes)
        assert meta_shapes(layer, *shapes) == [(T, N, H)] + [(1, N, H)] * states
        layer, shapes = make(kind)
        assert meta_shapes(layer, *shapes) == [(T, N, H)]
    layer, shapes = make("LSTM", static=True)
    layer.bottom_shapes = tuple(shapes)
    assert layer.macs() == T * N * 4 * H * (D + H) + N * 4 * H * S
    layer, shapes = make("RNN")
    layer.bottom_shapes = tuple(shapes)
    assert layer.macs() == T * N * H * (D + 2 * H)
    unit = build('type: "LSTMUnit"', (1, N, H), (1, N, 4 * H), (1, N), tops=2)
    assert meta_shapes(unit, (1, N, H), (1, N, 4 * H), (1, N)) == [(1, N, H)] * 2


@pytest.mark.filterwarnings(COMPILE_WARNING)
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_compiles(kind):
    layer, shapes = make(kind)
    other, _ = make(kind)
    check_compiled(layer, other, *bottoms_of(shapes))
