"""caffe.NCCL over torch.distributed: solvers of several processes add up their gradients.

On GPUs it is NCCL that carries them, on CPUs gloo. Source: src/caffe/parallel.cpp,
python/caffe/_caffe.cpp, python/train.py.
"""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from caffeio.pycaffe.state import compute_device, state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffeio.pycaffe.blob import Blob
    from caffeio.pycaffe.solvers import Solver


def has_nccl() -> bool:
    """Whether several processes can train together."""
    return dist.is_available()


class NCCL:
    """One solver's place among those of `caffe.solver_count()` processes.

    Give it to `solver.add_callback`: gradients are then averaged before every update. With
    layer_wise_reduce give it to `solver.net.after_backward` as well, as python/train.py does: the
    gradients of a layer are then exchanged when it has run back.
    """

    def __init__(self, solver: Solver, uid: bytes) -> None:
        """Join the group that `uid` names, as process `caffe.solver_rank()`."""
        self._solver = solver
        self._live = solver.net._live
        self._reduced: set[int] = set()
        host, port, _ = uid.decode().split("|")
        if not dist.is_initialized():
            backend = "nccl" if compute_device().type == "cuda" else "gloo"
            dist.init_process_group(
                backend,
                init_method=f"tcp://{host}:{port}",
                rank=state.solver_rank,
                world_size=state.solver_count,
            )

    @staticmethod
    def new_uid() -> bytes:
        """Name a new group: make it in one process and give it to all."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return f"127.0.0.1|{port}|{secrets.token_hex(8)}".encode()

    def bcast(self) -> None:
        """Give all processes the params of rank 0."""
        device = compute_device()
        for blob in self._learnable():
            value = blob.values(device)
            dist.broadcast(value, src=0)
            blob.memory["data"].changed_on(device)

    def on_start(self) -> None:
        """Begin an iteration."""
        self._reduced.clear()

    def on_gradients_ready(self) -> None:
        """Average the gradients over the processes."""
        blobs = self._learnable()
        self._reduce([blob for blob in blobs if id(blob.memory["diff"]) not in self._reduced])
        device = compute_device()
        for blob in blobs:
            blob.gradient(device).div_(state.solver_count)
            blob.memory["diff"].changed_on(device)

    def __call__(self, layer: int) -> None:
        """Exchange the gradients of a layer that has run back (net.after_backward)."""
        if not self._solver.param.layer_wise_reduce:
            return
        runner = self._live.runners[layer]
        # a shared param is complete when the first layer that uses it has run back
        later = {id(b.memory["diff"]) for r in self._live.runners[:layer] for b in r.params}
        ready = [b for b in runner.params if id(b.memory["diff"]) not in later]
        self._reduce(ready)
        self._reduced.update(id(blob.memory["diff"]) for blob in ready)

    def _learnable(self) -> list[Blob]:
        return [self._live.blob_of[id(item.tensor)] for item in self._live.learnable]

    def _reduce(self, blobs: Sequence[Blob]) -> None:
        """Add up the gradients of all processes, in one exchange."""
        if not blobs:
            return
        device = compute_device()
        grads = [blob.gradient(device) for blob in blobs]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        at = 0
        for blob, grad in zip(blobs, grads, strict=True):
            grad.copy_(flat[at : at + grad.numel()].view(grad.shape))
            at += grad.numel()
            blob.memory["diff"].changed_on(device)
