"""Caffe's update rules: against real trainings, and against the formulas in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from caffeio.errors import SnapshotError, SolverError, UnsupportedError
from caffeio.profiles import BVLC, INTEL, INTEL_2019, INTEL_UNFUSED, NVIDIA, Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.load import load_weights
from caffeio.proto.weights.solverstate import read_solverstate
from caffeio.solver import kernels
from caffeio.solver.groups import Batch
from caffeio.solver.make import SOLVERS, CaffeOptimizer, make_optimizer
from caffeio.solver.schedule import RateState, Schedule
from tests.paths import GOLDEN
from tests.small_nets import Blob, SmallNet, small_net

CASES = sorted(path.parent.name for path in (GOLDEN / "solvers").glob("*/trace.npz"))
DIFFS = GOLDEN / "fork" / "diffs"


def solver_of(text: str) -> pb.SolverParameter:
    return text_format.Parse(text, pb.SolverParameter())


def difference(got: object, want: object) -> float:
    """Largest error relative to the largest magnitude."""
    a, b = np.asarray(got, np.float64).ravel(), np.asarray(want, np.float64).ravel()
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


@pytest.fixture(params=["fused", "plain", "device"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with torch's fused kernels, without, and without as on a GPU."""
    if request.param != "fused":
        monkeypatch.setattr(kernels, "available", lambda *_: False)
    if request.param == "device":
        monkeypatch.setattr(Batch, "on_cpu", property(lambda batch: False))
    return request.param


class Training:
    """A solver that steps a small net, as Caffe does."""

    def __init__(self, solver: pb.SolverParameter, net: SmallNet, profile: Profile = BVLC) -> None:
        self.solver, self.net = solver, net
        self.schedule, self.state = Schedule(solver, profile), RateState()
        self.optimizer = make_optimizer(solver, profile, net.blobs)
        self.data = net.data()
        self.iteration = 0

    def step(self) -> tuple[float, float]:
        """One iteration: its loss and rate."""
        self.optimizer.zero_grad()
        losses = []
        for _ in range(self.solver.iter_size):
            loss = self.net.loss(*next(self.data))
            loss.backward()
            losses.append(loss.detach())
        rates = self.schedule.rates(self.iteration, self.state, len(self.net.blobs))
        self.optimizer.step(rates.used, self.iteration)
        self.iteration += 1
        return float(torch.stack(losses).mean()), float(rates.printed)


def read_solver(folder: Path) -> pb.SolverParameter:
    return solver_of((folder / "solver.prototxt").read_text())


RUNS = [(case, path) for case in CASES for path in ("fused", "plain")]
RUNS += [(case, "device") for case in ("adam_poly", "iter_size3_clip", "nesterov_step")]


@pytest.mark.parametrize(("case", "path"), RUNS, indirect=["path"])
def test_trainings_of_real_caffe(case: str, path: str) -> None:
    folder = GOLDEN / "solvers" / case
    losses, trace = np.load(folder / "losses.npy"), np.load(folder / "trace.npz")
    net = small_net(case)
    run = Training(read_solver(folder), net)
    for i in range(len(losses)):
        loss, rate = run.step()
        assert loss == pytest.approx(losses[i], rel=1e-5)
        assert rate == pytest.approx(np.load(folder / "lrs.npy")[i], rel=1e-6, abs=0)
        for blob in net.blobs:
            key = f"iter{i + 1}/{blob.layer}/{blob.index}"
            if key in trace:
                assert difference(blob.tensor.detach(), trace[key]) < 1e-5, key
    assert_final(folder, len(losses), run)


def assert_final(folder: Path, iterations: int, run: Training) -> None:
    """Final weights and history against Caffe's snapshots."""
    stem = folder / f"snap_iter_{iterations}"
    weights = next(p for p in folder.glob(f"{stem.name}.caffemodel*"))
    state = read_solverstate(next(p for p in folder.glob(f"{stem.name}.solverstate*")))
    stored = load_weights(weights)
    for blob in run.net.blobs:
        assert difference(blob.tensor.detach(), stored[blob.layer][blob.index]) < 1e-5
    assert len(state.history) == len(run.optimizer.history)
    for mine, theirs in zip(run.optimizer.history, state.history, strict=True):
        assert difference(mine, theirs) < 1e-5 or np.abs(theirs).max() < 1e-12


