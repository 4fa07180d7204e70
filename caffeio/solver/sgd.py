"""SGD with its variants: fused or not, warm-up correction, LARS, and NVIDIA's LARC, WD and SAG."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caffeio.solver import kernels
from caffeio.solver.groups import Batch
from caffeio.solver.optimizer import CaffeOptimizer, solver_type
from caffeio.solver.policies import nvidia_momentum, warm_up_rate
from caffeio.solver.rules import scale


@solver_type("SGD")
class SGD(CaffeOptimizer):
    """h = momentum * h + eta * g; D = h. With NVIDIA's WD: D = h + eta * decay * w."""

    state_names = ("momentum_buffer",)
    kernel = "sgd"
    zero_rate_is_idle = True

    def _check(self) -> None:
        super()._check()
        solver, profile = self.solver, self.profile
        if solver.local_lr_auto and profile.lars is None:
            raise self._error(
                "local_lr_auto", f"profile {profile.name!r} has no such field; 'intel' has it"
            )
        if solver.larc and not profile.nvidia_policies:
            raise self._error("larc", f"profile {profile.name!r} has no such field; 'nvidia' has")
        if solver.larc and solver.larc_policy not in ("scale", "clip"):
            raise self._error(
                "larc_policy", f"Unknown larc policy: {solver.larc_policy} (known: scale, clip)"
            )
        self._correlation: dict[int, Tensor] = {}  # of gradient and history, for larc_turbo

    def _is_l2(self) -> bool:
        return self.solver.regularization_type in ("L2", "L2_unitary")

    @property
    def _decoupled(self) -> bool:
        return self.solver.regularization_type == "WD"

    def _begin(self) -> None:
        momentum = np.float32(self.solver.momentum)
        if self.profile.nvidia_policies:
            momentum = nvidia_momentum(self.solver, self._iteration, float(self._rates.flat[0]))
        elif self._corrects_momentum():
            # As in Caffe: in a warm-up that starts at 0 this is infinite, then all is nan.
            before = warm_up_rate(self.solver, self._iteration - 1)
            with np.errstate(all="ignore"):
                momentum = momentum * (self._rates.flat[0] / before)
        self._momentum = float(momentum)

    def _corrects_momentum(self) -> bool:
        """Whether momentum grows with the rate, as in the warm-up of Intel's unfused code."""
        warming = 0 < self._iteration < self.solver.warmup_iter
        return warming and self.profile.warmup_momentum_correction

    def _adapt(self, batch: Batch) -> None:
        if batch.lr_mult <= 0:
            return
        if self.solver.larc:
            self._normalise(batch)
            ratios = self._larc(batch)
        elif self.solver.local_lr_auto:
            if self.profile.lars != "sara_fused":
                self._normalise(batch)
            if self.profile.lars == "sara_unfused":
                self._regularise(batch)
            ratios = self._lars(batch)
        else:
            return
        batch.eta = [self._local(i, ratio) for i, ratio in zip(batch.indices, ratios, strict=True)]

    def _local(self, index: int, ratio: Tensor) -> Tensor:
        """The rate of a blob from its own ratio, a scalar tensor."""
        rate = float(self._rates[index])
        if self.solver.larc and self.solver.larc_policy == "clip":
            return ratio.clamp(max=rate)
        return ratio * rate

    def _lars(self, batch: Batch) -> list[Tensor]:
        """gw_ratio * |w| / (|g| + weight_decay * |w|), blob by blob: it replaces lr_mult.

        You et al., arXiv:1708.03888. Which g this is differs: `profile.lars`.
        """
        weights, grads = torch._foreach_norm(batch.params), torch._foreach_norm(batch.grads)
        gain, decay = self.solver.local_gw_ratio, float(self._weight_decay())
        w, g = torch.stack(weights), torch.stack(grads)
        ratios = torch.where((w > 0) & (g > 0), gain * w / (g + decay * w), torch.ones_like(w))
        return list(ratios.unbind())

    def _larc(self, batch: Batch) -> list[Tensor]:
        """(1 - momentum) * larc_eta * |w| / |g|; turbo: less 0.9 * correlation of g and h."""
        weights, grads = torch._foreach_norm(batch.params), torch._foreach_norm(batch.grads)
        gain = float((np.float32(1) - np.float32(self._momentum)) * self.solver.larc_eta)
        w, g = torch.stack(weights), torch.stack(grads)
        ratios = list(torch.where((w > 0) & (g > 0), gain * w / g, torch.ones_like(w)).unbind())
        if self.solver.larc_turbo:
            turbo = self._correlations(batch, list(grads))
            ratios = [r - 0.9 * c for r, c in zip(ratios, turbo, strict=True)]
        return ratios

    def _correlations(self, batch: Batch, norms: list[Tensor]) -> list[Tensor]:
        """The running average (0.95) of the cosine between gradient and history, by blob."""
        lists = (batch.indices, batch.grads, batch.history[0], norms)
        for i, grad, history, norm in zip(*lists, strict=True):
            size = torch.linalg.vector_norm(history)
            dot = (grad * history).sum()
            cosine = torch.where((norm > 0) & (size > 0), dot / (norm * size), dot * 0)
            old = self._correlation.get(i, torch.zeros_like(cosine))
            self._correlation[i] = 0.95 * old + (1 - 0.95) * cosine
        return [self._correlation[i] for i in batch.indices]

    def _fusible(self, batch: Batch) -> bool:
        if self.keep_diff and batch.decay and not self._kernel_decays():
            return False
        return batch.takes("sgd")  # with its D, the history

    def _kernel_decays(self) -> bool:
        return self._is_l2() or self._decoupled

    def _fuse(self, batch: Batch, eta: float) -> None:
        decay = batch.decay
        if decay and self._decoupled:
            torch._foreach_mul_(batch.params, 1.0 - float(np.float32(decay * eta)))
            decay = 0.0
        kernels.sgd(
            batch.params,
            batch.grads,
            batch.history[0],
            momentum=self._momentum,
            gain=eta,
            decay=decay,
            grad_scale=batch.divisor(),
        )

    def _regularise(self, batch: Batch) -> None:
        if not self._decoupled:
            super()._regularise(batch)

    def _value(self, batch: Batch) -> list[Tensor]:
        (history,) = batch.history
        torch._foreach_mul_(history, self._momentum)
        scale(batch.grads, batch.eta)
        torch._foreach_add_(history, batch.grads)
        if not batch.decay:
            return history
        shrink = [w * batch.decay for w in batch.params]
        scale(shrink, batch.eta)
        torch._foreach_add_(shrink, history)
        return shrink

    def _leaves_gradient(self, decay: float) -> bool:
        if self.profile.nvidia_policies:
            return True
        return self.profile.fused_sgd and self._is_l2() and decay != 0

    def update_of(self, index: int) -> Tensor:
        """The history, which is the update; the gradient after fused code and skipped blobs."""
        blob = self.blobs[index]
        skipped = blob.lr_mult == 0 and self.profile.skip_lr_mult_0
        if skipped or self._leaves_gradient(self._decay(index)):
            return super().update_of(index)
        history: Tensor = self.state[blob.tensor][self.state_names[0]]
        return history


