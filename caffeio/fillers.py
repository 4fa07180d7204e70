"""Fillers: what a blob holds before training.

Sources: include/caffe/filler.hpp; Glorot & Bengio 2010 (xavier); He et al. 2015 (msra).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from caffeio.errors import CaffeIOError
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.boost_random import CaffeRng


class Owner(Protocol):
    """Whose blob is filled: makes the errors."""

    def error(self, message: str, *, field: str | None = None) -> CaffeIOError:
        """An error that names the layer."""


class RandomSource(Protocol):
    """Where random numbers come from."""

    def uniform(self, out: Tensor, low: float, high: float) -> None:
        """Fill `out` from U[low, high)."""

    def gaussian(self, out: Tensor, mean: float, std: float) -> None:
        """Fill `out` from N(mean, std)."""

    def bernoulli(self, out: Tensor, p: float) -> None:
        """Fill `out` with 1 (probability p) and 0."""


class TorchSource:
    """torch's generator: quick, but not the numbers of real Caffe with the same seed."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def uniform(self, out: Tensor, low: float, high: float) -> None:
        """Fill `out` from U[low, high)."""
        out.uniform_(low, high, generator=self.generator)

    def gaussian(self, out: Tensor, mean: float, std: float) -> None:
        """Fill `out` from N(mean, std)."""
        out.normal_(mean, std, generator=self.generator)

    def bernoulli(self, out: Tensor, p: float) -> None:
        """Fill `out` with 1 (probability p) and 0."""
        out.bernoulli_(p, generator=self.generator)


class CaffeSource:
    """Caffe's own generator: the numbers of a real Caffe that was given the same seed."""

    def __init__(self, rng: CaffeRng) -> None:
        self.rng = rng

    def _put(self, out: Tensor, values: object) -> None:
        out.copy_(torch.as_tensor(values, dtype=torch.float32).view(out.shape))

    def uniform(self, out: Tensor, low: float, high: float) -> None:
        """Fill `out` from U[low, high)."""
        self._put(out, self.rng.uniform(low, high, out.numel()))

    def gaussian(self, out: Tensor, mean: float, std: float) -> None:
        """Fill `out` from N(mean, std)."""
        self._put(out, self.rng.gaussian(mean, std, out.numel()))

    def bernoulli(self, out: Tensor, p: float) -> None:
        """Fill `out` with 1 (probability p) and 0."""
        self._put(out, self.rng.bernoulli(np.float32(p), out.numel()))


class NoSource:
    """A source of random numbers that draws none."""

    def uniform(self, out: Tensor, low: float, high: float) -> None:
        """Leave `out` as it is."""

    def gaussian(self, out: Tensor, mean: float, std: float) -> None:
        """Leave `out` as it is."""

    def bernoulli(self, out: Tensor, p: float) -> None:
        """Leave `out` as it is."""


def check_filler(shape: Sequence[int], filler: pb.FillerParameter | None, *, owner: Owner) -> None:
    """Raise what `fill` would raise for a blob of `shape`, without drawing or taking memory."""
    if filler is not None:
        _fill(torch.empty(tuple(shape), device="meta"), filler, NoSource(), owner)


def fill(
    out: Tensor,
    filler: pb.FillerParameter | None,
    default: float,
    rng: torch.Generator | CaffeRng | None,
    *,
    owner: Owner,
) -> None:
    """Fill float32 tensor `out` in place as `filler` says; without one with `default`."""
    if filler is None:
        out.fill_(default)
        return
    torch_made = rng is None or isinstance(rng, torch.Generator)
    source: RandomSource = TorchSource(rng) if torch_made else CaffeSource(rng)  # type: ignore[arg-type]
    _fill(out, filler, source, owner)


def _fill(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    kind = filler.type
    if kind not in FILLERS:
        raise owner.error(
            f"unknown filler type {kind!r}: known are {', '.join(sorted(FILLERS))}", field="filler"
        )
    if filler.sparse != -1 and kind != "gaussian":
        raise owner.error(f"filler {kind!r} does not support sparse", field="filler.sparse")
    if out.numel():
        FILLERS[kind](out, filler, source, owner)


def _constant(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    out.fill_(filler.value)


def _uniform(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    if filler.min > filler.max:
        raise owner.error("filler min must not be above max", field="filler.min")
    source.uniform(out, filler.min, filler.max)


def _gaussian(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    if filler.std <= 0:
        raise owner.error("filler std must be above 0", field="filler.std")
    source.gaussian(out, filler.mean, filler.std)
    if filler.sparse >= 0:
        if filler.sparse > out.shape[0]:
            raise owner.error(
                f"{filler.sparse} inputs of {out.shape[0]} cannot be kept", field="filler.sparse"
            )
        mask = torch.empty_like(out)
        source.bernoulli(mask, _float32(filler.sparse / max(out.shape[0], 1)))
        out.mul_(mask)


def _positive_unitball(
    out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner
) -> None:
    source.uniform(out, 0, 1)
    rows = out.view(out.shape[0], -1) if out.dim() else out.view(1, 1)
    rows.div_(rows.sum(1, keepdim=True))


def fan(out: Tensor, filler: pb.FillerParameter) -> float:
    """n of xavier and msra: fan in, fan out, or their mean (shape[0] are the outputs)."""
    count = out.numel()
    fan_in = count // out.shape[0] if out.dim() else count
    fan_out = count // out.shape[1] if out.dim() > 1 else count
    if filler.variance_norm == pb.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == pb.FillerParameter.FAN_OUT else fan_in


def _xavier(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    scale = _float32(math.sqrt(_float32(3 / _float32(fan(out, filler)))))
    source.uniform(out, -scale, scale)


def _msra(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    std = _float32(math.sqrt(_float32(2 / _float32(fan(out, filler)))))
    source.gaussian(out, 0, std * filler.scale)


def _bilinear(out: Tensor, filler: pb.FillerParameter, source: RandomSource, owner: Owner) -> None:
    if out.dim() != 4 or out.shape[2] != out.shape[3]:
        raise owner.error("filler 'bilinear' needs a 4-D blob with a square kernel", field="filler")
    width = out.shape[3]
    f = math.ceil(width / 2)
    centre = (width - 1) / (2 * f)
    line = 1 - (torch.arange(width, dtype=torch.float32) / f - _float32(centre)).abs()
    out.copy_((line[:, None] * line[None, :]).expand_as(out))


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


FILLERS = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
    # NVIDIA's "static" fillers draw once and repeat it at every Fill: a net is filled once
    "uniformstatic": _uniform,
    "gaussianstatic": _gaussian,
    "positive_unitballstatic": _positive_unitball,
    "xavierstatic": _xavier,
    "msrastatic": _msra,
    "bilinearstatic": _bilinear,
}
