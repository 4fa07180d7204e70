"""tanhf as glibc computes it, to the last digit: of Caffe's functions the one far from exact.

expf, logf and powf of glibc are right to little more than half a unit in the last place, so that a
float64 function rounded once is nearly always the same; tanhf has another last digit in one case of
four. Torch and NumPy
have other algorithms. Source of the algorithm: fdlibm's s_tanh.c and s_expm1.c (K. C. Ng, Sun),
in the float form of glibc's sysdeps/ieee754/flt-32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LN2_HIGH = np.float32(6.9313812256e-01)
_LN2_LOW = np.float32(9.0580006145e-06)
_INV_LN2 = np.float32(1.4426950216)
_Q = [
    np.float32(q)
    for q in (
        -3.3333335072e-02,
        1.5873016091e-03,
        -7.9365076090e-05,
        4.0082177293e-06,
        -2.0109921195e-07,
    )
]
_HALF, _ONE, _TWO, _THREE, _SIX = map(np.float32, (0.5, 1, 2, 3, 6))
_HALF_LN2 = np.uint32(0x3EB17218).view(np.float32)  # 0.5 ln 2
_THREE_HALVES_LN2 = np.uint32(0x3F851592).view(np.float32)  # 1.5 ln 2


def _reduced(x: Floats) -> tuple[NDArray[np.int32], Floats, Floats]:
    """Return k, r and c of x = k ln 2 + r + c."""
    size = np.abs(x)
    near = (_INV_LN2 * x + np.copysign(_HALF, x)).astype(np.int32)
    k = np.where(size < _THREE_HALVES_LN2, np.where(x > 0, 1, -1), near)
    k = np.where(size > _HALF_LN2, k, 0).astype(np.int32)
    t = k.astype(np.float32)
    high, low = x - t * _LN2_HIGH, t * _LN2_LOW
    r = high - low
    return k, r, (high - r) - low


def _power_of_two(k: NDArray[np.int32]) -> Floats:
    return ((k + np.int32(127)) << np.int32(23)).view(np.float32)


def expm1(x: Floats) -> Floats:
    """e^x - 1 of numbers from -2 to 0 and from 2 to 44 (what `tanh` asks for), as expm1f."""
    k, r, c = _reduced(x)
    half = _HALF * r
    square = r * half
    r1 = _Q[4] * square
    for q in _Q[3::-1]:
        r1 = (q + r1) * square
    r1 += _ONE
    t = _THREE - r1 * half
    e = square * ((r1 - t) / (_SIX - r * t))
    f = (r * (e - c) - c) - square
    power, inverse = _power_of_two(k), _power_of_two(-k)
    above = np.where(
        k < 23, ((_ONE - inverse) - (f - r)) * power, ((r - (f + inverse)) + _ONE) * power
    )
    below = np.where(k == -1, _HALF * (r - f) - _HALF, (_ONE - (f - r)) * power - _ONE)
    return np.where(k > 0, above, np.where(k == 0, r - (r * e - square), below))


def tanh(x: Floats) -> Floats:
    """tanhf(x)."""
    size = np.fmin(np.abs(x), np.float32(22))  # nan is put in again below
    t = expm1(np.where(size >= 1, _TWO * size, -_TWO * size))
    y = np.where(size >= 1, _ONE - _TWO / (t + _TWO), -t / (t + _TWO))
    return np.where(np.isnan(x), x, np.copysign(np.where(size >= 22, _ONE, y), x))