@pytest.mark.parametrize("case", ["resume_adam_aligned", "resume_sgd_restart_data", "hdf5_resume"])
def test_resuming_what_real_caffe_began(case: str) -> None:
    folder = GOLDEN / "solvers" / case
    files = sorted(folder.glob("snap_iter_*.solverstate*"), key=lambda p: read_solverstate(p).iter)
    state_file = files[0]
    state = read_solverstate(state_file)
    net = small_net(case)
    stored = load_weights(Path(str(state_file).replace("solverstate", "caffemodel")))
    with torch.no_grad():
        for blob in net.blobs:
            blob.tensor.copy_(torch.tensor(np.array(stored[blob.layer][blob.index])))
    run = Training(read_solver(folder), net)
    run.optimizer.load_history(state.history)
    run.iteration, run.state.current_step = state.iter, state.current_step
    for want in np.load(folder / "losses_resumed.npy"):
        assert run.step()[0] == pytest.approx(want, rel=1e-5)


# The fork beside BVLC: an InnerProduct of 3 -> 4 under a plain sum, so that dL/dw = sum of the
# inputs, dL/db = the batch size (2); rate 0.1, momentum 0.9, decay 0.05, bias: lr 2, decay 0.
FORK = "base_lr: 0.1 momentum: 0.9 weight_decay: 0.05 max_iter: 20 snapshot_diff: true "
WARM = 'lr_policy: "fixed" warmup_iter: 5 '
FORK_CASES = {
    "sgd_fixed": 'lr_policy: "fixed"',
    "sgd_poly": 'lr_policy: "poly" power: 2',
    "sgd_no_decay": 'lr_policy: "fixed" weight_decay: 0',
    "sgd_l1": 'lr_policy: "fixed" regularization_type: "L1"',
    "sgd_clip": 'lr_policy: "fixed" clip_gradients: 0.5',
    "sgd_lr_mult0": 'lr_policy: "fixed"',
    "sgd_nesterov": 'lr_policy: "fixed" type: "Nesterov"',
    "sgd_warmup": WARM + "warmup_start_lr: 0.01",
    "sgd_warmup_from_zero": WARM,
    "sgd_nesterov_warmup": WARM + 'warmup_start_lr: 0.01 type: "Nesterov"',
    "sgd_local_lr_auto": 'lr_policy: "fixed" local_lr_auto: true local_gw_ratio: 0.02',
}
PROFILES = {"bvlc": BVLC, "fork": INTEL, "fork_nofusion": INTEL_UNFUSED}


@pytest.mark.parametrize(
    ("build", "case"),
    [
        (build, case)
        for build in PROFILES
        for case in FORK_CASES
        if build != "bvlc" or ("warmup" not in case and "local" not in case)
    ],
)
def test_the_fork_beside_bvlc(build: str, case: str, path: str) -> None:
    golden = np.load(DIFFS / build / f"{case}.npz")
    extra = FORK_CASES[case]
    solver = solver_of(FORK.replace("weight_decay: 0.05", "") + extra)
    if "weight_decay" not in extra:
        solver.weight_decay = 0.05
    bias = (1.0, 1.0) if case == "sgd_lr_mult0" else (2.0, 0.0)
    weight = (0.0, 1.0) if case == "sgd_lr_mult0" else (1.0, 1.0)
    w, b = (torch.tensor(golden[name]) for name in ("w0", "b0"))
    blobs = [Blob("ip", 0, w, *weight), Blob("ip", 1, b, *bias)]
    optimizer = make_optimizer(solver, PROFILES[build], blobs)
    schedule, state = Schedule(solver, PROFILES[build]), RateState()
    for i in range(8):
        x = torch.tensor(golden[f"x{i + 1}"])
        w.grad = None if weight[0] == 0 else x.sum(0).expand(4, 3).contiguous()
        b.grad = torch.full((4,), 2.0)
        optimizer.step(schedule.rates(i, state, 2).used, i)
        got = [w, b, *optimizer.history, optimizer.diffs()[0]]
        for name, value in zip(("w", "b", "hw", "hb", "diff_after"), got, strict=True):
            want = golden[f"{name}{i + 1}"].ravel()
            size = max(np.nanmax(np.abs(golden[f"{name}{k + 1}"]), initial=0) for k in range(8))
            assert np.allclose(value.numpy().ravel(), want, 0, 1e-6 * size, equal_nan=True), (
                name,
                i,
            )


