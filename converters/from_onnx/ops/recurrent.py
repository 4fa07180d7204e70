"""LSTM as Caffe's own layer; GRU and RNN step by step, with shared weights.

ONNX's gates are input, output, forget, cell; Caffe's are input, forget, output, cell. Caffe's RNN
layer has another formula (its output goes through a second tanh), so RNN is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from caffeio.converters.from_onnx import exact
from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Array, Node
from caffeio.converters.from_onnx.ops.dense import inner_product
from caffeio.converters.from_onnx.table import operator


@dataclass
class Direction:
    """One direction's weights: (gates * H, I), (gates * H, H), two biases, and initial states."""

    w: Array
    r: Array
    wb: Array
    rb: Array
    backward: bool
    initial: list[str | None]  # blobs (1, N, H); None: zeros


def _directions(w: Writer, node: Node, gates: int, states: int) -> list[Direction]:
    g, a = w.graph, node.attrs
    if a.get("layout", 0):
        raise Refused("its layout has the batch first", "export with layout 0")
    if "clip" in a:
        raise Refused("it clips its gates")
    ws, rs = g.constant(node.inputs[1]), g.constant(node.inputs[2])
    if ws is None or rs is None or (node.input(3) and g.constant(node.inputs[3]) is None):
        raise Refused("its weights are computed")
    if w.batch.get(w.blob(node.inputs[0])) == 0:  # the axis of time
        w.fix_batch()
    steps, batch, _ = g.shape(node.inputs[0])
    lengths = g.constant(node.input(4)) if node.input(4) else np.full(batch, steps)
    if lengths is None or not np.all(lengths == steps):
        raise Refused("its sequences have lengths of their own")
    hidden = rs.shape[2]
    biases = g.constant(node.inputs[3]) if node.input(3) else None
    if biases is None:
        biases = np.zeros((len(ws), 2 * gates * hidden), np.float32)
    initial = [_initial(w, node.input(5 + i), len(ws)) for i in range(states)]
    direction = a.get("direction", "forward")
    out = []
    for d in range(len(ws)):
        wb, rb = np.split(biases[d], 2)
        backward = direction == "reverse" or d == 1
        out.append(Direction(ws[d], rs[d], wb, rb, backward, [state[d] for state in initial]))
    return out


def _initial(w: Writer, name: str, count: int) -> list[str | None]:
    """The initial states of the directions, (1, N, H) each; None where they are zeros."""
    value = w.graph.constant(name) if name else None
    if not name or (value is not None and not value.any()):
        return [None] * count
    if value is not None:
        return [w.constant(value[d : d + 1], hint="initial") for d in range(count)]
    return list(exact.slices(w, w.blob(name), 0, range(1, count), hint="initial"))


def _turned(w: Writer, x: str, hint: str) -> str:
    """The steps in the opposite order."""
    return exact.take(w, x, 0, range(w.shape(x)[0])[::-1], hint=hint)


def _outputs(w: Writer, node: Node, ys: list[str], lasts: list[list[str]]) -> list[str]:
    """Y (T, D, N, H), or (T, N, D * H) of a node that has taken in its neighbours, and states."""
    used = {name for other in w.graph.nodes for name in other.inputs} | set(w.graph.outputs)
    steps, batch, hidden = w.shape(ys[0])
    out = []
    for index, name in enumerate(node.outputs):
        if not name or name not in used:
            out.append("")
        elif index == 0 and node.attrs.get("merged"):
            out.append(exact.concat(w, ys, 2, hint="both"))
        elif index == 0:
            each = [w.reshape(y, (steps, 1, batch, hidden), hint="y", batch=2) for y in ys]
            out.append(exact.concat(w, each, 1, hint="both"))
        else:
            out.append(exact.concat(w, [last[index - 1] for last in lasts], 0, hint="state"))
    return out


def _ends(w: Writer, y: str) -> str:
    """The last step (1, N, H)."""
    return exact.take(w, y, 0, [w.shape(y)[0] - 1], hint="last")


