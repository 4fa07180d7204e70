"""What `debug_info: true` prints: mean absolute values of blobs, params and their gradients.

Source: src/caffe/net.cpp (ForwardDebugInfo, BackwardDebugInfo). The net must keep its trace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.log.glog import Log, stream_float
from caffeio.net.net import Net, Trace
from caffeio.net.step import shown


def _mean_abs(value: Tensor | None, like: Tensor) -> str:
    if value is None or not like.numel():
        return stream_float(0.0)
    return stream_float(value.detach().abs().mean().item())


def log_forward(log: Log, net: Net) -> None:
    """Every top and every param of the last forward; asks autograd to keep bottoms' gradients."""
    for entry in net.trace:
        for tensor in entry.bottoms:
            if tensor.requires_grad:
                tensor.retain_grad()
        name = entry.step.node.name
        for top, value in zip(entry.step.tops, entry.tops, strict=True):
            text = _mean_abs(value, value)
            log.info(
                "net.cpp:593", f"    [Forward] Layer {name}, top blob {shown(top)} data: {text}"
            )
        for i, blob in enumerate(entry.step.layer.blobs):
            label = _param_name(entry, i)
            text = _mean_abs(blob, blob)
            log.info("net.cpp:605", f"    [Forward] Layer {name}, param blob {label} data: {text}")


def log_backward(log: Log, net: Net) -> None:
    """Every gradient that Caffe would compute, from the last layer to the first, and the totals."""
    for entry in reversed(net.trace):
        if not entry.step.needs_backward:
            continue
        name = entry.step.node.name
        flags = entry.step.bottom_needs_gradient or (False,) * len(entry.bottoms)
        for bottom, value, flag in zip(entry.step.bottoms, entry.bottoms, flags, strict=True):
            if flag:
                text = _mean_abs(value.grad, value)
                line = f"    [Backward] Layer {name}, bottom blob {bottom} diff: {text}"
                log.info("net.cpp:621", line)
        for i, blob in enumerate(entry.step.layer.blobs):
            if entry.step.param_needs_gradient[i] or net.graph.force_backward:
                text = _mean_abs(entry.step.layer.blobs.raw(i).grad, blob)
                line = f"    [Backward] Layer {name}, param blob {i} diff: {text}"
                log.info("net.cpp:632", line)
    _log_totals(log, net)


def _log_totals(log: Log, net: Net) -> None:
    data = torch.stack([p.tensor.detach().abs().sum() for p in net.learnable]).sum()
    squares = torch.stack([p.tensor.detach().square().sum() for p in net.learnable]).sum()
    grads = [p.tensor.grad for p in net.learnable if p.tensor.grad is not None]
    zero = data.new_zeros(())
    diff = torch.stack([g.abs().sum() for g in grads]).sum() if grads else zero
    diff2 = torch.stack([g.square().sum() for g in grads]).sum() if grads else zero
    log.error(
        "net.cpp:721",
        f"    [Backward] All net params (data, diff): L1 norm = ({stream_float(data.item())}, "
        f"{stream_float(diff.item())}); L2 norm = ({stream_float(squares.sqrt().item())}, "
        f"{stream_float(diff2.sqrt().item())})",
    )


def _param_name(entry: Trace, index: int) -> str:
    specs = entry.step.node.param.param
    return specs[index].name if index < len(specs) and specs[index].name else str(index)
