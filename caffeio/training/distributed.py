"""One process or many: the only file that knows torch.distributed.

`torchrun` (or `caffeio train --nproc N`, which calls it) starts the workers; each trains on its
own share of the data with `batch_size` images, and gradients are averaged over the workers, as in
BVLC's NCCL solver (src/caffe/parallel.cpp) and Intel's multi-node solver.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from caffeio.errors import CaffeIOError
from caffeio.net.net import Net

TIMEOUT = timedelta(hours=6)  # a test on rank 0 alone may take long


class LossOf(nn.Module):
    """One training forward as a module: what DistributedDataParallel wraps.

    `precision` "bf16" runs convolutions and products in bfloat16 (torch.autocast), weights and
    updates stay float32; `compile` traces the net with torch.compile.
    """

    def __init__(self, net: Net, precision: str = "fp32", compile: bool = False) -> None:
        super().__init__()
        self.net = net
        self.bf16 = precision == "bf16"
        self._run = (torch.compile(net),) if compile else (net,)  # a tuple: not a second submodule

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total loss (scalar) and the net's outputs, for the next batch."""
        data = self.net.read_inputs()
        kind = next(iter(data.values())).device.type if data else "cpu"
        with torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
            outputs = self._run[0](data)
        return self.net.loss, outputs


@dataclass
class World:
    """The workers of one training run, and this process's place among them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None  # for flags: gloo, so that no GPU has to wait

    @classmethod
    def join(cls, device: str = "cpu", *, reason: str | None = None) -> World:
        """Join the workers that torchrun started; alone without it.

        `device`: "cpu", "cuda", "cuda:N" or "auto" (a GPU if there is one); of several workers
        each takes the GPU of its LOCAL_RANK. gloo carries the gradients of CPUs, NCCL those of
        GPUs. Raises CaffeIOError when CUDA is asked for (`reason` says why) and there is none.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if device.startswith("cuda"):
            if not torch.cuda.is_available():
                raise CaffeIOError(
                    f"a GPU is asked for ({reason or '-gpu or --device cuda'}), but PyTorch sees "
                    "none: say --device cpu to run on the CPU"
                )
            place = torch.device(device if ":" in device and size == 1 else f"cuda:{local}")
            if (place.index or 0) >= torch.cuda.device_count():
                raise CaffeIOError(
                    f"GPU {place.index} is asked for ({reason or device}), but PyTorch sees only "
                    f"{torch.cuda.device_count()}"
                )
            torch.cuda.set_device(place)
        else:
            place = torch.device("cpu")
        if size > 1 and not dist.is_initialized():
            backend = "nccl" if place.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)
        control = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
        return cls(rank, size, place, control)

    @property
    def is_root(self) -> bool:
        """Whether this worker logs, tests and writes snapshots."""
        return self.rank == 0

    def leave(self) -> None:
        """Close the connections."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, net: Net, precision: str = "fp32", compile: bool = False) -> nn.Module:
        """The module to call in training: it averages the gradients in its backward."""
        module = LossOf(net, precision, compile)
        if self.size == 1 or not any(p.requires_grad for p in net.parameters()):
            return module
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    @contextlib.contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Within iter_size: only the last backward exchanges gradients."""
        if isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
        else:
            yield

    def mean(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the workers, in one exchange."""
        items = list(tensors)
        if self.size == 1 or not items:
            return
        flat = torch.cat([t.detach().reshape(-1).to(self.device) for t in items])
        dist.all_reduce(flat)
        flat /= self.size
        offset = 0
        with torch.no_grad():
            for t in items:
                t.copy_(flat[offset : offset + t.numel()].view(t.shape))
                offset += t.numel()

    def agree(self, value: int) -> int:
        """The largest `value` of all workers: a signal that reached one reaches all."""
        if self.size == 1:
            return value
        flag = torch.tensor([value])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.control)
        return int(flag.item())

    def share(self, value: Any) -> Any:
        """Rank 0's `value`, on every worker."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def wait(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            dist.barrier(group=self.control)


ALONE = World()


def launch(workers: int, arguments: Sequence[str]) -> int:
    """Run `caffeio ARGUMENTS` as `workers` processes of this machine; the first failure's code.

    What torchrun does on one machine, without its report around our own error messages. Signals
    reach the workers, which agree on what to do.
    """
    port = _free_port()
    threads = max(1, (os.cpu_count() or 1) // workers)
    processes = []
    for rank in range(workers):
        env = {
            **os.environ,
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        env.setdefault("OMP_NUM_THREADS", str(threads))
        command = [sys.executable, "-m", "caffeio.cli", *arguments]
        processes.append(subprocess.Popen(command, env=env, start_new_session=True))
    old = {
        number: signal.signal(number, lambda n, frame: _pass_on(processes, n))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        return _wait(processes)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _pass_on(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; when one fails the others cannot go on and are ended."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            time.sleep(0.5)  # let the others say what they have to say
            _pass_on(processes, signal.SIGKILL)
            return failed if failed > 0 else 128 - failed
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
