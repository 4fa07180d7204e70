"""What all solver types share: Caffe's ApplyUpdate around a type's own formula.

Order of operations (SGDSolver::ApplyUpdate, src/caffe/solvers/sgd_solver.cpp): the gradients of
iter_size batches have been added up; they are clipped as they are, all learnable blobs together;
then blob by blob divided by iter_size, regularised, turned into the update value D; w -= D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from caffeio.errors import Locator, SnapshotError, SolverError, UnsupportedError
from caffeio.profiles import Profile
from caffeio.solver.groups import Batch, Learnable, UpdatePlan
from caffeio.solver.policies import nvidia_weight_decay

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import SolverParameter

_UNSUPPORTED = ("clip_weights", "clamp_weights_lower", "clamp_weights_upper")


def _common_norm(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of all elements of all tensors, a float32 scalar on the device of the first."""
    home = tensors[0].device
    norms = [norm.to(home, torch.float32) for norm in torch._foreach_norm(tensors)]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


Clipped = tuple[float, float]  # the L2 norm before clipping, the factor


class CaffeOptimizer(Optimizer):
    """Updates blobs as Caffe's solver does; one subclass a solver type.

    A torch optimizer with param_groups by multipliers and a state_dict of its own; the learning
    rate is not in the groups but comes with every `step`: schedules belong to `Schedule`.
    """

    type: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]  # of the kinds of history, in the order of .solverstate
    scratch_names: tuple[str, ...] = ()  # kept between updates, but not in .solverstate
    kernel: ClassVar[str | None] = None  # torch's fused one for its formula
    nvidia_only: ClassVar[bool] = False
    delta_floor: ClassVar[float] = 0.0  # NVIDIA's lower limit of the field `delta`
    zero_rate_is_idle: ClassVar[bool] = False  # lr_mult 0: the history stays 0, nothing happens

    def __init__(
        self,
        solver: SolverParameter,
        profile: Profile,
        params: Sequence[Learnable],
        *,
        locate: Locator | None = None,
    ) -> None:
        """Allocate zero histories for `params`, which are in Caffe's order (`net.learnable`).

        Raises SolverError where Caffe's constructor or first update would stop.
        """
        self.solver, self.profile, self.blobs = solver, profile, list(params)
        self._locate = locate
        self.clip_gradients = float(solver.clip_gradients)
        self.keep_diff = bool(solver.snapshot_diff)
        floor = self.delta_floor if profile.delta_floor else 0.0
        self.delta = max(float(solver.delta), float(np.float32(floor)))
        self._clip_done = False
        self._idle: set[int] | None = None
        self._plan: UpdatePlan | None = None
        self._iteration = 0
        self._check()
        self._first: dict[tuple[float, float], int] = {}  # blob of each group, for its rate
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for i, blob in enumerate(self.blobs):
            key = (blob.lr_mult, blob.decay_mult)
            self._first.setdefault(key, i)
            group = groups.setdefault(
                key, {"params": [], "lr_mult": blob.lr_mult, "decay_mult": blob.decay_mult}
            )
            group["params"].append(blob.tensor)
        defaults = {"momentum": solver.momentum, "weight_decay": solver.weight_decay}
        super().__init__(list(groups.values()) or [{"params": []}], defaults)
        self._names = (*self.state_names, *self.scratch_names)
        for blob in self.blobs:
            self.state[blob.tensor] = {
                name: torch.zeros_like(blob.tensor, requires_grad=False) for name in self._names
            }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, without the compiler that torch loads to leave this out."""
        plain = getattr(Optimizer.add_param_group, "__wrapped__", Optimizer.add_param_group)
        plain(self, param_group)

    # The state.

    @property
    def history(self) -> list[Tensor]:
        """The histories in the order of a .solverstate: all blobs, then all second histories."""
        return [self.state[b.tensor][name] for name in self.state_names for b in self.blobs]

    def load_history(self, history: Sequence[np.ndarray | Tensor]) -> None:
        """Take the histories of a .solverstate, in its order, each of its blob's element count.

        Raises SnapshotError if they are not those of this net and solver type.
        """
        self.check_history(history)
        with torch.no_grad():
            for mine, new in zip(self.history, history, strict=True):
                # an array of a file may be read-only and unaligned: torch wants neither
                values = new if isinstance(new, Tensor) else torch.from_numpy(np.array(new))
                mine.copy_(values.reshape(mine.shape))
        self._idle = self._plan = None

    def check_history(self, history: Sequence[np.ndarray | Tensor]) -> None:
        """Raise SnapshotError if `load_history` could not take these."""
        own = self.history
        if len(history) != len(own):
            raise SnapshotError(
                f"Incorrect length of history blobs: the state holds {len(history)}, "
                f"{'an' if self.type[0] in 'AEIOU' else 'a'} {self.type} solver of this net has "
                f"{len(own)}: the state was probably written by another type of solver"
            )
        for i, (mine, new) in enumerate(zip(own, history, strict=True)):
            if math.prod(new.shape) != mine.numel() or not _alike(new.shape, mine.shape):
                blob = self.blobs[i % len(self.blobs)]
                raise SnapshotError(
                    f"history blob {i} has shape {tuple(new.shape)}, blob {blob.index} of layer "
                    f"{blob.layer!r} has {tuple(mine.shape)}"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Torch's own, of a `state_dict()` of this class."""
        super().load_state_dict(state_dict)
        self._idle = self._plan = None

    def diffs(self) -> list[Tensor]:
        """What Caffe's diff memory of every blob holds after the last step (for snapshot_diff).

        That is the update D, or in fused code the gradient. Raises SolverError if it was not kept.
        """
        return [self.update_of(i) for i in range(len(self.blobs))]

    def update_of(self, index: int) -> Tensor:
        """Return the diff of one parameter."""
        if not self.keep_diff:
            raise SolverError("diffs are kept with snapshot_diff: true only")
        tensor = self.blobs[index].tensor
        if index in self._idle_blobs() and not self.profile.skip_lr_mult_0:
            return torch.zeros_like(tensor, requires_grad=False)
        return tensor.grad if tensor.grad is not None else self._current_plan().zeros(index)

    # One update.

    @torch.no_grad()
    def clip(self, *, report: bool = True) -> Clipped | None:
        """Scale the gradients down if their common L2 norm is above `clip_gradients`.

        `step` does it by itself if it has not been done. With `report` the answer is the norm and
        the factor if there was something to scale; without, CUDA devices are not waited for.
        """
        self._clip_done = True
        if self.clip_gradients < 0:
            return None
        grads = [b.tensor.grad for b in self.blobs if b.tensor.grad is not None]
        if not grads:
            return None
        if not report and grads[0].device.type != "cpu":
            self._clip_unseen(grads)
            return None
        norm = float(_common_norm(grads))
        if not norm > self.clip_gradients:
            return None
        factor = float(np.float32(self.clip_gradients) / np.float32(norm))
        torch._foreach_mul_(grads, factor)
        return norm, factor

    def _clip_unseen(self, grads: list[Tensor]) -> None:
        """Clip without asking the device for the norm: always one multiplication."""
        norm = _common_norm(grads)
        factor = torch.where(norm > self.clip_gradients, self.clip_gradients / norm, 1.0)
        for grad in grads:
            grad.mul_(factor.to(grad.device))

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, rate: float | Sequence[float] | np.ndarray, iteration: int
    ) -> None:
        """Apply one update: `rate` is the learning rate (or one a blob), `iteration` from 0.

        The gradients are used up: what they hold afterwards is not defined (but see `diffs`).
        """
        if not self._clip_done:
            self.clip(report=False)
        self._clip_done = False
        self._rate = np.asarray(rate, np.float32)
        count = len(self.blobs)
        one = self._rate.ndim == 0
        self._rates = np.full(count, self._rate) if one else np.broadcast_to(self._rate, (count,))
        self._iteration = iteration
        self._begin()
        for batch in self._batches():
            self._adapt(batch)
            one_by_one = isinstance(batch.eta, list) and batch.on_cpu
            for part in batch.singles() if one_by_one else (batch,):
                self._update(part)

    def _begin(self) -> None:
        """Set what the formula needs besides the batches; called once a step."""

    def _adapt(self, batch: Batch) -> None:
        """Replace eta by a rate of each blob's own (LARS); most types do not."""

    def _update(self, batch: Batch) -> None:
        """Update `batch`, by the fused kernel if it can be."""
        if not self._fusible(batch):
            self._by_parts(batch, self._plain)
            return
        if batch.decay and not self._kernel_decays():
            self._by_parts(batch, self._regularised_and_fused)
            return
        assert isinstance(batch.eta, float)
        self._fuse(batch, batch.eta)

    def _by_parts(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        for part in batch.pieces() if batch.on_cpu else (batch,):
            work(part)

    def _fusible(self, batch: Batch) -> bool:
        """Whether the fused kernel may update `batch`: it leaves no D for snapshot_diff."""
        return self.kernel is not None and not self.keep_diff and batch.takes(self.kernel)

    def _kernel_decays(self) -> bool:
        """Whether the kernel does this regularization by itself."""
        return self._is_l2()

    def _fuse(self, batch: Batch, eta: float) -> None:
        """Update `batch` by the fused kernel."""
        raise NotImplementedError

    def _value(self, batch: Batch) -> list[Tensor]:
        """The update values D of regularised gradients; the histories move on."""
        raise NotImplementedError

    def _plain(self, batch: Batch) -> None:
        """Update `batch` by plain operations, in the order of Caffe's own."""
        self._normalise(batch)
        leave = self.keep_diff and self._leaves_gradient(batch.decay)
        if leave:
            batch.grads = [grad.clone() for grad in batch.grads]
        self._regularise(batch)
        values = self._value(batch)
        torch._foreach_sub_(batch.params, values)
        if self.keep_diff and not leave and values is not batch.grads:
            torch._foreach_copy_(batch.grads, values)

    def _regularised_and_fused(self, batch: Batch) -> None:
        """Regularise, then let the kernel update what still lies in the cache."""
        self._normalise(batch)
        self._regularise(batch)
        assert isinstance(batch.eta, float)
        self._fuse(batch, batch.eta)

    def _leaves_gradient(self, decay: float) -> bool:
        """Whether Caffe leaves the gradient in the diff memory, not D (`decay`: of the blob)."""
        return False

    def _normalise(self, batch: Batch) -> None:
        if batch.iter_size != 1:
            torch._foreach_mul_(batch.grads, float(np.float32(1) / np.float32(batch.iter_size)))
            batch.iter_size = 1

    def _regularise(self, batch: Batch) -> None:
        """L2: g += decay * w; L1: g += decay * sign(w)."""
        if batch.decay == 0:
            return
        if self._is_l2():
            torch._foreach_add_(batch.grads, batch.params, alpha=batch.decay)
        else:
            torch._foreach_add_(batch.grads, torch._foreach_sign(batch.params), alpha=batch.decay)
        batch.decay = 0.0

    def _is_l2(self) -> bool:
        return self.solver.regularization_type == "L2"

    # Preparing it.

    def _batches(self) -> Iterator[Batch]:
        """The blobs to update, grouped so that each batch is one call."""
        for shown in self.param_groups if self.blobs else ():
            first = self._first[shown["lr_mult"], shown["decay_mult"]]
            shown["lr"] = float(self._rates[first] * np.float32(shown["lr_mult"]))
        weight_decay = self._weight_decay()
        plan = self._current_plan()
        for group in plan.groups:
            decay = float(weight_decay * np.float32(group.decay_mult))
            for positions, rate in group.split(self._rate):
                indices = [group.indices[k] for k in positions]
                yield Batch(
                    indices,
                    [group.params[k] for k in positions],
                    [plan.grad(i, replace=self.keep_diff) for i in indices],
                    [[kind[k] for k in positions] for kind in group.history],
                    group.lr_mult,
                    float(np.float32(rate) * np.float32(group.lr_mult)),
                    decay,
                    self.solver.iter_size,
                    group.dense,
                )

    def _current_plan(self) -> UpdatePlan:
        if self._plan is None or not self._plan.valid():
            self._plan = UpdatePlan(self.blobs, self.state, self._names, self._idle_blobs())
        return self._plan

    def _decay(self, index: int) -> float:
        """weight_decay * decay_mult of a blob."""
        return float(self._weight_decay() * np.float32(self.blobs[index].decay_mult))

    def _weight_decay(self) -> np.float32:
        if self.profile.nvidia_policies:
            return nvidia_weight_decay(self.solver, self._iteration)
        return np.float32(self.solver.weight_decay)

    def _idle_blobs(self) -> set[int]:
        """Blobs of lr_mult 0 that an update would not change, their history included."""
        if self._idle is None:
            fixed = [i for i, blob in enumerate(self.blobs) if blob.lr_mult == 0]
            if not self.profile.skip_lr_mult_0:
                fixed = [i for i in fixed if self.zero_rate_is_idle and not self._moves(i)]
            self._idle = set(fixed)
        return self._idle

    def _moves(self, index: int) -> bool:
        state = self.state[self.blobs[index].tensor]
        return any(bool(state[name].any()) for name in self.state_names)

    # Checks.

    def _check(self) -> None:
        solver = self.solver
        if solver.iter_size < 1:
            raise self._error("iter_size", f"must be at least 1, it is {solver.iter_size}")
        if self.nvidia_only and not self.profile.nvidia_policies:
            raise self._error("type", f"solvers of type {self.type} need the profile 'nvidia'")
        for field in _UNSUPPORTED:
            if solver.HasField(field):
                raise UnsupportedError(f"{field}: weights are not clamped here")
        known, kind = self._regularizations(), solver.regularization_type
        decays = any(blob.decay_mult for blob in self.blobs) and solver.weight_decay
        if kind not in known and decays:
            raise self._error(
                "regularization_type",
                f"Unknown regularization type: {kind} (known: {', '.join(known)})",
            )

    def _regularizations(self) -> tuple[str, ...]:
        """What regularization_type may be; NVIDIA's kernels take all but SGD's own for L1."""
        if self.profile.nvidia_policies:
            return ("L2", "L1", "L2_unitary", "WD")
        return ("L2", "L1")

    def _no_momentum(self) -> None:
        if self.solver.momentum != 0:
            raise self._error("momentum", f"Momentum cannot be used with {self.type}.")

    def _error(self, field: str, message: str) -> SolverError:
        location = self._locate(field) if self._locate else None
        return SolverError(f"{field}: {message}", where=location)


SOLVERS: dict[str, type[CaffeOptimizer]] = {}
_Class = TypeVar("_Class", bound=type[CaffeOptimizer])


def solver_type(name: str) -> Callable[[_Class], _Class]:
    """Register a class as the solver type `name`."""

    def register(cls: _Class) -> _Class:
        if name in SOLVERS:
            raise ValueError(f"solver type {name} is registered twice")
        SOLVERS[name] = cls
        cls.type = name
        return cls

    return register


def _alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes differ in axes of length 1 only (legacy blobs have 4), or one is flat."""
    a, b = ([n for n in shape if n != 1] for shape in (one, other))
    return a == b or len(a) <= 1
