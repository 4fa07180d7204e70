"""One process or many: the only file that knows torch.distributed.

`torchrun` (or `caffeio train --nproc N`, which calls it) starts the workers; each trains on its
own share of the data with a batch of its own, and gradients are averaged over the workers, as in
BVLC's NCCL solver (src/caffe/parallel.cpp) and Intel's multi-node solver.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from caffeio.errors import CaffeIOError
from caffeio.gpus import no_gpu
from caffeio.net.net import Net
from caffeio.training.connection import TIMEOUT, connect, worker_timeout
from caffeio.training.cuda_graph import GraphedStep
from caffeio.training.events import Action
from caffeio.training.options import TrainOptions
from caffeio.training.training_step import ParallelStep, TrainingStep, compressed
from caffeio.training.watchdog import Watchdog
from caffeio.training.wishes import Wishes, action_of, flags_of

T = TypeVar("T")
LEAVING = timedelta(seconds=20)


@dataclass
class World:
    """The workers of one training run, and this process's place among them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None  # for flags: gloo, so that no GPU has to wait
    made: tuple[dist.ProcessGroup | None, ...] = ()  # groups to destroy; None: the default, all
    watchdog: Watchdog | None = None
    wishes: Wishes = field(default_factory=Wishes)

    @classmethod
    def init(cls, device: str = "cpu", *, reason: str | None = None) -> World:
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
            connect(backend, rank, size)
        control = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
        made = (None,) if makes else (control,) if control is not None else ()
        world = cls(rank, size, place, control, made)
        if makes:
            world.watchdog = Watchdog(rank, size, worker_timeout())
            world.watchdog.start()
        return world

    def on(self, device: str, *, reason: str | None = None) -> World:
        """The same workers on another device; only the first World need be shut down."""
        place = _place(device, self.size, reason)
        return World(self.rank, self.size, place, self.control, watchdog=self.watchdog)

    @property
    def is_root(self) -> bool:
        """Whether this worker logs, tests and writes snapshots."""
        return self.rank == 0

    def shutdown(self) -> None:
        """Close the connections that `init` has made; a process group found there is left alone.

        After a run that ended well the workers wait for each other first (some seconds at most).
        May be called more than once.
        """
        if self.watchdog is not None and self.made:
            self.watchdog.stop()
            if sys.exc_info()[0] is None and self.control is not None:
                with contextlib.suppress(RuntimeError):  # the store's host must be the last
                    dist.monitored_barrier(self.control, timeout=LEAVING)
        if dist.is_initialized():
            for group in self.made:
                dist.destroy_process_group(group)
        self.made = ()

    def wrap(self, net: Net, options: TrainOptions, *, iter_size: int = 1) -> nn.Module:
        """The module to call in training: it averages the gradients in its backward.

        They travel in the type that `options.gradients` names, while the backward goes on.
        `options.cuda_graph` records the step once; see `check_recordable`.
        """
        module = TrainingStep(net, options.precision, options.compile)
        if options.cuda_graph:
            return GraphedStep(module, net)
        if self.size == 1 or not any(p.requires_grad for p in net.parameters()):
            return module
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
            wrapped = ParallelStep(
                module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=iter_size == 1,  # a Caffe net never changes
            )
        if options.gradients != "fp32":
            kind = torch.bfloat16 if options.gradients == "bf16" else torch.float16
            # a lambda: DistributedDataParallel refuses annotations that are texts
            wrapped.register_comm_hook(kind, lambda kind, bucket: compressed(kind, bucket))
        return wrapped

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
        flags = flags_of(action)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        return action_of(flags)

    def exchange_actions(self, action: Action, *, now: bool) -> Action:
        """What any worker asked for some iterations ago; `action` is on its way meanwhile.

        So no worker waits for flags: they travel while the next iterations are computed, and where
        those are short not in each of them (see Wishes). With `now` they are waited for, because
        no iteration comes next: nothing is on its way afterwards. All workers must call it in every
        iteration.
        """
        if self.size == 1:
            return action
        wishes = self.wishes
        if not wishes.due(action, now=now):
            return Action.NONE
        found = wishes.arrived()
        if now or Action.STOP in found:
            return found | self.all_reduce_actions(wishes.take())
        flags = torch.cat((flags_of(wishes.take()), wishes.pace()))
        work = dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control, async_op=True)
        assert work is not None
        wishes.pending.append((work, flags))
        return found

    def all_reduce_any(self, value: bool) -> bool:
        """Whether `value` is true on any worker."""
        return bool(self.all_reduce_actions(Action.STOP if value else Action.NONE))

    def all_reduce_any_async(self, value: bool) -> Callable[[], bool]:
        """Ask whether `value` is true on any worker; the result is waited for when it is called."""
        if self.size == 1:
            return lambda: value
        flag = torch.tensor([int(value)])
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.control, async_op=True)

        def result() -> bool:
            work.wait()
            return bool(flag.item())

        return result

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, on every worker; the others' is not looked at."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def check_recordable(self) -> None:
        """Raise CaffeIOError unless iterations may be recorded as CUDA graphs here."""
        if self.device.type != "cuda" or self.size > 1:
            raise CaffeIOError("--cuda-graph is for one worker on a GPU: --device cuda")

    def check_same(self, facts: Mapping[str, str]) -> None:
        """Raise CaffeIOError, on every worker, unless all workers have the same facts."""
        if self.size == 1:
            return
        found: list[Mapping[str, str]] = [{}] * self.size
        dist.all_gather_object(found, dict(facts), group=self.control)
        for rank, theirs in enumerate(found):
            names = [
                name for name in {**found[0], **theirs} if found[0].get(name) != theirs.get(name)
            ]
            if names:
                told = f": {found[0].get(names[0])} and {theirs.get(names[0])}"
                told = told if len(told) < 80 else ""
                raise CaffeIOError(
                    f"the workers do not train the same: {', '.join(names)} of worker {rank} "
                    f"differ from worker 0's{told}"
                )

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
        raise no_gpu(reason)
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