def test_iter_size_of_the_fork(path: str) -> None:
    """The recorded diff of fused code is the normalised gradient."""
    golden = np.load(DIFFS / "fork" / "sgd_iter_size3.npz")
    solver = solver_of(FORK + 'lr_policy: "fixed" iter_size: 3')
    w, b = (torch.tensor(golden[name]) for name in ("w0", "b0"))
    blobs = [Blob("ip", 0, w), Blob("ip", 1, b, 2.0, 0.0)]
    optimizer = make_optimizer(solver, INTEL, blobs)
    for i in range(8):
        w.grad, b.grad = torch.tensor(golden[f"diff_after{i + 1}"]) * 3, torch.full((4,), 6.0)
        optimizer.step(0.1, i)
        for name, value in zip("wb", (w, b), strict=True):
            assert difference(value, golden[f"{name}{i + 1}"]) < 1e-6
        assert difference(optimizer.diffs()[0], golden[f"diff_after{i + 1}"]) < 1e-6


# The formulas once more, literally and in float64.


class Reference:
    """Solver formulas on float64 arrays; one blob, its own histories."""

    def __init__(self, solver: pb.SolverParameter, profile: Profile, w: np.ndarray) -> None:
        self.s, self.p = solver, profile
        self.h, self.h2, self.extra = (np.zeros(w.shape) for _ in range(3))
        self.corr = 0.0
        self.delta = float(solver.delta)
        floors = {"AdaGrad": 1e-3, "RMSProp": 1e-4, "AdaDelta": 1e-3, "Adam": 1e-4}
        if profile.delta_floor:
            self.delta = max(self.delta, floors.get(solver.type, 0.0))

    def update(
        self, w: np.ndarray, g: np.ndarray, rate: float, mults: tuple[float, float], t: int
    ) -> np.ndarray:
        """The new weights; `g` is clipped and normalised."""
        s, mu, kind = self.s, float(self.s.momentum), self.s.regularization_type
        decay = float(s.weight_decay) * mults[1]
        if self.p.nvidia_policies and s.weight_decay_policy == "poly":
            start, end = float(s.weight_decay), float(s.max_weight_decay)
            share = (t / s.max_iter) ** s.weight_decay_power
            decay = (start + (end - start) * share) * mults[1]
        if self.p.nvidia_policies and s.momentum_policy == "poly" and s.type in ("SGD", "SAG"):
            mu += (s.max_momentum - mu) * (t / s.max_iter) ** s.momentum_power
        if mults[0] == 0 and self.p.skip_lr_mult_0:
            return w
        eta = rate * self.local(w, g, mu, mults[0], t)
        if s.larc and s.larc_policy == "clip" and mults[0] > 0:
            eta = min(rate, eta / rate)
        if not (kind == "WD" and s.type in ("SGD", "SAG")):
            l2 = kind == "L2" or (kind == "L2_unitary" and s.type == "SGD")
            g = g + decay * (w if l2 else np.sign(w))
            decay = 0.0
        return w - self.value(w, g, eta, mu, decay, t)

    def local(self, w: np.ndarray, g: np.ndarray, mu: float, mult: float, t: int) -> float:
        s, norm = self.s, np.linalg.norm
        if mult <= 0 or s.type not in ("SGD", "SAG"):
            return mult
        if s.local_lr_auto:
            seen = g * s.iter_size if self.p.lars == "sara_fused" else g
            if self.p.lars == "sara_unfused":
                seen = g + float(s.weight_decay) * w
            below = norm(seen) + s.weight_decay * norm(w)
            return s.local_gw_ratio * norm(w) / below if norm(w) and norm(seen) else 1.0
        if not s.larc:
            return mult
        sag = s.type == "SAG"
        below = norm(self.h) if sag else norm(g)
        ratio = (1 if sag else 1 - mu) * s.larc_eta * norm(w) / below if below else 1.0
        if s.larc_turbo and (not sag or t > 1):
            both = norm(g) * norm(self.h)
            self.corr = 0.95 * self.corr + 0.05 * ((g * self.h).sum() / both if both else 0)
            ratio = ratio * (1 - 0.9 * self.corr) if sag else ratio - 0.9 * self.corr
        return float(ratio)

    def value(
        self, w: np.ndarray, g: np.ndarray, eta: float, mu: float, decay: float, t: int
    ) -> np.ndarray:
        s, old = self.s, self.h
        match s.type:
            case "SGD":
                self.h = mu * old + eta * g
                return self.h + eta * decay * w
            case "SAG":
                self.h = mu * old + (1 - mu) * g
                return eta * (self.h + decay * w)
            case "Nesterov":
                self.h = mu * old + eta * g
                return (1 + mu) * self.h - mu * old
            case "AdaGrad":
                self.h = old + g**2
                return eta * g / (np.sqrt(self.h) + self.delta)
            case "RMSProp":
                self.h = s.rms_decay * old + (1 - s.rms_decay) * g**2
                if self.p.rmsprop == "intel":
                    self.extra = eta * g / np.sqrt(self.h + self.delta) + mu * self.extra
                    return self.extra
                return eta * g / (np.sqrt(self.h) + self.delta)
            case "AdaDelta":
                self.h = mu * old + (1 - mu) * g**2
                u = g * np.sqrt((self.h2 + self.delta) / (self.h + self.delta))
                self.h2 = mu * self.h2 + (1 - mu) * u**2
                return eta * u
            case "Adam":
                self.h = mu * old + (1 - mu) * g
                self.h2 = s.momentum2 * self.h2 + (1 - s.momentum2) * g**2
                right = np.sqrt(1 - s.momentum2 ** (t + 1)) / (1 - mu ** (t + 1))
                return eta * right * self.h / (np.sqrt(self.h2) + self.delta)
        raise AssertionError(s.type)


