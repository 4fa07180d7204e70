"""The formulas of Caffe's learning-rate policies, in the float32 arithmetic of its C++.

Source: `SGDSolver::GetLearningRate` in src/caffe/solvers/sgd_solver.cpp of BVLC, sara-nl (poly_cyc,
warm-up, plateau), Intel (multifixed) and NVIDIA Caffe (ramp-up, min_lr). Each formula takes
iterations as int64 [n] and gives float32 [n].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import SolverParameter

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Policy = Callable[["SolverParameter", Ints, Ints], Floats]

_F1 = np.float32(1)


def powf(x: Floats, power: float) -> Floats:
    """C's powf: correctly rounded but for rare double roundings, as glibc's."""
    return np.power(x.astype(np.float64), float(power)).astype(np.float32)


def _share_of_run(solver: SolverParameter, iteration: int, power: float) -> np.float32:
    """(iteration / max_iter)^power: how far NVIDIA's poly policies have come."""
    with np.errstate(all="ignore"):
        share = np.float32(iteration) / np.float32(solver.max_iter)
        return np.float32(powf(np.array([share]), power)[0])


def nvidia_momentum(solver: SolverParameter, iteration: int, rate: float) -> np.float32:
    """The momentum of NVIDIA's momentum_policy (`GetMomentum`)."""
    base, ceiling = np.float32(solver.momentum), np.float32(solver.max_momentum)
    if solver.momentum_policy == "poly":
        share = _share_of_run(solver, iteration, solver.momentum_power)
        return np.float32(base + (ceiling - base) * share)
    if solver.momentum_policy == "opt":
        with np.errstate(all="ignore"):
            root = 1.0 - 0.5 * float(np.sqrt(np.float32(rate)))
        best = np.float32(root * root)
        return min(ceiling, best) if solver.HasField("max_momentum") else best
    return base


def nvidia_weight_decay(solver: SolverParameter, iteration: int) -> np.float32:
    """The weight decay of NVIDIA's weight_decay_policy (`GetWeightDecay`)."""
    decay = np.float32(solver.weight_decay)
    if solver.weight_decay_policy != "poly":
        return decay
    share = _share_of_run(solver, iteration, solver.weight_decay_power)
    return np.float32(decay + (np.float32(solver.max_weight_decay) - decay) * share)


def warm_up_rate(solver: SolverParameter, iteration: int) -> np.float32:
    """Intel's warm-up rate at `iteration`, a negative one counting as 0 (`GetWarmUpLR`)."""
    with np.errstate(all="ignore"):
        return np.float32(warm_up(solver, np.array([max(iteration, 0)], np.int64))[0])


def warm_up(solver: SolverParameter, t: Ints) -> Floats:
    """Intel's warm-up: linear from warmup_start_lr at 0 to base_lr at warmup_iter."""
    steps = solver.warmup_iter
    left = (steps - t).astype(np.float32) * np.float32(solver.warmup_start_lr)
    gained = t.astype(np.float32) * np.float32(solver.base_lr)
    return ((gained + left) / np.float32(steps)).astype(np.float32, copy=False)


def ramp_up(solver: SolverParameter, t: Ints) -> Floats:
    """NVIDIA's ramp-up: quadratic from rampup_lr at 0 to base_lr at rampup_interval."""
    start = np.float32(solver.rampup_lr)
    alpha = t.astype(np.float32) / np.float32(solver.rampup_interval)
    return start + (np.float32(solver.base_lr) - start) * alpha * alpha


def _fixed(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    return np.full(t.shape, solver.base_lr).astype(np.float32)


def _decayed(solver: SolverParameter, _: Ints, steps: Ints) -> Floats:
    # C++'s pow(float, int), and the product with it, are of double precision.
    powers = np.power(float(solver.gamma), steps.astype(np.float64))
    return (float(solver.base_lr) * powers).astype(np.float32)


def _step(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    return _decayed(solver, t, t // solver.stepsize)


def _exp(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    return _decayed(solver, t, t)


def _inv(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    grown = _F1 + np.float32(solver.gamma) * t.astype(np.float32)
    return np.float32(solver.base_lr) * powf(grown, -solver.power)


def _left(t: Ints, stop: int, power: float) -> Floats:
    return powf(_F1 - t.astype(np.float32) / np.float32(stop), power)


def _poly(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    return np.float32(solver.base_lr) * _left(t, solver.max_iter, solver.power)


def _poly_cyc(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    return np.float32(solver.base_lr) * _left(t, solver.lr_iter, solver.power)


def _sigmoid(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    exponents = -np.float32(solver.gamma) * (t.astype(np.float32) - np.float32(solver.stepsize))
    late = _F1 + np.exp(exponents.astype(np.float64)).astype(np.float32)
    return np.float32(solver.base_lr) * (_F1 / late)


def _multifixed(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    ends = np.array(solver.stageiter, np.int64)
    first = (t[:, None] <= ends).argmax(axis=1)
    stage = np.where(t > ends.max(), len(ends) - 1, first)
    return np.array(solver.stagelr, np.float32)[stage]


def _nvidia_poly(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    low, stop = np.float32(solver.min_lr), max(solver.max_iter, 1)
    return (np.float32(solver.base_lr) - low) * _left(t, stop, solver.power) + low


def _nvidia_sigmoid(solver: SolverParameter, t: Ints, _: Ints) -> Floats:
    late = 1.0 + np.exp(-float(solver.gamma) * (t - solver.stepsize).astype(np.float64))
    return (float(solver.base_lr) / late).astype(np.float32)


# Policy -> formula(solver, iterations, steps passed).
POLICIES: dict[str, Policy] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _decayed,
    "poly": _poly,
    "sigmoid": _sigmoid,
    "poly_cyc": _poly_cyc,  # sara-nl
    "plateau": _decayed,  # SSD, sara-nl, Intel
    "multifixed": _multifixed,  # Intel, OpenVINO
}
NVIDIA_POLICIES = {**POLICIES, "poly": _nvidia_poly, "sigmoid": _nvidia_sigmoid}
STATEFUL = ("multistep", "plateau")  # the rate depends on what happened before