@operator("LSTM")
def lstm(w: Writer, node: Node) -> list[str]:
    """One LSTM layer a direction; the last states by expose_hidden where they are read."""
    _activations(node, ["Sigmoid", "Tanh", "Tanh"])
    if node.input(7) or node.attrs.get("input_forget", 0):
        raise Refused("it has peepholes or coupled gates")
    x = w.blob(node.inputs[0])
    used = {name for other in w.graph.nodes for name in other.inputs} | set(w.graph.outputs)
    used_tops = [i < len(node.outputs) and node.outputs[i] in used for i in range(3)]
    if not (w.target.has("LSTM") and w.target.has("Parameter")):  # that marks the sequences
        return _unrolled(w, node, 4, _lstm_steps, both=True)
    ys: list[str] = []
    lasts: list[list[str]] = []
    for d in _directions(w, node, 4, 2):
        into = _turned(w, x, "reverse") if d.backward else x
        y, last = _lstm(w, into, d, used_tops)
        lasts.append(last)
        ys.append(_turned(w, y, "reverse") if d.backward and used_tops[0] else y)
    return _outputs(w, node, ys, lasts)


def _lstm(w: Writer, x: str, d: Direction, used_tops: list[bool]) -> tuple[str, list[str]]:
    steps, batch, _ = w.shape(x)
    hidden = d.r.shape[1]
    order = [0, 2, 1, 3]  # input, forget, output, cell of ONNX's i, o, f, c

    def gates(v: Array) -> Array:
        return np.concatenate([np.split(v, 4)[i] for i in order])

    blobs = [gates(d.w), gates(d.wb.astype(np.float64) + d.rb), gates(d.r)]
    expose = used_tops[2] or any(state is not None for state in d.initial)
    marks = _continues(w, x, fresh=not expose)
    bottoms = [x, marks]
    fields: dict[str, object] = {"num_output": hidden}
    shapes = [(steps, batch, hidden)]
    if expose:
        zero = np.zeros((1, batch, hidden))
        bottoms += [w.constant(zero, "zeros") if s is None else s for s in d.initial]
        fields["expose_hidden"] = True
        shapes += [(1, batch, hidden)] * 2
    tops = w.layer("LSTM", bottoms, shapes, blobs=blobs, batch=1, recurrent_param=fields)
    if expose:
        w.silence([top for top, used in zip(tops[1:], used_tops[1:], strict=True) if not used])
        return tops[0], tops[1:]
    return tops[0], [_ends(w, tops[0]) if used_tops[1] else "", ""]


def _continues(w: Writer, x: str, *, fresh: bool) -> str:
    """What marks the beginning of sequences, (T, N): 0, then 1; all 1 after a given state."""
    steps, batch, _ = w.shape(x)
    marks = np.ones((steps, batch))
    if fresh:
        marks[0] = 0
    return w.constant(marks, hint="cont")