M = "momentum: 0.9 "
D = "weight_decay: 0.01 "
FORMULAS = {
    "sgd": (BVLC, M + D),
    "sgd_l1": (BVLC, M + D + 'regularization_type: "L1"'),
    "sgd_no_momentum": (BVLC, D),
    "sgd_iter_size": (BVLC, M + D + "iter_size: 3"),
    "sgd_clip": (BVLC, M + D + "iter_size: 2 clip_gradients: 1"),
    "sgd_clip_to_nothing": (BVLC, M + D + "clip_gradients: 0"),
    "nesterov": (BVLC, M + D + 'type: "Nesterov"'),
    "nesterov_iter_size": (BVLC, M + D + 'type: "Nesterov" iter_size: 4'),
    "nesterov_no_momentum": (BVLC, D + 'type: "Nesterov"'),
    "adagrad": (BVLC, D + 'type: "AdaGrad" delta: 0.001'),
    "adagrad_l1": (BVLC, D + 'type: "AdaGrad" delta: 0.001 regularization_type: "L1"'),
    "rmsprop": (BVLC, D + 'type: "RMSProp" rms_decay: 0.95 iter_size: 2 delta: 0.001'),
    "adadelta": (BVLC, M + D + 'type: "AdaDelta" delta: 1e-6'),
    "adam": (BVLC, M + D + 'type: "Adam"'),
    "adam_delta": (BVLC, M + D + 'type: "Adam" delta: 0.5 momentum2: 0.9 iter_size: 2'),
    "adam_no_momentum": (BVLC, D + 'type: "Adam"'),
    "intel_sgd": (INTEL, M + D),
    "intel_rmsprop": (INTEL, M + D + 'type: "RMSProp" delta: 0.001'),
    "intel_adam": (INTEL, M + D + 'type: "Adam"'),
    "lars_sara_fused": (INTEL, M + D + "local_lr_auto: true iter_size: 2"),
    "lars_sara_unfused": (INTEL_UNFUSED, M + "local_lr_auto: true iter_size: 2"),
    "lars_intel": (INTEL_2019, M + D + "local_lr_auto: true iter_size: 2 local_gw_ratio: 0.02"),
    "nvidia_sgd": (NVIDIA, M + D),
    "nvidia_wd": (NVIDIA, M + D + 'regularization_type: "WD" iter_size: 2'),
    "nvidia_unitary": (NVIDIA, M + D + 'regularization_type: "L2_unitary"'),
    "nvidia_adam_wd_is_l1": (NVIDIA, M + D + 'regularization_type: "WD" type: "Adam"'),
    "nvidia_policies": (
        NVIDIA,
        D + 'momentum: 0.5 momentum_policy: "poly" max_momentum: 0.95 momentum_power: 2 '
        'weight_decay_policy: "poly" max_weight_decay: 0.1 weight_decay_power: 1 max_iter: 12',
    ),
    "nvidia_larc": (NVIDIA, M + D + 'larc: true larc_eta: 0.01 larc_policy: "scale"'),
    "nvidia_larc_clip": (NVIDIA, M + D + 'larc: true larc_eta: 0.5 larc_policy: "clip"'),
    "nvidia_larc_turbo": (NVIDIA, M + D + 'larc: true larc_turbo: true larc_policy: "scale"'),
    "nvidia_larc_wd": (
        NVIDIA,
        M + D + 'larc: true larc_policy: "scale" regularization_type: "WD"',
    ),
    "nvidia_adagrad": (NVIDIA, D + 'type: "AdaGrad"'),
    "nvidia_rmsprop": (NVIDIA, D + 'type: "RMSProp"'),
    "nvidia_adadelta": (NVIDIA, M + D + 'type: "AdaDelta"'),
    "nvidia_adam": (NVIDIA, M + D + 'type: "Adam"'),
    "sag": (NVIDIA, M + D + 'type: "SAG" iter_size: 2'),
    "sag_wd": (NVIDIA, M + D + 'type: "SAG" regularization_type: "WD"'),
    "sag_larc_turbo": (
        NVIDIA,
        M + D + 'type: "SAG" larc: true larc_turbo: true larc_eta: 0.01 larc_policy: "scale"',
    ),
}
SHAPES = [(7, 5), (5,), (4, 3, 3, 2), (3,), (6,)]
MULTS = [(1.0, 1.0), (2.0, 0.0), (0.5, 10.0), (0.0, 1.0), (1.0, 1.0)]


