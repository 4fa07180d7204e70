"""Learning-rate schedules: what a solver's rate is, iteration by iteration. No torch here.

A `Schedule` answers like a call of Caffe's `SGDSolver::GetLearningRate`. What such a call changes
(the step of multistep and plateau) lives in a `RateState`, which is also what a .solverstate keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import Locator, SolverError
from caffeio.profiles import BVLC, Profile, profile_of_solver
from caffeio.solver.policies import (
    NVIDIA_POLICIES,
    POLICIES,
    STATEFUL,
    Floats,
    Ints,
    nvidia_momentum,
    nvidia_weight_decay,
    ramp_up,
    warm_up,
)

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import SolverParameter

Log = Callable[[str], None]

FLT_MAX = float(np.finfo(np.float32).max)


@dataclass
class RateState:
    """What the rate depends on besides the iteration; saved in .solverstate files.

    `smoothed_loss` is the average over `average_loss` iterations that Caffe displays, the
    current iteration included; only the plateau policy reads it.
    """

    current_step: int = 0
    minimum_loss: float = FLT_MAX
    iter_last_event: int = 0
    smoothed_loss: float = 0.0


class Rates(NamedTuple):
    """The rates of one iteration: as logged, and as used (one number, or one a parameter)."""

    printed: np.float32
    used: np.float32 | Floats


class SmoothedLoss:
    """The running average of the training loss (`Solver::UpdateSmoothedLoss`), in float32.

    A new one starts with every `Solver::Step`: the window does not survive a resume.
    """

    def __init__(self, average_loss: int = 1) -> None:
        """`average_loss`: the length of the window, at least 1."""
        if average_loss < 1:
            raise SolverError(f"average_loss: must be at least 1, it is {average_loss}")
        self.size, self.value = average_loss, np.float32(0)
        self._window: list[np.float32] = []
        self._next = 0

    def update(self, loss: float) -> np.float32:
        """Take in the loss of the next iteration; the new average."""
        new = np.float32(loss)
        with np.errstate(all="ignore"):
            if len(self._window) < self.size:
                self._window.append(new)
                n = np.float32(len(self._window))
                self.value = np.float32((self.value * (n - np.float32(1)) + new) / n)
            else:
                step = (new - self._window[self._next]) / np.float32(self.size)
                self.value = np.float32(self.value + step)
                self._window[self._next] = new
        self._next = (self._next + 1) % self.size
        return self.value


class Schedule:
    """The learning rate of a solver, as the Caffe of `profile` computes it."""

    def __init__(
        self, solver: SolverParameter, profile: Profile = BVLC, *, locate: Locator | None = None
    ) -> None:
        """Check the fields that the policy needs.

        `locate(field)` gives a field's "file:line:column". Raises SolverError, naming the field,
        where Caffe fails a check at its first update (and where it divides by zero).
        """
        self.solver, self.profile, self.policy = solver, profile, solver.lr_policy
        self._locate = locate
        self._check_profile()
        self._check_policy()
        nvidia = profile.nvidia_policies
        self._formula = (NVIDIA_POLICIES if nvidia else POLICIES)[self.policy]
        self._early = ramp_up if nvidia else warm_up
        self.stateful = self.policy in STATEFUL
        # Before this iteration (of Intel's warm-up or NVIDIA's ramp-up) the policy is not asked.
        self.policy_start = max(solver.rampup_interval if nvidia else solver.warmup_iter, 0)

    def rate(self, iteration: int, state: RateState, log: Log | None = None) -> np.float32:
        """One call of Caffe's rate function: may pass one step, which changes `state`.

        `iteration` counts the updates made so far (0 at the first). `log` receives the lines that
        Caffe writes ("MultiStep Status: ...", "Plateau Status: ...").
        """
        if iteration >= self.policy_start:
            if self.policy == "multistep":
                self._advance_multistep(iteration, state, log)
            elif self.policy == "plateau":
                self._advance_plateau(iteration, state, log)
            elif self.policy == "step":
                state.current_step = iteration // self.solver.stepsize
            elif self.policy == "fixed" and not self.profile.nvidia_policies:
                return np.float32(self.solver.base_lr)  # without arrays: it is asked so often
        steps = np.array([state.current_step], np.int64)
        return np.float32(self._at(np.array([iteration], np.int64), steps)[0])

    def rates(
        self, iteration: int, state: RateState, params: int = 1, log: Log | None = None
    ) -> Rates:
        """The rates of one whole iteration of a net with `params` learnable blobs.

        BVLC asks once. Intel Caffe asks once for the log and once a blob, and each call may pass
        a step: then `used` has one rate a blob. NVIDIA asks for the update, then for the log.
        """
        rate = self.rate(iteration, state, log)
        if not self.stateful or iteration < self.policy_start:
            return Rates(rate, rate)
        if self.profile.rate_calls_per_param:
            used = np.array([self.rate(iteration, state, log) for _ in range(params)], np.float32)
            return Rates(rate, rate if bool(np.all(used == rate)) else used)
        display = self.solver.display
        if self.profile.nvidia_policies and display and iteration % display == 0:
            return Rates(self.rate(iteration, state, log), rate)
        return Rates(rate, rate)

    def array(self, stop: int, *, losses: Sequence[float] | None = None, params: int = 1) -> Floats:
        """The rates that Caffe logs at iterations 0 to `stop` - 1 of a run: float32 [stop].

        `losses`: the training loss of every iteration (not averaged); the plateau policy needs it.
        `params`: learnable blobs of the net, of interest only where several steps are due at once.
        """
        calls = 1 + params if self.profile.rate_calls_per_param else 1
        if self.policy == "multistep":
            steps = self._multistep_steps(stop, calls)
        elif self.policy == "plateau":
            steps = self._plateau_steps(stop, self._enough(losses, stop), calls)
        else:
            steps = None
        return self._at(np.arange(stop, dtype=np.int64), steps)

    def at(self, iterations: Ints) -> Floats:
        """The rates of a stateless policy at `iterations`, int64 [n], in any order: float32 [n]."""
        return self._at(iterations, None)

    def momentum(self, iteration: int, rate: float) -> np.float32:
        """The momentum at `iteration`: NVIDIA's momentum_policy, elsewhere constant."""
        if self.profile.nvidia_policies:
            return nvidia_momentum(self.solver, iteration, rate)
        return np.float32(self.solver.momentum)

    def weight_decay(self, iteration: int) -> np.float32:
        """The weight decay at `iteration`: NVIDIA's weight_decay_policy, elsewhere constant."""
        if self.profile.nvidia_policies:
            return nvidia_weight_decay(self.solver, iteration)
        return np.float32(self.solver.weight_decay)

    def _at(self, t: Ints, steps: Ints | None) -> Floats:
        """The rates at iterations `t`, after `steps` steps."""
        with np.errstate(all="ignore"):  # poly_cyc past its end is nan, as in Caffe
            rates = self._formula(self.solver, t, np.zeros_like(t) if steps is None else steps)
            early = t < self.policy_start if self.policy_start else None
            if early is not None and early.any():
                rates = np.where(early, self._early(self.solver, t), rates)
        if self.profile.nvidia_policies:
            low = np.float32(self.solver.min_lr)
            rates = np.where(rates < low, low, rates)
        return rates

    # What the policies with a memory remember.

    def _advance_multistep(self, iteration: int, state: RateState, log: Log | None) -> None:
        values = self.solver.stepvalue
        if state.current_step < len(values) and iteration >= values[state.current_step]:
            state.current_step += 1
            if log:
                log(f"MultiStep Status: Iteration {iteration}, step = {state.current_step}")

    def _advance_plateau(self, iteration: int, state: RateState, log: Log | None) -> None:
        if state.smoothed_loss < state.minimum_loss:
            state.minimum_loss, state.iter_last_event = float(state.smoothed_loss), iteration
        sizes, step = self.solver.plateau_winsize, state.current_step
        if step < len(sizes) and iteration >= state.iter_last_event + sizes[step]:
            state.current_step, state.iter_last_event = step + 1, iteration
            if log:
                log(f"Plateau Status: Iteration {iteration}, step = {state.current_step}")
        display = self.solver.display
        shown = log is not None and display and iteration % display == 0
        if log and shown and state.iter_last_event > iteration - display:
            least = f"{state.minimum_loss:g}"
            log(f"Plateau Status: Iteration {iteration}, current minimum_loss = {least}")

    def _multistep_steps(self, stop: int, calls: int) -> Ints:
        """The steps passed after the first rate call of every iteration before `stop`."""
        steps = np.zeros(stop, np.int64)
        values, done, t = list(self.solver.stepvalue), 0, self.policy_start
        while done < len(values) and (due := max(t, values[done])) < stop:
            steps[due:] = done + 1
            for _ in range(calls):
                if done < len(values) and due >= values[done]:
                    done += 1
            t = due + 1
            steps[t:] = done
        return steps

    def _plateau_steps(self, stop: int, losses: Sequence[float], calls: int) -> Ints:
        state, steps = RateState(), np.zeros(stop, np.int64)
        smoothed = SmoothedLoss(self.solver.average_loss)
        for t in range(stop):
            state.smoothed_loss = float(smoothed.update(losses[t]))
            for call in range(calls if t >= self.policy_start else 0):
                self._advance_plateau(t, state, None)
                if call == 0:
                    steps[t] = state.current_step
        return steps

    def _enough(self, losses: Sequence[float] | None, stop: int) -> Sequence[float]:
        given = 0 if losses is None else len(losses)
        if losses is None or given < stop:
            raise self._error(
                "lr_policy",
                f'"plateau" follows the training loss: it wants the losses of {stop} iterations, '
                f"{given} are given",
            )
        return losses

    # Checks.

    def _check_profile(self) -> None:
        """Fields of another Caffe must not be passed over in silence."""
        solver, profile = self.solver, self.profile
        foreign = {"warmup_iter": "intel"} if not profile.warmup else {}
        if profile.nvidia_policies:
            self._check_nvidia()
        else:
            foreign |= dict.fromkeys(("rampup_interval", "min_lr"), "nvidia")
            foreign |= dict.fromkeys(("momentum_policy", "weight_decay_policy"), "nvidia")
        for field, owner in foreign.items():
            if getattr(solver, field) not in (0, "fixed"):
                raise self._error(
                    field, f"profile {profile.name!r} has no such field; {owner!r} has it"
                )

    def _check_nvidia(self) -> None:
        solver = self.solver
        if solver.min_lr < 0:
            raise self._error("min_lr", f"must not be negative, it is {solver.min_lr:g}")
        if solver.lr_policy == "poly" and solver.base_lr < solver.min_lr:
            raise self._error(
                "min_lr", f"{solver.min_lr:g} is above base_lr, {solver.base_lr:g} (policy poly)"
            )
        if solver.momentum_policy not in ("fixed", "poly", "opt"):
            raise self._error(
                "momentum_policy",
                f"Unknown momentum policy: {solver.momentum_policy} (known: fixed, poly, opt)",
            )

    def _check_policy(self) -> None:
        policy, solver, strict = self.policy, self.solver, self.profile.checks_rate_fields
        if policy not in POLICIES:
            close = get_close_matches(policy, POLICIES, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(POLICIES)
            given = policy or "lr_policy is missing"
            raise self._error(
                "lr_policy", f"Unknown learning rate policy: {given} (known: {known}){hint}"
            )
        if (policy == "step" or (strict and policy == "sigmoid")) and solver.stepsize <= 0:
            raise self._error("stepsize", f"must be positive {self._for_policy(solver.stepsize)}")
        uses_gamma = policy in ("step", "exp", "inv", "multistep", "sigmoid")
        if strict and uses_gamma and solver.gamma < 0:
            raise self._error("gamma", f"must not be negative {self._for_policy(solver.gamma)}")
        if policy == "multifixed" and not len(solver.stagelr) == len(solver.stageiter) > 0:
            raise self._error(
                "stagelr",
                f'lr_policy "multifixed" wants as many stagelr as stageiter, at least one; '
                f"there are {len(solver.stagelr)} and {len(solver.stageiter)}",
            )

    def _for_policy(self, value: float) -> str:
        return f'for lr_policy "{self.policy}", it is {value:g}'

    def _error(self, field: str, message: str) -> SolverError:
        place = field if _is_set(self.solver, field) else "lr_policy"
        location = self._locate(place) if self._locate else None
        return SolverError(f"{field}: {message}", where=location)


def _is_set(solver: Any, field: str) -> bool:
    """Whether `field` (optional or repeated) stands in the solver."""
    return any(descriptor.name == field for descriptor, _ in solver.ListFields())


def load_schedule(
    solver: SolverParameter | str | os.PathLike[str] | Any, profile: Profile | None = None
) -> Schedule:
    """The schedule of a solver given as message, as what `read_solver` returns, as path or text.

    `profile`: whose Caffe; by default that of the file's dialect and of the fields it uses, less
    the checks that came late to BVLC (a negative gamma), for a file may be older or of a fork.
    """
    if isinstance(solver, (str, os.PathLike)):
        from caffeio.proto.files import read_solver

        solver = read_solver(solver)
    file: Any = solver
    if not hasattr(file, "message"):
        return Schedule(file, profile or _lenient(profile_of_solver(file)))
    chosen = profile or _lenient(profile_of_solver(file.message, file.dialect))
    return Schedule(file.message, chosen, locate=file.locate)


def _lenient(profile: Profile) -> Profile:
    return replace(profile, checks_rate_fields=False)


def learning_rates(
    solver: SolverParameter | str | os.PathLike[str] | Any,
    iterations: int | Iterable[int] | NDArray[Any],
    profile: Profile | None = None,
    losses: Sequence[float] | None = None,
) -> Floats:
    """The learning rates of a run that begins at iteration 0, as Caffe logs them.

    `solver`: a SolverParameter, what `read_solver` returns, or a path (or text). `iterations`: how
    many (0 to n - 1), or which ones, in any order and shape. `profile`: whose Caffe; by default
    that of the file's dialect and fields. `losses`: the training loss of every iteration up to the
    last that is asked for; only the plateau policy needs it. Returns float32 of the same shape.

    Raises SolverError naming the field that Caffe would refuse.
    """
    schedule = load_schedule(solver, profile)
    if isinstance(iterations, SupportsIndex) and np.ndim(iterations) == 0:
        return schedule.array(int(iterations), losses=losses)
    listed = iterations if isinstance(iterations, np.ndarray) else list(iterations)  # type: ignore[arg-type]
    wanted = np.asarray(listed, np.int64)
    if wanted.size and wanted.min() < 0:
        raise SolverError(f"iterations: must not be negative, one is {wanted.min()}")
    if not schedule.stateful:
        return schedule.at(wanted.ravel()).reshape(wanted.shape)
    stop = int(wanted.max()) + 1 if wanted.size else 0
    return schedule.array(stop, losses=losses)[wanted]
