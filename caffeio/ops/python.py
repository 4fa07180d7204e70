"""Forward and backward of Python layers: the user's code on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.ops.tracing import outside_graphs

if TYPE_CHECKING:
    from caffeio.layers.python.layer import PythonLayer


class _Call(torch.autograd.Function):
    """Forward and backward of the user's object; learnable blobs follow the bottoms."""

    @staticmethod
    def forward(ctx: Any, owner: PythonLayer, count: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.owner, ctx.count = owner, count
        tops = _forward(owner, inputs[:count])
        ctx.call = owner.calls
        return tops

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[2:])
        found = _backward(ctx.owner, ctx.call, grads, needs[: ctx.count])
        needs_gradient = (g if need else None for g, need in zip(found, needs, strict=True))
        return None, None, *needs_gradient


@outside_graphs
def run_code(layer: PythonLayer, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Run the user's reshape and forward; return the tops."""
    if any(x.is_meta for x in bottoms) or any(x.is_meta for x in layer.blobs):
        return _dry_run(layer, [tuple(x.shape) for x in bottoms])
    tops: tuple[Tensor, ...] = _Call.apply(  # type: ignore[no-untyped-call]
        layer, len(bottoms), *bottoms, *layer.blobs
    )
    return tops[0] if len(tops) == 1 else tops


def _dry_run(layer: PythonLayer, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    for blob, shape in zip(layer.bottom, shapes, strict=True):
        blob.reshape(*shape)
    layer.code.reshape(layer.bottom, layer.top)
    return tuple(torch.empty(blob.shape, device="meta") for blob in layer.top)


def _forward(layer: PythonLayer, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One forward of the user's code on tensors without a graph."""
    layer.calls += 1
    for blob, value in zip(layer.bottom, bottoms, strict=True):
        blob.reshape(*value.shape)
        blob.data[...] = value.detach().cpu().numpy()
    hosts = _lend_blobs(layer)
    try:
        layer.code.reshape(layer.bottom, layer.top)
        layer.code.forward(layer.bottom, layer.top)
    except SystemExit as error:  # a training would end here as if all were well
        raise layer.error(f"forward() calls sys.exit({error.code!r})") from error
    except Exception as error:
        layer.note(error)
        raise
    for host, blob in zip(hosts, layer.blobs, strict=True):
        if host is not None:
            blob.data.copy_(host)
    device = bottoms[0].device if bottoms else layer.anchor.device
    return tuple(torch.from_numpy(blob.data.copy()).to(device) for blob in layer.top)


def _lend_blobs(layer: PythonLayer) -> list[Tensor | None]:
    """Let the code's blobs be the learnable tensors; on other devices, copies of them."""
    hosts: list[Tensor | None] = []
    for mine, blob in zip(layer.code.blobs, layer.blobs, strict=True):
        value = blob.detach()
        shared = value.device.type == "cpu" and value.is_contiguous()
        host = value if shared else value.cpu().contiguous()
        mine.use("data", host.numpy().reshape(-1))
        hosts.append(None if shared else host)
    return hosts


def _backward(
    layer: PythonLayer, call: int, grads: Sequence[Tensor], propagate_down: list[bool]
) -> list[Tensor]:
    """One backward of the user's code; returns the gradients of bottoms and blobs."""
    if call != layer.calls:
        raise RuntimeError(
            f"layer {layer.name!r}: a Python layer can only go back through its last forward"
        )
    for blob, grad in zip(layer.top, grads, strict=True):
        blob.diff[...] = grad.cpu().numpy()
    for blob in layer.code.blobs:
        blob.diff[...] = 0
    try:
        layer.code.backward(layer.top, propagate_down, layer.bottom)
    except SystemExit as error:
        raise layer.error(f"backward() calls sys.exit({error.code!r})") from error
    except Exception as error:
        layer.note(error)
        raise
    device = grads[0].device if grads else layer.anchor.device
    return [
        torch.from_numpy(np.array(blob.diff)).to(device)
        for blob in (*layer.bottom, *layer.code.blobs)
    ]