def random_blobs(seed: int = 0) -> list[Blob]:
    g = torch.Generator().manual_seed(seed)
    return [
        Blob(f"layer{i}", 0, torch.randn(shape, generator=g), *mult)
        for i, (shape, mult) in enumerate(zip(SHAPES, MULTS, strict=True))
    ]


def run_both(profile: Profile, solver: pb.SolverParameter, blobs: list[Blob]) -> CaffeOptimizer:
    """Twelve updates with random gradients, compared with the float64 formulas after each."""
    optimizer = make_optimizer(solver, profile, blobs)
    exact = [b.tensor.double().numpy().copy() for b in blobs]
    references = [Reference(solver, profile, w) for w in exact]
    random = np.random.default_rng(1)
    for t in range(12):
        rate = float(np.float32(0.1 / (t + 1)))
        grads = [random.standard_normal(w.shape).astype(np.float32) for w in exact]
        grads[3][...] = 0  # lr_mult 0: Caffe computes no gradient
        total = np.sqrt(sum((g.astype(float) ** 2).sum() for g in grads))
        clip = solver.clip_gradients
        factor = clip / total if 0 <= clip < total else 1.0
        for i, (blob, grad) in enumerate(zip(blobs, grads, strict=True)):
            given = torch.from_numpy(grad.copy()).clone(memory_format=torch.preserve_format)
            blob.tensor.grad = None if i == 3 else given
            normal = grad.astype(float) * factor / solver.iter_size
            mults = (blob.lr_mult, blob.decay_mult)
            exact[i] = references[i].update(exact[i], normal, rate, mults, t)
        optimizer.step(rate, t)
        for blob, want in zip(blobs, exact, strict=True):
            assert difference(blob.tensor, want) < 1e-5, (t, blob)
    kinds = [[r.h for r in references], [r.h2 for r in references]]
    expected = [h for kind in kinds[: len(optimizer.state_names)] for h in kind]
    for mine, want in zip(optimizer.history, expected, strict=True):
        assert difference(mine, want) < 1e-5 or np.abs(want).max() == 0
    return optimizer


@pytest.mark.parametrize("case", FORMULAS)
def test_formulas(case: str, path: str) -> None:
    profile, text = FORMULAS[case]
    run_both(profile, solver_of(text), random_blobs())


@pytest.mark.parametrize("case", FORMULAS)
def test_kept_diffs_change_nothing_else(case: str) -> None:
    profile, text = FORMULAS[case]
    optimizer = run_both(profile, solver_of(text + " snapshot_diff: true"), random_blobs())
    assert [d.shape for d in optimizer.diffs()] == [torch.Size(s) for s in SHAPES]


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_the_diff_is_the_update(kind: str) -> None:
    blobs = random_blobs()
    text = f'type: "{kind}" weight_decay: 0.01 snapshot_diff: true delta: 0.001 '
    text += "momentum: 0.9" if kind not in ("AdaGrad", "RMSProp") else ""
    optimizer = make_optimizer(solver_of(text), BVLC, blobs)
    for t in range(3):
        before = [b.tensor.clone() for b in blobs]
        for b in blobs[:-1]:
            b.tensor.grad = torch.randn(b.tensor.shape)
        optimizer.step(0.1, t)
        for b, old, diff in zip(blobs, before, optimizer.diffs(), strict=True):
            assert torch.equal(old - diff, b.tensor)


