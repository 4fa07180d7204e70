"""The arithmetic of pooling: how many windows there are, and what each of them yields.

Sources: src/caffe/layers/pooling_layer.cpp, pooling_layer.cu, spp_layer.cpp; mkldnn_pooling_
layer.cpp of Intel Caffe for the divisors of its engine. PyTorch's native pooling is used
wherever it agrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.layers.window import Ints, Window

if TYPE_CHECKING:
    from caffeio.layers.pooling import SPP, Pooling

LOWEST = torch.finfo(torch.float32).min  # -FLT_MAX: what Caffe's maximum starts from
IN_CACHE = 1 << 22  # values: of so many two passes over memory are faster than one slow one
FEW = 1 << 17  # values: up to so many PyTorch's one call is the faster one
DIVISORS = ("bvlc", "full", "real")  # by what a window's sum is divided, see `divisors`


def max_pool(x: Tensor, w: Window, *, mask: bool) -> tuple[Tensor, Tensor | None]:
    """Largest value of each window of `x` (N, C, spatial); the first one in row-major order.

    With `mask` also the index of that value in its plane, as float. Windows that hold no value
    (they start behind the image) yield -FLT_MAX and index -1. Unlike in Caffe, where nan never
    wins, a nan in the window wins, as everywhere in PyTorch.
    """
    sizes = tuple(x.shape[2:])
    if w.is_native(sizes):
        return _native_max(x, w, w.pad, mask)
    if any(w.pad):  # more than half of the kernel: make the padding
        y, index = _native_max(F.pad(x, w.padding(sizes), value=-math.inf), w, None, mask)
        return y, index if index is None else _unpad_index(index, w, sizes)
    native = Window(w.kernel, w.stride, w.pad, w.dilation, w.ceil)
    y, index = _native_max(x, native, native.pad, mask)
    rows = zip(w.output(sizes), native.output(sizes), strict=True)
    extra = [v for total, n in reversed(list(rows)) for v in (0, total - n)]
    y = F.pad(y, extra, value=LOWEST)
    return y, index if index is None else F.pad(index, extra, value=-1.0)


def _native_max(x: Tensor, w: Window, pad: Ints | None, mask: bool) -> tuple[Tensor, Tensor | None]:
    axes = len(w.kernel)
    pool = (F.max_pool2d, F.max_pool3d)[axes - 2]
    ceil = w.ceil and pad is not None
    args = (w.kernel, w.stride, pad or (0,) * axes, w.dilation, ceil)
    if not mask:
        return pool(x, *args), None
    y, index = pool(x, *args, return_indices=True)
    return y, index.to(x.dtype)


def _unpad_index(index: Tensor, w: Window, sizes: Ints) -> Tensor:
    """Turn indices into a padded plane into indices of the plane itself."""
    pads = w.padding(sizes)[::-1]  # (behind, before) of the first axis, of the second ...
    rest, scale = index, 1
    plain = torch.zeros_like(index)
    for i in reversed(range(len(sizes))):
        length = sizes[i] + pads[2 * i] + pads[2 * i + 1]
        position = torch.remainder(rest, length)
        plain = plain + (position - w.pad[i]) * scale
        rest = torch.div(rest, length, rounding_mode="floor")
        scale *= sizes[i]
    return plain


def average_pool(x: Tensor, w: Window, divisor: str) -> Tensor:
    """Sum of each window of `x` (N, C, spatial) over its `divisor`, one of DIVISORS.

    Windows that hold no value yield what Caffe computes there: 0 / 0 = nan, or a zero.
    """
    sizes = tuple(x.shape[2:])
    pool = (F.avg_pool2d, F.avg_pool3d)[len(sizes) - 2]
    small = len(sizes) == 3 and any(n < k for n, k in zip(sizes, w.kernel, strict=True))
    if w.is_native(sizes) and not small:  # avg_pool3d refuses what fits with its padding only
        whole = math.prod(w.kernel) if divisor == "full" else None
        return pool(x, w.kernel, w.stride, w.pad, w.ceil, divisor != "real", whole)
    sums = pool(F.pad(x, w.padding(sizes)), w.kernel, w.stride, divisor_override=1)
    return sums / divisors(w, sizes, divisor, sums)


def divisors(w: Window, sizes: Ints, kind: str, like: Tensor) -> Tensor:
    """Divisors of all windows, broadcast against (N, C, windows).

    bvlc: values inside the image and the padding; full: the whole kernel; real: the image only.
    """
    out = like.new_ones(())
    axes = len(sizes)
    for i, count in enumerate(w.output(sizes)):
        start = torch.arange(count, device=like.device) * w.stride[i] - w.pad[i]
        if kind == "full":
            length = torch.full_like(start, w.kernel[i])
        elif kind == "real":
            length = (start + w.kernel[i]).clamp(max=sizes[i]) - start.clamp(min=0)
        else:
            length = (start + w.kernel[i]).clamp(max=sizes[i] + w.pad[i]) - start
        out = out * length.to(like.dtype).view(-1, *[1] * (axes - 1 - i))
    return out


def stochastic_pool(x: Tensor, w: Window, *, train: bool) -> Tensor:
    """Zeiler & Fergus 2013, for values >= 0 without padding, 2 spatial axes.

    `train`: one value of each window, drawn with a probability in proportion to itself. Else the
    mean under that law, sum(x^2) / sum(x), and 0 where the sum is 0.
    """
    n, c = x.shape[:2]
    sizes = tuple(x.shape[2:])
    rows, columns = w.output(sizes)
    patches = F.unfold(F.pad(x, w.padding(sizes)), w.kernel, stride=w.stride)
    patches = patches.view(n, c, -1, rows * columns)
    if train:
        sums = patches.detach().cumsum(2)
        threshold = torch.rand_like(sums[:, :, :1]) * sums[:, :, -1:]
        chosen = (sums >= threshold).to(torch.uint8).argmax(2, keepdim=True)
        y = patches.gather(2, chosen)
    else:
        total = patches.sum(2)
        safe = torch.where(total > 0, total, 1)
        y = torch.where(total > 0, (patches * patches).sum(2) / safe, 0)
    return y.view(n, c, rows, columns)


def pool_windows(
    x: Tensor, method: str, window: Window, *, divisor: str, train: bool, mask: bool
) -> tuple[Tensor, Tensor | None]:
    """Pool `x` (N, C, spatial) by MAX, AVE or STOCHASTIC; the mask is that of MAX."""
    if method == "MAX":
        return max_pool(x, window, mask=mask)
    if method == "AVE":
        return average_pool(x, window, divisor), None
    return stochastic_pool(x, window, train=train), None


def pool(layer: Pooling, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """(N, C, spatial) -> (N, C, windows), and the mask if it is wanted."""
    if not torch.compiler.is_compiling() and x.shape[2:] == layer.native_sizes:
        w = layer.window(x.shape)
        return torch.max_pool2d(x, w.kernel, w.stride, w.pad, w.dilation, w.ceil)
    if layer.is_global and layer.method == "AVE":
        return x.mean(tuple(range(2, x.dim())), keepdim=True)
    y, mask = pool_windows(
        x, layer.method, layer.window(tuple(x.shape)),
        divisor=layer.divisor, train=layer.train_phase, mask=layer.mask,
    )  # fmt: skip
    return y if mask is None else (y, mask)


class PoolAtShape:
    """The pooling of a layer, its windows worked out once for each shape of the bottom."""

    def __init__(self, layer: Pooling) -> None:
        self._layer = layer
        self._found: tuple[Any, Callable[[Tensor], Any]] = None, partial(pool, layer)

    def __call__(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, C, spatial) -> (N, C, windows), and the mask if it is wanted."""
        shape, run = self._found  # in one look: another thread may pool another shape
        if x.shape != shape:
            run = self._at(x.shape)
            self._found = x.shape, run
        y: Tensor | tuple[Tensor, ...] = run(x)
        return y

    def _at(self, shape: torch.Size) -> Callable[[Tensor], Any]:
        """PyTorch's own pooling with all its arguments where it agrees, else `pool`."""
        layer = self._layer
        w = layer.window(tuple(shape))
        plain = len(shape) == 4 and not layer.mask and w.is_native(tuple(shape[2:]))
        if not plain or layer.method != "MAX":
            return partial(pool, layer)
        native = partial(
            torch.max_pool2d, kernel_size=w.kernel, stride=w.stride, padding=w.pad,
            dilation=w.dilation, ceil_mode=w.ceil,
        )  # fmt: skip
        even = shape[2] % 2 == shape[3] % 2 == 0
        fits = shape.numel() <= IN_CACHE and w.dilation == (1, 1)
        if fits and w.kernel == w.stride == (2, 2) and w.pad == (0, 0) and even:
            return partial(_max_of_pairs, native=native)
        if fits and w.kernel == (3, 3) and w.stride == w.pad == (1, 1) and shape.numel() > FEW:
            return partial(_max_of_threes, native=native)
        return native