def _activations(node: Node, usual: list[str]) -> None:
    given = node.attrs.get("activations")
    names = [v.decode() if isinstance(v, bytes) else v for v in given or []]
    count = max(len(names) // len(usual), 1)
    if names and names != usual * count:
        raise Refused(f"its activations are {', '.join(names)}")


# --- step by step


class Unrolled:
    """Shared matrices for the steps of one direction, and what starts it."""

    def __init__(self, w: Writer, x: str, d: Direction, gates: int, *, both: bool) -> None:
        self.w, self.d, self.gates = w, d, gates
        self.hidden = d.r.shape[1]
        self.first: dict[str, str] = {}
        self.parts: dict[str, list[str]] = {}
        bias = d.wb.astype(np.float64) + (d.rb if both else 0)
        projected = inner_product(w, x, d.w, bias, 2)
        steps = w.shape(x)[0]
        self.steps = exact.slices(w, projected, 0, range(1, steps), hint="step")

    def start(self, state: int = 0) -> str:
        """A state before the first step, (1, N, H)."""
        given = self.d.initial[state]
        if given is not None:
            return given
        return self.w.power(self.split(self.steps[0])[0], scale=0, hint="zeros")

    def split(self, x: str) -> list[str]:
        """The gates of a step."""
        if x not in self.parts:
            points = [self.hidden * i for i in range(1, self.gates)]
            self.parts[x] = exact.slices(self.w, x, 2, points, hint="gates")
        return self.parts[x]

    def product(self, x: str, matrix: Array, bias: Array | None, key: str) -> str:
        """An InnerProduct whose weights all steps share."""
        y = inner_product(self.w, x, matrix, bias, 2)
        made = (layer for layer in reversed(self.w.layers) if layer.type_name == "InnerProduct")
        layer = next(made).param  # a Reshape may be behind it
        owner = self.first.setdefault(key, layer.name)
        for name in ("weights", "bias")[: 1 if bias is None else 2]:
            layer.param.add(name=f"{owner}_{name}")
        return y


@operator("RNN")
def rnn(w: Writer, node: Node) -> list[str]:
    """h = tanh(W x + R h + b), step by step."""
    given = [v.decode() if isinstance(v, bytes) else v for v in node.attrs.get("activations", [])]
    kinds = {"Tanh": "TanH", "Relu": "ReLU"}
    if len(set(given)) > 1 or (given and given[0] not in kinds):
        raise Refused(f"its activations are {', '.join(given)}")
    kind = kinds[given[0]] if given else "TanH"

    def run(u: Unrolled) -> tuple[list[str], list[str]]:
        h, out = u.start(), []
        for step in u.steps:
            y = u.product(h, u.d.r, None, "r")
            h = w.unary(kind, w.eltwise("SUM", [step, y], hint="sum"), hint="h")
            out.append(h)
        return out, [h]

    return _unrolled(w, node, 1, run, both=True)


@operator("GRU")
def gru(w: Writer, node: Node) -> list[str]:
    """Update and reset gates, step by step."""
    _activations(node, ["Sigmoid", "Tanh"])
    late = bool(node.attrs.get("linear_before_reset", 0))
    return _unrolled(w, node, 3, lambda u: _gru(w, u, late), both=False)


def _lstm_steps(u: Unrolled) -> tuple[list[str], list[str]]:
    """c = f * c + i * g, h = o * tanh(c), step by step; the last h and c."""
    w, out = u.w, []
    h, c = u.start(0), u.start(1)
    for step in u.steps:
        total = w.eltwise("SUM", [step, u.product(h, u.d.r, None, "r")], hint="gates")
        i, o, f, g = u.split(total)
        i, o, f = (w.unary("Sigmoid", x, hint=n) for x, n in ((i, "i"), (o, "o"), (f, "f")))
        new = w.eltwise("PROD", [i, w.unary("TanH", g, hint="g")], hint="new")
        c = w.eltwise("SUM", [w.eltwise("PROD", [f, c], hint="old"), new], hint="c")
        h = w.eltwise("PROD", [o, w.unary("TanH", c, hint="tanh")], hint="h")
        out.append(h)
    return out, [h, c]


def _gru(w: Writer, u: Unrolled, late: bool) -> tuple[list[str], list[str]]:
    h, out, n = u.start(), [], u.hidden
    rz, rh = u.d.r[: 2 * n], u.d.r[2 * n :]
    bz, bh = u.d.rb[: 2 * n], u.d.rb[2 * n :]
    for step in u.steps:
        xs = u.split(step)
        gates = exact.slices(w, u.product(h, rz, bz, "gates"), 2, [n], hint="hidden")
        z = w.unary("Sigmoid", w.eltwise("SUM", [xs[0], gates[0]], hint="z_sum"), hint="z")
        r = w.unary("Sigmoid", w.eltwise("SUM", [xs[1], gates[1]], hint="r_sum"), hint="r")
        if late:
            part = w.eltwise("PROD", [r, u.product(h, rh, bh, "cell")], hint="reset")
        else:
            part = u.product(w.eltwise("PROD", [r, h], hint="reset"), rh, bh, "cell")
        new = w.unary("TanH", w.eltwise("SUM", [xs[2], part], hint="new_sum"), hint="new")
        # z * h + (1 - z) * new = new + z * (h - new)
        change = w.eltwise("PROD", [z, w.eltwise("SUM", [h, new], (1, -1), hint="gap")], hint="by")
        h = w.eltwise("SUM", [new, change], hint="h")
        out.append(h)
    return out, [h]


Steps = Callable[[Unrolled], tuple[list[str], list[str]]]


def _unrolled(w: Writer, node: Node, gates: int, run: Steps, *, both: bool) -> list[str]:
    x = w.blob(node.inputs[0])
    ys: list[str] = []
    lasts: list[list[str]] = []
    for d in _directions(w, node, gates, 2 if node.op == "LSTM" else 1):
        into = _turned(w, x, "reverse") if d.backward else x
        hs, last = run(Unrolled(w, into, d, gates, both=both))
        ys.append(exact.concat(w, hs[::-1] if d.backward else hs, 0, hint="steps"))
        lasts.append(last)
    return _outputs(w, node, ys, lasts)