def test_diffs_are_not_kept_unasked() -> None:
    optimizer = make_optimizer(solver_of('type: "Adam"'), BVLC, random_blobs())
    with pytest.raises(SolverError, match="snapshot_diff"):
        optimizer.diffs()


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_any_memory_layout(kind: str, path: str) -> None:
    """channels_last weights with gradients and histories of another layout."""
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weights = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        blob = Blob("conv", 0, weights.clone())
        solver = solver_of(f'type: "{kind}" weight_decay: 0.01 delta: 1e-3')
        optimizer = make_optimizer(solver, BVLC, [blob])
        blob.tensor.data = blob.tensor.data.to(memory_format=layout)
        for t in range(3):
            blob.tensor.grad = weights.roll(t, 0).clone()
            optimizer.step(0.1, t)
        results.append(blob.tensor)
    assert results[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(results[0], results[1], rtol=1e-6, atol=1e-7)


def test_a_slice_with_holes_is_updated_and_nothing_beside_it() -> None:
    whole = torch.ones(6, 6)
    blob = Blob("ip", 0, whole[:, ::2])
    blob.tensor.grad = torch.ones(6, 3)
    make_optimizer(solver_of("momentum: 0.9"), BVLC, [blob]).step(0.5, 0)
    assert torch.equal(whole, torch.tensor([0.5, 1.0]).repeat(6, 3))


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaDelta"])
def test_blobs_without_gradient_still_decay_and_move(kind: str, path: str) -> None:
    blobs = random_blobs()
    solver = solver_of(f'type: "{kind}" momentum: 0.9 weight_decay: 0.1 delta: 1e-3')
    optimizer = make_optimizer(solver, BVLC, blobs)
    before = blobs[0].tensor.clone()
    optimizer.step(0.1, 0)
    assert not torch.equal(before, blobs[0].tensor)
    expected = Reference(solver, BVLC, before.numpy()).update(
        before.double().numpy(), np.zeros(before.shape), float(np.float32(0.1)), (1.0, 1.0), 0
    )
    assert difference(blobs[0].tensor, expected) < 1e-6


def test_lr_mult_0() -> None:
    """BVLC moves histories of lr_mult 0 (Adam) and loaded velocity (SGD); Intel leaves them."""
    adam = 'type: "Adam" momentum: 0.9 weight_decay: 0.1'
    for profile, moves in ((BVLC, True), (INTEL, False)):
        blobs = random_blobs()
        frozen = blobs[3].tensor.clone()
        optimizer = make_optimizer(solver_of(adam), profile, blobs)
        optimizer.step(0.1, 0)
        assert bool(optimizer.history[3].any()) is moves
        assert torch.equal(blobs[3].tensor, frozen)
        optimizer = make_optimizer(solver_of("momentum: 0.5"), profile, blobs)
        optimizer.load_history([torch.ones_like(b.tensor) for b in blobs])
        optimizer.step(0.1, 0)
        change = frozen - blobs[3].tensor
        assert torch.allclose(change, torch.full((3,), 0.5 if moves else 0.0), atol=1e-6)


def test_one_rate_for_every_blob() -> None:
    blobs = [Blob("ip", i, torch.zeros(2)) for i in range(3)]
    for blob in blobs:
        blob.tensor.grad = torch.ones(2)
    optimizer = make_optimizer(solver_of(""), INTEL, blobs)
    optimizer.step(np.array([1.0, 0.5, 0.25], np.float32), 0)
    assert [float(b.tensor[0]) for b in blobs] == [-1.0, -0.5, -0.25]


def test_clip_reports_what_it_did() -> None:
    blob = Blob("ip", 0, torch.zeros(4))
    optimizer = make_optimizer(solver_of("clip_gradients: 2"), BVLC, [blob])
    assert optimizer.clip() is None  # no gradient at all
    blob.tensor.grad = torch.full((4,), 0.5)
    assert optimizer.clip() is None  # norm 1
    blob.tensor.grad = torch.full((4,), 2.0)
    assert optimizer.clip() == (4.0, 0.5)
    optimizer.step(1.0, 0)  # does not clip again
    assert torch.equal(blob.tensor, torch.full((4,), -1.0))
    blob.tensor.grad = torch.full((4,), 2.0)
    optimizer.step(1.0, 1)  # clips by itself
    assert torch.equal(blob.tensor, torch.full((4,), -2.0))


def test_clip_without_asking_for_the_norm() -> None:
    """The branch of CUDA: the same numbers, nothing reported."""
    blob = Blob("ip", 0, torch.zeros(4))
    optimizer = make_optimizer(solver_of("clip_gradients: 2"), BVLC, [blob])
    for size in (0.5, 2.0):
        blob.tensor.grad = torch.full((4,), size)
        optimizer._clip_unseen([blob.tensor.grad])
        assert torch.equal(blob.tensor.grad, torch.full((4,), min(size, 1.0)))


# State.


@pytest.mark.parametrize("kind", ["SGD", "AdaDelta", "Adam"])
def test_history_goes_out_and_in(kind: str) -> None:
    text = f'type: "{kind}" momentum: 0.9 weight_decay: 0.01 delta: 1e-3'
    blobs = random_blobs()
    optimizer = make_optimizer(solver_of(text), BVLC, blobs)
    assert len(optimizer.history) == len(blobs) * (1 if kind == "SGD" else 2)
    assert [h.shape for h in optimizer.history[: len(blobs)]] == [b.tensor.shape for b in blobs]
    run_both(BVLC, solver_of(text), blobs)
    for b in blobs:
        b.tensor.grad = b.tensor * 0.5
    optimizer.step(0.1, 0)
    again = make_optimizer(solver_of(text), BVLC, copy.deepcopy(blobs))
    again.load_history([h.reshape(1, 1, -1).numpy() for h in optimizer.history])
    for one, other in zip(optimizer.history, again.history, strict=True):
        assert torch.equal(one, other)


def test_histories_of_another_net_are_refused() -> None:
    blobs = random_blobs()
    optimizer = make_optimizer(solver_of(""), BVLC, blobs)
    with pytest.raises(SnapshotError, match=r"Incorrect length of history blobs.*holds 1.*has 5"):
        optimizer.load_history([np.zeros(3)])
    wrong = [np.zeros(b.tensor.shape) for b in blobs]
    wrong[2] = np.zeros((2, 2))
    with pytest.raises(SnapshotError, match=r"blob 2 .*\(2, 2\).*'layer2'.*\(4, 3, 3, 2\)"):
        optimizer.load_history(wrong)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSProp"])
def test_state_dict_is_torchs(kind: str) -> None:
    solver = solver_of(f'type: "{kind}" momentum: 0.9 weight_decay: 0.01')
    profile = replace(INTEL, skip_lr_mult_0=False)
    blobs = random_blobs()
    optimizer = make_optimizer(solver, profile, blobs)

    def steps(opt: CaffeOptimizer, of: list[Blob], start: int) -> None:
        for t in range(start, start + 3):
            for b in of:
                b.tensor.grad = torch.ones_like(b.tensor) * (t + 1)
            opt.step(0.1, t)

    steps(optimizer, blobs, 0)
    other = copy.deepcopy(blobs)
    resumed = make_optimizer(solver, profile, other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, blobs, 3)
    steps(resumed, other, 3)
    for a, b in zip(blobs, other, strict=True):
        assert torch.equal(a.tensor, b.tensor)


def test_param_groups_show_the_rates() -> None:
    optimizer = make_optimizer(solver_of("momentum: 0.9"), BVLC, random_blobs())
    optimizer.step(0.5, 0)
    groups = [(g["lr_mult"], g["decay_mult"], g["lr"]) for g in optimizer.param_groups]
    assert groups == [(1, 1, 0.5), (2, 0, 1.0), (0.5, 10, 0.25), (0, 1, 0.0)]
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, 1, 1, 1]


