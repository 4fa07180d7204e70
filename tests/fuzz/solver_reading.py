"""Random solvers and small nets, and a slow reading of Caffe in NumPy, float64, to compare with.

The reading shares nothing with the code under test but the text: forward, backward, rates,
clipping, normalization by iter_size, decay and the updates are written here once more, from
(src/caffe/solver.cpp, solvers/*_solver.cpp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
CURVES = {
    "": (lambda x: x, lambda x, y: np.ones_like(x)),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x, y: y * (1 - y)),
    "TanH": (np.tanh, lambda x, y: 1 - y * y),
    "ReLU": (lambda x: np.maximum(x, 0), lambda x, y: (x > 0).astype(float)),
}


@dataclass
class Case:
    """One random training: the solver's fields, the net's, the data."""

    solver: dict[str, Any]
    curve: str
    loss: str
    mults: list[tuple[float, float]]  # lr_mult and decay_mult of weights and biases, two layers
    shapes: tuple[int, int, int]  # inputs, hidden values, outputs
    batch: int
    data: Array  # rows, in the order in which they are read, from the first on again
    labels: Array
    blobs: list[Array] = field(default_factory=list)


def make(seed: int) -> Case:
    """A random training."""
    rng = np.random.RandomState(seed)
    pick = lambda values: values[rng.randint(len(values))]  # noqa: E731
    kind = pick(TYPES)
    solver: dict[str, Any] = {
        "type": kind,
        "base_lr": pick([0.01, 0.1, 0.3] if kind not in ("Adam", "RMSProp") else [0.001, 0.01]),
        "lr_policy": pick(["fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid"]),
        "max_iter": int(rng.randint(3, 8)),
        "gamma": pick([0.5, 0.9]),
        "power": pick([0.5, 1.0, 2.0]),
        "stepsize": int(rng.randint(1, 4)),
    }
    if kind not in ("AdaGrad", "RMSProp"):
        solver["momentum"] = pick([0.5, 0.9, 0.95])
    if kind == "Adam":
        solver["momentum2"] = pick([0.9, 0.999])
    if kind == "RMSProp":
        solver["rms_decay"] = pick([0.5, 0.9, 0.98])
    if kind in ("AdaGrad", "RMSProp", "AdaDelta", "Adam"):
        solver["delta"] = pick([1e-2, 1e-4, 1e-6])
    if rng.rand() < 0.6:
        solver["weight_decay"] = pick([0.01, 0.2])
        solver["regularization_type"] = pick(["L1", "L2"])
    if rng.rand() < 0.4:
        solver["clip_gradients"] = pick([0.05, 1.0])
    if rng.rand() < 0.3:
        solver["iter_size"] = int(rng.randint(2, 4))
    inputs, hidden, outputs = (int(rng.randint(2, 6)) for _ in range(3))
    rows, batch, loss = (
        int(rng.randint(3, 9)),
        int(rng.randint(1, 4)),
        pick(["Softmax", "Euclidean"]),
    )
    labels = rng.randint(0, outputs, (rows, 1)) if loss == "Softmax" else rng.randn(rows, outputs)
    mults = [(pick([1.0, 1.0, 2.0, 0.0]), pick([1.0, 0.0, 0.5])) for _ in range(4)]
    sizes = [(hidden, inputs), (hidden,), (outputs, hidden), (outputs,)]
    return Case(
        solver,
        pick(list(CURVES)),
        loss,
        mults,
        (inputs, hidden, outputs),
        batch,
        rng.randn(rows, inputs).astype(np.float32),
        labels.astype(np.float32),
        [rng.randn(*size).astype(np.float32) for size in sizes],
    )


def net_text(case: Case, source: str) -> str:
    """The net, with its first weights in the text."""
    _, hidden, outputs = case.shapes

    def product(name: str, bottom: str, count: int, first: int) -> str:
        text = f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        for rate, decay in case.mults[first : first + 2]:
            text += f"param {{ lr_mult: {rate} decay_mult: {decay} }} "
        for blob in case.blobs[first : first + 2]:
            dims = " ".join(f"dim: {n}" for n in blob.shape)
            data = " ".join(f"data: {value!r}" for value in blob.ravel().tolist())
            text += f"blobs {{ shape {{ {dims} }} {data} }} "
        return text + f"inner_product_param {{ num_output: {count} }} }}\n"

    curve = f'layer {{ name: "c" type: "{case.curve}" bottom: "one" top: "one" }}\n'
    kind = {"Softmax": "SoftmaxWithLoss", "Euclidean": "EuclideanLoss"}[case.loss]
    return (
        'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
        f'hdf5_data_param {{ source: "{source}" batch_size: {case.batch} }} }}\n'
        + product("one", "data", hidden, 0)
        + (curve if case.curve else "")
        + product("two", "one", outputs, 2)
        + f'layer {{ name: "loss" type: "{kind}" bottom: "two" bottom: "label" top: "loss" }}\n'
    )


def solver_text(case: Case, net: str, prefix: str) -> str:
    """The solver."""
    fields = dict(case.solver)
    if fields["lr_policy"] == "multistep":
        fields.pop("stepsize")
    text = "".join(
        f'{k}: "{v}"\n' if isinstance(v, str) else f"{k}: {v}\n" for k, v in fields.items()
    )
    if case.solver["lr_policy"] == "multistep":
        text += "stepvalue: 2\nstepvalue: 4\n"
    return f'net: "{net}"\nsnapshot_prefix: "{prefix}"\nsnapshot_after_train: true\n' + text


def rate_at(s: dict[str, Any], step: int) -> float:
    """GetLearningRate."""
    base, gamma, power = s["base_lr"], s["gamma"], s["power"]
    policy = s["lr_policy"]
    if policy == "fixed":
        return float(base)
    if policy == "step":
        return float(base * gamma ** (step // s["stepsize"]))
    if policy == "exp":
        return float(base * gamma**step)
    if policy == "inv":
        return float(base * (1 + gamma * step) ** -power)
    if policy == "multistep":
        return float(base * gamma ** sum(step >= value for value in (2, 4)))
    if policy == "poly":
        return float(base * (1 - step / s["max_iter"]) ** power)
    return float(base / (1 + math.exp(-gamma * (step - s["stepsize"]))))  # sigmoid


def gradients(case: Case, blobs: list[Array], first: int) -> tuple[float, list[Array]]:
    """Loss and gradients of the batch that begins with row `first`."""
    rows = [(first + i) % len(case.data) for i in range(case.batch)]
    x, label = case.data[rows].astype(np.float64), case.labels[rows].astype(np.float64)
    w1, b1, w2, b2 = blobs
    forward, slope = CURVES[case.curve]
    z = x @ w1.T + b1
    h = forward(z)
    y = h @ w2.T + b2
    if case.loss == "Softmax":
        p = np.exp(y - y.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        true = label[:, 0].astype(int)
        loss = -np.log(p[range(case.batch), true]).mean()
        dy = p.copy()
        dy[range(case.batch), true] -= 1
        dy /= case.batch
    else:
        loss = ((y - label) ** 2).sum() / case.batch / 2
        dy = (y - label) / case.batch
    dz = (dy @ w2) * slope(z, h)
    return float(loss), [dz.T @ x, dz.sum(0), dy.T @ h, dy.sum(0)]


def update(kind: str, s: dict[str, Any], g: Array, h: list[Array], rate: float, t: int) -> Array:
    """ComputeUpdateValue: what is subtracted from a blob, whose history `h` moves on."""
    momentum, delta = s.get("momentum", 0.0), s.get("delta", 1e-8)
    if kind == "SGD":
        h[0] = rate * g + momentum * h[0]
        return h[0]
    if kind == "Nesterov":
        before, h[0] = h[0], rate * g + momentum * h[0]
        return (1 + momentum) * h[0] - momentum * before
    if kind == "AdaGrad":
        h[0] = h[0] + g * g
        return rate * g / (np.sqrt(h[0]) + delta)
    if kind == "RMSProp":
        h[0] = s["rms_decay"] * h[0] + (1 - s["rms_decay"]) * g * g
        return rate * g / (np.sqrt(h[0]) + delta)
    if kind == "AdaDelta":
        h[0] = momentum * h[0] + (1 - momentum) * g * g
        step = g * np.sqrt((h[1] + delta) / (h[0] + delta))
        h[1] = momentum * h[1] + (1 - momentum) * step * step
        return rate * step
    second = s["momentum2"]
    h[0] = momentum * h[0] + (1 - momentum) * g
    h[1] = second * h[1] + (1 - second) * g * g
    corrected = math.sqrt(1 - second**t) / (1 - momentum**t)
    return rate * corrected * h[0] / (np.sqrt(h[1]) + delta)


def train(case: Case) -> tuple[list[float], list[Array]]:
    """Losses of the iterations, and the blobs after the last one."""
    s = case.solver
    blobs = [blob.astype(np.float64) for blob in case.blobs]
    histories = [[np.zeros_like(b), np.zeros_like(b)] for b in blobs]
    losses, row = [], 0
    size = s.get("iter_size", 1)
    for step in range(s["max_iter"]):
        total, sums = 0.0, [np.zeros_like(b) for b in blobs]
        for _ in range(size):
            loss, grads = gradients(case, blobs, row)
            row = (row + case.batch) % len(case.data)
            total += loss / size
            learned = [rate != 0 for rate, _ in case.mults]
            sums = [a + g * on for a, g, on in zip(sums, grads, learned, strict=True)]
        losses.append(total)
        clip = s.get("clip_gradients", -1)
        norm = math.sqrt(sum(float((g * g).sum()) for g in sums))
        if clip >= 0 and norm > clip:
            sums = [g * (clip / norm) for g in sums]
        for i, (rate, decay) in enumerate(case.mults):
            g = sums[i] / size
            strength = s.get("weight_decay", 0.0) * decay
            how = s.get("regularization_type", "L2")
            g = g + strength * (blobs[i] if how == "L2" else np.sign(blobs[i]))
            local = rate_at(s, step) * rate
            blobs[i] = blobs[i] - update(s["type"], s, g, histories[i], local, step + 1)
    return losses, blobs
