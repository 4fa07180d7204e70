"""A layer computed as Caffe's CPU code does it, digit by digit: its formula and its Backward.

For blobs that `is_exact` names (caffeio/ops/digits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from caffeio.ops.backward import Backward, LayerMemory

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType

Formula = Callable[..., Tensor]


class _Exact(Function):
    """A layer's formula, with its Backward on memory as the gradient."""

    @staticmethod
    def forward(
        ctx: Any, layer: LayerType, ways: tuple[Formula, Formula, type[Backward]], *bottoms: Tensor
    ) -> Tensor:
        exact, ctx.plain, ctx.kernel = ways
        y = exact(layer, *bottoms)
        ctx.layer, ctx.kept = layer, ctx.kernel.keep(layer, bottoms, (y,))
        ctx.save_for_backward(*bottoms, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *bottoms, y = ctx.saved_tensors
        needs_gradient = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # the gradient itself will be differentiated
            again = ctx.plain(ctx.layer, *bottoms)
            sources = [x for x, want in zip(bottoms, needs_gradient, strict=True) if want]
            found = iter(torch.autograd.grad(again, sources, grads[0], create_graph=True))
            return (None, None, *[next(found) if want else None for want in needs_gradient])
        diffs = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in bottoms]
        ctx.kernel.run(
            LayerMemory(
                ctx.layer, bottoms, [y], [grads[0].contiguous()], diffs, needs_gradient, ctx.kept
            )
        )
        return (
            None,
            None,
            *[d if want else None for d, want in zip(diffs, needs_gradient, strict=True)],
        )


def exactly(
    layer: LayerType,
    bottoms: Sequence[Tensor],
    exact: Formula,
    plain: Formula,
    kernel: type[Backward],
) -> Tensor:
    """Compute `exact(layer, *bottoms)`, whose gradient is that of `kernel`.

    `plain` is the same in operations of torch: where a gradient of the gradient is asked for.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in bottoms):
        ways = (exact, plain, kernel)
        return _Exact.apply(layer, ways, *bottoms)  # type: ignore[no-any-return,no-untyped-call]
    return exact(layer, *bottoms)