# What Caffe refuses.


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ('type: "Sgd"', BVLC, r"Unknown solver type: Sgd \(known types: AdaDelta, .*SGD\)"),
        ('type: "SAG"', BVLC, "profile 'nvidia'"),
        ('type: "AdaGrad" momentum: 0.9', BVLC, "Momentum cannot be used with AdaGrad"),
        ('type: "AdaGrad" momentum: 0.9', INTEL, "Momentum cannot be used with AdaGrad"),
        ('type: "RMSProp" momentum: 0.9', BVLC, "Momentum cannot be used with RMSProp"),
        ('type: "RMSProp" rms_decay: 1', BVLC, "rms_decay should lie between 0 and 1"),
        ('regularization_type: "L3" weight_decay: 1', BVLC, "Unknown regularization type: L3"),
        ('regularization_type: "WD" weight_decay: 1', BVLC, "Unknown regularization type: WD"),
        ('regularization_type: "l2" weight_decay: 1', NVIDIA, "Unknown regularization type: l2"),
        ('type: "SAG" regularization_type: "L1"', NVIDIA, "Unknown regularization mode: L1"),
        ('larc: true larc_policy: "sum"', NVIDIA, "Unknown larc policy: sum"),
        ("larc: true", BVLC, "larc: profile 'bvlc' has no such field"),
        ("local_lr_auto: true", BVLC, "local_lr_auto: profile 'bvlc' has no such field"),
        ("iter_size: 0", BVLC, "iter_size: must be at least 1"),
        ('type: "SGD" solver_type: ADAM', BVLC, "solver_type"),
    ],
)
def test_errors(text: str, profile: Profile, message: str) -> None:
    solver = solver_of(text)
    solver.lr_policy = "fixed"
    with pytest.raises(SolverError, match=message):
        make_optimizer(solver, profile, random_blobs())


