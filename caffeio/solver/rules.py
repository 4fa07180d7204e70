"""The update formulas of Caffe's solver types (src/caffe/solvers/*_solver.cpp).

eta is the learning rate times lr_mult, g the normalised and regularised gradient, D what is
subtracted from the weights. In SGD and Nesterov the rate is part of the history: when it drops,
old velocity keeps its old rate (torch.optim.SGD multiplies by the rate afterwards).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caffeio.solver import kernels
from caffeio.solver.groups import Batch
from caffeio.solver.optimizer import CaffeOptimizer, solver_type


def scale(tensors: list[Tensor], by: float | list[Tensor]) -> None:
    """Multiply each tensor by `by`, or by its own scalar of it."""
    if isinstance(by, float):
        torch._foreach_mul_(tensors, by)
        return
    for tensor, factor in zip(tensors, by, strict=True):
        tensor.mul_(factor)


def average(history: list[Tensor], squares_of: list[Tensor], decay: float) -> None:
    """h = decay * h + (1 - decay) * x^2."""
    torch._foreach_mul_(history, decay)
    torch._foreach_addcmul_(history, squares_of, squares_of, value=1.0 - decay)


@solver_type("Nesterov")
class Nesterov(CaffeOptimizer):
    """h' = momentum * h + eta * g; D = (1 + momentum) * h' - momentum * h."""

    state_names = ("momentum_buffer",)
    kernel = "nesterov"
    zero_rate_is_idle = True

    def _fusible(self, batch: Batch) -> bool:
        eta = batch.eta if isinstance(batch.eta, float) else 0.0
        return super()._fusible(batch) and 1e-30 < abs(eta) < 1e30  # it divides by the inverse

    def _fuse(self, batch: Batch, eta: float) -> None:
        kernels.nesterov(
            batch.params,
            batch.grads,
            batch.history[0],
            momentum=self.solver.momentum,
            decay=eta * batch.decay,
            grad_scale=batch.scalar(batch.iter_size / eta),
        )

    def _value(self, batch: Batch) -> list[Tensor]:
        momentum, (history,) = self.solver.momentum, batch.history
        scale(batch.grads, batch.eta)
        back = torch._foreach_mul(history, momentum)
        torch._foreach_add_(batch.grads, back)
        torch._foreach_copy_(history, batch.grads)
        torch._foreach_mul_(batch.grads, float(np.float32(1) + np.float32(momentum)))
        torch._foreach_sub_(batch.grads, back)
        return batch.grads


@solver_type("AdaGrad")
class AdaGrad(CaffeOptimizer):
    """h += g^2; D = eta * g / (sqrt(h) + delta)."""

    state_names = ("sum",)
    kernel = "adagrad"
    delta_floor = 1e-3

    def _check(self) -> None:
        super()._check()
        self._no_momentum()

    def _fuse(self, batch: Batch, eta: float) -> None:
        kernels.adagrad(
            batch.params,
            batch.grads,
            batch.history[0],
            lr=eta,
            decay=batch.decay,
            delta=self.delta,
            grad_scale=batch.divisor(),
        )

    def _value(self, batch: Batch) -> list[Tensor]:
        (history,) = batch.history
        torch._foreach_addcmul_(history, batch.grads, batch.grads)
        root = torch._foreach_sqrt(history)
        torch._foreach_add_(root, self.delta)
        torch._foreach_div_(batch.grads, root)
        scale(batch.grads, batch.eta)
        return batch.grads


@solver_type("RMSProp")
class RMSProp(CaffeOptimizer):
    """h = r * h + (1 - r) * g^2; D = eta * g / (sqrt(h) + delta).

    Intel's: D' = eta * g / sqrt(h + delta) + momentum * D, where D is not kept in snapshots.
    """

    state_names = ("square_avg",)
    kernel = "adam"
    delta_floor = 1e-4

    def _check(self) -> None:
        super()._check()
        self._intel = self.profile.rmsprop == "intel"
        if self._intel and self.solver.momentum != 0:
            self.scratch_names = ("update",)
        elif not self._intel:
            self._no_momentum()
        if not 0 <= self.solver.rms_decay < 1:
            raise self._error(
                "rms_decay",
                f"rms_decay should lie between 0 and 1, it is {self.solver.rms_decay:g}",
            )

    def _fusible(self, batch: Batch) -> bool:
        return not self._intel and super()._fusible(batch)

    def _fuse(self, batch: Batch, eta: float) -> None:
        """Adam of beta1 = 0, whose first moment is the gradient in its own memory."""
        kernels.adam(
            batch.params,
            batch.grads,
            batch.grads,
            batch.history[0],
            lr=eta,
            betas=(0.0, self.solver.rms_decay),
            decay=batch.decay,
            delta=self.delta,
            grad_scale=batch.divisor(),
        )

    def _value(self, batch: Batch) -> list[Tensor]:
        history = batch.history[0]
        average(history, batch.grads, self.solver.rms_decay)
        if self._intel:
            root = list(torch._foreach_add(history, self.delta))
            torch._foreach_sqrt_(root)
        else:
            root = list(torch._foreach_sqrt(history))
            torch._foreach_add_(root, self.delta)
        torch._foreach_div_(batch.grads, root)
        scale(batch.grads, batch.eta)
        if self.scratch_names:
            update = batch.history[1]
            torch._foreach_mul_(update, self.solver.momentum)
            torch._foreach_add_(update, batch.grads)
            return update
        return batch.grads


@solver_type("AdaDelta")
class AdaDelta(CaffeOptimizer):
    """a = r * a + (1 - r) * g^2; u = g * sqrt((b + delta) / (a + delta));
    b = r * b + (1 - r) * u^2; D = eta * u, where r is the field `momentum`.
    """

    state_names = ("square_avg", "acc_delta")
    delta_floor = 1e-3

    def _value(self, batch: Batch) -> list[Tensor]:
        (squares, updates), rho = batch.history, self.solver.momentum
        average(squares, batch.grads, rho)
        ratio = torch._foreach_add(updates, self.delta)
        torch._foreach_div_(ratio, torch._foreach_add(squares, self.delta))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(batch.grads, ratio)
        average(updates, batch.grads, rho)
        scale(batch.grads, batch.eta)
        return batch.grads


@solver_type("Adam")
class Adam(CaffeOptimizer):
    """m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2;
    D = eta * sqrt(1 - b2^k) / (1 - b1^k) * m / (sqrt(v) + delta), k = iteration + 1.

    b1 is the field `momentum`, b2 `momentum2`. k counts the iterations of the solver, not the
    updates of a blob: a net that is fine-tuned begins at 1.
    """

    state_names = ("exp_avg", "exp_avg_sq")
    kernel = "adam"
    delta_floor = 1e-4

    def _begin(self) -> None:
        k = self._iteration + 1
        real = np.float32 if self.profile.nvidia_policies else np.float64
        b1, b2 = (real(np.float32(b)) for b in (self.solver.momentum, self.solver.momentum2))
        with np.errstate(all="ignore"):
            self._correction = np.float32(np.sqrt(1 - b2 ** real(k)) / (1 - b1 ** real(k)))

    def _corrected(self, eta: float) -> float:
        return float(np.float32(eta) * self._correction)

    def _fusible(self, batch: Batch) -> bool:
        below_1 = max(self.solver.momentum, self.solver.momentum2) < 1
        return below_1 and super()._fusible(batch)

    def _fuse(self, batch: Batch, eta: float) -> None:
        kernels.adam(
            batch.params,
            batch.grads,
            *batch.history,
            lr=self._corrected(eta),
            betas=(self.solver.momentum, self.solver.momentum2),
            decay=batch.decay,
            delta=self.delta,
            grad_scale=batch.divisor(),
        )

    def _value(self, batch: Batch) -> list[Tensor]:
        means, squares = batch.history
        b1, b2 = self.solver.momentum, self.solver.momentum2
        torch._foreach_mul_(means, b1)
        torch._foreach_add_(means, batch.grads, alpha=1.0 - b1)
        average(squares, batch.grads, b2)
        root = torch._foreach_sqrt(squares)
        torch._foreach_add_(root, self.delta)
        torch._foreach_copy_(batch.grads, means)
        torch._foreach_div_(batch.grads, root)
        assert isinstance(batch.eta, float)
        torch._foreach_mul_(batch.grads, self._corrected(batch.eta))
        return batch.grads
