"""One training forward as a module, and how its gradients travel between workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from caffeio.net.net import Net


class TrainingStep(nn.Module):
    """One training forward as a module: what DistributedDataParallel wraps.

    `precision` "bf16" runs convolutions and products in bfloat16 (torch.autocast), weights and
    updates stay float32; `compile` traces the net with torch.compile.
    """

    def __init__(self, net: Net, precision: str = "fp32", compile: bool = False) -> None:
        super().__init__()
        self.net = net
        self.bf16 = precision == "bf16"
        self._run = (torch.compile(net),) if compile else (net,)  # a tuple: not a second submodule

    def forward(self, data: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total loss (scalar) and the net's outputs, for `data` or the next batch."""
        data = self.net.read_inputs() if data is None else data
        kind = next(iter(data.values())).device.type if data else "cpu"
        if self.bf16 or torch.is_autocast_enabled(kind):  # else there is nothing to switch
            with torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
                outputs = self._run[0](data)
        else:
            outputs = self._run[0](data)
        return self.net.loss, outputs


class _LossAlone(nn.Module):
    """A training step that returns its loss, and keeps the outputs aside."""

    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        self.step = step
        self.outputs: dict[str, Tensor] = {}

    def forward(self, data: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss (scalar), for `data` or the next batch."""
        loss, self.outputs = self.step(data)
        return loss  # type: ignore[no-any-return]


class ParallelStep(DistributedDataParallel):
    """A training step whose backward averages the gradients over the workers.

    DistributedDataParallel copies every tensor that a forward returns: here that is the loss alone.
    """

    def __init__(self, step: TrainingStep, **options: Any) -> None:
        super().__init__(_LossAlone(step), **options)

    def forward(self, *data: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """What TrainingStep returns."""
        loss = super().forward(*data)  # type: ignore[no-untyped-call]
        return loss, self.module.outputs


def compressed(kind: torch.dtype, bucket: Any) -> torch.futures.Future[Tensor]:
    """Average a bucket over the workers in 16 bits; torch's own hook for bfloat16 needs NCCL."""
    buffer: Tensor = bucket.buffer()
    small = buffer.to(kind).div_(dist.get_world_size())
    work = dist.all_reduce(small, async_op=True)
    assert work is not None
    arrived: torch.futures.Future[list[Tensor]] = work.get_future()
    return arrived.then(lambda done: buffer.copy_(done.value()[0]))