def test_errors_say_where() -> None:
    with pytest.raises(SolverError, match=r"^s\.prototxt:3:1: type: "):
        make_optimizer(solver_of('type: "x"'), locate=lambda field: "s.prototxt:3:1")


def test_unused_regularization_is_not_looked_at() -> None:
    solver = solver_of('regularization_type: "L3"')
    assert make_optimizer(solver, BVLC, random_blobs()).type == "SGD"


def test_clamped_weights_are_not_passed_over() -> None:
    with pytest.raises(UnsupportedError, match="clip_weights"):
        make_optimizer(solver_of("clip_weights: 0.1"), BVLC, [])


def test_old_enum_types() -> None:
    for name, kind in (("NESTEROV", "Nesterov"), ("ADADELTA", "AdaDelta"), ("SGD", "SGD")):
        assert make_optimizer(solver_of(f"solver_type: {name}")).type == kind
    assert sorted(SOLVERS) == sorted(
        ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "SAG"]
    )


# Kernels.


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adagrad"])
def test_fused_kernels_are_used_on_this_cpu(name: str) -> None:
    assert kernels.available(name, torch.device("cpu"), torch.float32)


def test_a_kernel_that_means_something_else_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels.available.cache_clear()
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *args, **kwargs: None)
    assert not kernels.available("sgd", torch.device("cpu"), torch.float32)
    monkeypatch.delattr(torch, "_fused_sgd_")
    assert not kernels.available("nesterov", torch.device("cpu"), torch.float32)
    kernels.available.cache_clear()


@given(st.lists(st.integers(1, 4), max_size=4), st.randoms(use_true_random=False))
def test_flat_is_the_order_of_memory(shape: list[int], random: object) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)  # type: ignore[attr-defined]
    tensor = torch.arange(float(np.prod(shape, initial=1))).reshape(shape).permute(order)
    view = kernels.flat(tensor)
    assert view is not None
    assert torch.equal(view, torch.arange(float(tensor.numel())))
    assert view.data_ptr() == tensor.data_ptr()


@given(st.integers(1, 300), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.1))
def test_fused_sgd_is_the_plain_one(n: int, rate: float, momentum: float, decay: float) -> None:
    results = []
    for fused in (True, False):
        blob = Blob("ip", 0, torch.linspace(-1, 1, n))
        solver = solver_of(f"momentum: {momentum} weight_decay: {decay}")
        optimizer = make_optimizer(solver, BVLC, [blob])
        for t in range(2):
            blob.tensor.grad = torch.linspace(2, -1, n)
            with mock.patch.object(kernels, "available", lambda *_, fused=fused: fused):
                optimizer.step(rate, t)
        results.append(blob.tensor)
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_blobs_may_move_in_memory_between_steps(kind: str) -> None:
    """As `net.to(memory_format=...)` moves them: histories must follow into the new layout."""
    text = f'type: "{kind}" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9'
    stays, moves = (Training(solver_of(text), small_net("sgd_fixed")) for _ in range(2))
    generator = torch.Generator().manual_seed(3)
    for step in range(4):
        for a, b in zip(stays.net.blobs, moves.net.blobs, strict=True):
            a.tensor.grad = torch.randn(a.tensor.shape, generator=generator)
            b.tensor.grad = torch.empty_like(b.tensor).copy_(a.tensor.grad)
        for run in (stays, moves):
            run.optimizer.step(0.01, step)
        for b in moves.net.blobs:
            if b.tensor.dim() == 4:
                layout = torch.channels_last if step % 2 else torch.contiguous_format
                b.tensor.data = b.tensor.data.clone(memory_format=layout)
    assert any(b.tensor.dim() == 4 and b.tensor.shape[1] > 1 for b in moves.net.blobs)
    for a, b in zip(stays.net.blobs, moves.net.blobs, strict=True):
        assert torch.equal(a.tensor, b.tensor)
