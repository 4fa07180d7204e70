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
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from caffeio.errors import CaffeIOError
from caffeio.net.net import Net
from caffeio.training.events import Action

T = TypeVar("T")
TIMEOUT = timedelta(hours=6)  # a test on rank 0 alone may take long


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
    made: tuple[dist.ProcessGroup | None, ...] = ()  # groups to destroy; None: the default, all

    @classmethod
    def join(cls, device: str = "cpu", *, reason: str | None = None) -> World:
        """Join the workers that torchrun started; alone without it.

        `device`: "cpu", "cuda", "cuda:N" or "auto" (a GPU if there is one); of several workers
        each takes the GPU of its LOCAL_RANK. gloo carries the gradients of CPUs, NCCL those of
        GPUs. Raises CaffeIOError when CUDA is asked for (`reason` says why) and there is none.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        if dist.is_initialized():  # by a program that embeds us
            size, rank = dist.get_world_size(), dist.get_rank()
        place = _place(device, size, reason)
        makes = size > 1 and not dist.is_initialized()
        if makes:
            # gradients of either device, so that the phases of a chain may be on different ones
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)
        control = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
        made = (None,) if makes else (control,) if control is not None else ()
        return cls(rank, size, place, control, made)

    def on(self, device: str, *, reason: str | None = None) -> World:
        """The same workers on another device; only the first World need be left."""
        return World(self.rank, self.size, _place(device, self.size, reason), self.control)

    @property
    def is_root(self) -> bool:
        """Whether this worker logs, tests and writes snapshots."""
        return self.rank == 0

    def leave(self) -> None:
        """Close the connections that `join` has made; a process group found there is left alone.

        May be called more than once.
        """
        if dist.is_initialized():
            for group in self.made:
                dist.destroy_process_group(group)
        self.made = ()

    def wrap(self, net: Net, precision: str = "fp32", compile: bool = False) -> nn.Module:
        """The module to call in training: it averages the gradients in its backward."""
        module = TrainingStep(net, precision, compile)
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

    def all_reduce_mean(self, tensors: Iterable[Tensor]) -> None:
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

    def all_reduce_actions(self, action: Action) -> Action:
        """All that any worker asks for: a signal that reached one reaches all."""
        if self.size == 1:
            return action
        flags = torch.tensor([int(flag in action) for flag in (Action.SNAPSHOT, Action.STOP)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        snapshot, stop = flags.tolist()
        return Action((Action.SNAPSHOT if snapshot else 0) | (Action.STOP if stop else 0))

    def all_reduce_any(self, value: bool) -> bool:
        """Whether `value` is true on any worker."""
        return bool(self.all_reduce_actions(Action.STOP if value else Action.NONE))

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, on every worker; the others' is not looked at."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def synchronize(self) -> None:
        """Wait until the device has done all that it was told to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _place(device: str, size: int, reason: str | None) -> torch.device:
    """The device of this worker, made the current one; CaffeIOError if there is none such."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not device.startswith("cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise CaffeIOError(
            f"a GPU is asked for ({reason or '-gpu or --device cuda'}), but PyTorch sees none: say "
            "--device cpu to run on the CPU"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device(device if ":" in device and size == 1 else f"cuda:{local}")
    if (place.index or 0) >= torch.cuda.device_count():
        raise CaffeIOError(
            f"GPU {place.index} is asked for ({reason or device}), but PyTorch sees only "
            f"{torch.cuda.device_count()}"
        )
    torch.cuda.set_device(place)
    return place


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
            "LOCAL_WORLD_SIZE": str(workers),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        env.setdefault("OMP_NUM_THREADS", str(threads))
        command = [sys.executable, "-m", "caffeio.cli", *arguments]
        try:
            processes.append(subprocess.Popen(command, env=env, start_new_session=True))
        except BaseException:  # those that run wait for this one
            _pass_on(processes, signal.SIGKILL)
            raise
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