@solver_type("SAG")
class SAG(SGD):
    """NVIDIA's: h = momentum * h + (1 - momentum) * (g + decay * w); D = eta * h.

    With WD: h = momentum * h + (1 - momentum) * g; D = eta * (h + decay * w). As its GPU code
    (src/caffe/solvers/sag_solver.cu); on a CPU NVIDIA Caffe runs plain SGD under this name.
    """

    nvidia_only = True
    zero_rate_is_idle = False

    def _check(self) -> None:
        super()._check()
        kind = self.solver.regularization_type
        if kind not in ("L2", "WD"):
            raise self._error(
                "regularization_type", f"Unknown regularization mode: {kind} (known: L2, WD)"
            )

    def _larc(self, batch: Batch) -> list[Tensor]:
        """larc_eta * |w| / |h|; turbo, from the third iteration: times 1 - 0.9 * correlation."""
        weights, sizes = torch._foreach_norm(batch.params), torch._foreach_norm(batch.history[0])
        ratios = [
            torch.where((w > 0) & (h > 0), self.solver.larc_eta * w / h, torch.ones_like(w))
            for w, h in zip(weights, sizes, strict=True)
        ]
        if self.solver.larc_turbo and self._iteration > 1:
            turbo = self._correlations(batch, list(torch._foreach_norm(batch.grads)))
            ratios = [r * (1 - 0.9 * c) for r, c in zip(ratios, turbo, strict=True)]
        return ratios

    def _fusible(self, batch: Batch) -> bool:
        return not (batch.decay and self._decoupled) and super()._fusible(batch)

    def _fuse(self, batch: Batch, eta: float) -> None:
        kernels.sgd(
            batch.params,
            batch.grads,
            batch.history[0],
            momentum=self._momentum,
            gain=1.0 - self._momentum,
            decay=batch.decay,
            lr=eta,
            grad_scale=batch.divisor(),
        )

    def _value(self, batch: Batch) -> list[Tensor]:
        (history,) = batch.history
        torch._foreach_mul_(history, self._momentum)
        torch._foreach_add_(history, batch.grads, alpha=1.0 - self._momentum)
        if batch.decay:
            values = list(torch._foreach_mul(batch.params, batch.decay))
            torch._foreach_add_(values, history)
        else:
            values = [h.clone() for h in history]
        scale(values, batch.eta)
        return values