def _max_of_pairs(x: Tensor, native: Callable[[Tensor], Tensor]) -> Tensor:
    """Take the maximum of two rows, then of two columns, where channels lie side by side.

    PyTorch's own pooling keeps where each maximum was, which takes two to four times as long.
    """
    if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
        return native(x)
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _max_of_threes(x: Tensor, native: Callable[[Tensor], Tensor]) -> Tensor:
    """Take the maximum of each value and its neighbours, along rows and columns, as above."""
    if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
        return native(x)
    half, y = torch.empty_like(x), torch.empty_like(x)
    _max_along(x, 2, half)
    _max_along(half, 3, y)
    return y


def _max_along(x: Tensor, axis: int, out: Tensor) -> None:
    n = x.shape[axis] - 1
    before, behind = x.narrow(axis, 0, n), x.narrow(axis, 1, n)
    torch.maximum(behind, before, out=out.narrow(axis, 1, n))
    out.select(axis, 0).copy_(x.select(axis, 0))
    torch.maximum(behind, out.narrow(axis, 0, n), out=out.narrow(axis, 0, n))


def spatial_pyramid(layer: SPP, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C * bins of all levels); (N, C, 1, 1) with one level."""
    shape, train = tuple(x.shape), layer.train_phase
    pooled = [
        pool_windows(x, layer.method, w, divisor="bvlc", train=train, mask=False)[0]
        for w in (layer.window(level, shape) for level in range(layer.levels))
    ]
    if layer.levels == 1:
        return pooled[0]
    return torch.cat([y.flatten(1) for y in pooled], 1)
