"""Random numbers of real Caffe: Boost's mt19937 and distributions, bit for bit, in numpy.

Caffe draws everything (fillers, Dropout, crops, shuffles) from `boost::mt19937` generators through
the distributions of Boost 1.74: src/caffe/common.cpp, src/caffe/util/math_functions.cpp and
boost/random/{uniform_real_distribution,normal_distribution,exponential_distribution,
uniform_int_distribution}.hpp. The ziggurat tables follow Marsaglia and Tsang, "The Ziggurat Method
for Generating Random Variables", 2000. Arithmetic is float32, as Caffe's Dtype.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

_BLOCK = 1 << 16  # values made at a time
_RESERVE = 4096  # words at hand behind a block: more than one value can ever take
_TWO_32 = np.float32(4294967296.0)
_NORMAL_TAIL = 3.4426198558966522559
_EXPONENTIAL_TAIL = 7.69711747013104972


def _ziggurat(layers: int, tail: float, normal: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """The edges X[0..layers] and densities Y of equal-area layers under exp(-x^2/2) or exp(-x)."""

    def density(x: float) -> float:
        return math.exp(-0.5 * x * x) if normal else math.exp(-x)

    def inverse(y: float) -> float:
        return math.sqrt(-2.0 * math.log(y)) if normal else -math.log(y)

    below = math.sqrt(math.pi / 2) * math.erfc(tail / math.sqrt(2)) if normal else density(tail)
    area = tail * density(tail) + below
    x = [area / density(tail), tail]
    while len(x) < layers:
        x.append(inverse(density(x[-1]) + area / x[-1]))
    x.append(0.0)
    y = [0.0, *(density(v) for v in x[1:])]
    return np.array(x), np.array(y)


_NX, _NY = _ziggurat(128, _NORMAL_TAIL, True)
_EX, _EY = _ziggurat(256, _EXPONENTIAL_TAIL, False)
_NX32, _NY32 = _NX.astype(np.float32), _NY.astype(np.float32)
_EX32, _EY32 = _EX.astype(np.float32), _EY.astype(np.float32)
_NDX32 = (_NX[:-1] - _NX[1:]).astype(np.float32)
_NDY32 = (_NY[1:] - _NY[:-1]).astype(np.float32)
_EDX32 = (_EX[:-1] - _EX[1:]).astype(np.float32)
_EDY32 = (_EY[1:] - _EY[:-1]).astype(np.float32)


class CaffeRng:
    """One generator of Caffe's: the same seed gives the same numbers in the same order.

    Draws are consumed strictly in order, so whoever repeats Caffe's order of calls repeats its
    numbers. The seed is cut to 32 bits, as Caffe casts it to `unsigned int`.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        self._bits._legacy_seeding(int(seed) & 0xFFFFFFFF)
        self._block: Words = np.empty(0, np.uint32)
        self._at = 0

    def raw(self, n: int | None = None) -> Any:
        """The next 32-bit word as an int, or the next `n` as a uint32 array."""
        if n is None:
            if self._at >= len(self._block):
                self._refill(1)
            self._at += 1
            return int(self._block[self._at - 1])
        words = self._peek(n)
        self._at += n
        return words.copy()

    def below(self, n: int) -> int:
        """`raw() % n`, Caffe's usual way of choosing one of `n`."""
        return int(self.raw()) % n

    def uniform(self, a: float, b: float, n: int) -> Floats:
        """`n` float32 values of Caffe's uniform(a, b): b itself is possible."""
        low = np.float32(a)
        high = np.nextafter(np.float32(b), np.float32(np.inf), dtype=np.float32)
        out = np.empty(n, np.float32)
        done = 0
        while done < n:
            v = self.raw(n - done).astype(np.float32)
            v = v / _TWO_32 * (high - low) + low
            v = v[v < high]
            out[done : done + len(v)] = v
            done += len(v)
        return out

    def bernoulli(self, p: float | np.float32, n: int) -> NDArray[np.int32]:
        """`n` zeros and ones; compared in double for a Python float, in float32 for np.float32."""
        if p == 0:
            return np.zeros(n, np.int32)
        words = self.raw(n)
        if isinstance(p, np.float32):
            ones = words.astype(np.float32) <= p * np.float32(4294967295)
        else:
            ones = words <= p * 4294967295.0
        return np.asarray(ones, np.int32)

    def gaussian(self, mean: float, std: float, n: int) -> Floats:
        """`n` float32 values of Caffe's gaussian(mean, std), by the 128-layer ziggurat."""
        out = np.empty(n, np.float32)
        done = 0
        while done < n:
            v = self._normals(min(n - done, _BLOCK))
            out[done : done + len(v)] = v
            done += len(v)
        return out * np.float32(std) + np.float32(mean)

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Shuffle the list `items` in place as Caffe's `shuffle` (util/rng.hpp) does."""
        i = len(items) - 1
        while i > 0:
            count = min(i, _BLOCK)
            words = self._peek(count)
            tops = np.arange(i, i - count, -1, dtype=np.uint64)
            buckets, rests = np.divmod(np.uint64(4294967295), tops + np.uint64(1))
            picks = words // (buckets + (rests == tops))
            rejected = np.flatnonzero(picks > tops)  # practically never
            good = int(rejected[0]) if len(rejected) else count
            for j in picks[:good].tolist():
                items[i], items[j] = items[j], items[i]
                i -= 1
            self._at += good + (good < count)

    # -- internals -------------------------------------------------------------------------

    def _refill(self, n: int) -> None:
        rest = self._block[self._at :]
        fresh = self._bits.random_raw(max(n - len(rest), 624)).astype(np.uint32)
        self._block = np.concatenate([rest, fresh])
        self._at = 0

    def _peek(self, n: int) -> Words:
        if len(self._block) - self._at < n:
            self._refill(n)
        return self._block[self._at : self._at + n]

    def _normals(self, n: int) -> Floats:
        """1 to `n` standard normal values: most take one word, the others are done one by one."""
        words = self._peek(n + _RESERVE)[:n]
        start = self._at
        layer = (words & 0xFF) >> 1
        x = (words >> 8).astype(np.float32) * np.float32(2.0**-24) * _NX32[layer]
        values = np.where(words & 1, x, -x)
        keep = np.ones(n, bool)  # False where a word is the second or later one of a value
        used = 0
        for p in np.flatnonzero(x.astype(np.float64) >= _NX[layer + 1]).tolist():
            if p >= used:
                self._at = start + p
                values[p] = self._one_normal()
                used = self._at - start
                keep[p + 1 : used] = False
        self._at = start + max(n, used)
        return np.asarray(values[keep], np.float32)

    def _one_normal(self) -> np.float32:
        """One standard normal value, every case of the ziggurat."""
        while True:
            word = int(self.raw())
            i = (word & 0xFF) >> 1
            sign = np.float32(1.0 if word & 1 else -1.0)
            x = np.float32(word >> 8) * np.float32(2.0**-24) * _NX32[i]
            if float(x) < _NX[i + 1]:
                return np.float32(x * sign)
            if i == 0:
                return np.float32(self._normal_tail() * sign)
            y01 = self._unit()
            y = _NY32[i] + y01 * _NDY32[i]
            gap = _NX32[i] - x
            chord = _NDX32[i] * y01 - gap
            tangent = y - (_NY32[i] + gap * _NY32[i] * _NX32[i])
            upper, lower = (chord, tangent) if _NX[i] >= 1 else (tangent, chord)
            if upper < 0 and (lower < 0 or y < np.exp(-(x * x / np.float32(2)))):
                return np.float32(x * sign)

    def _normal_tail(self) -> np.float32:
        while True:
            a = self._exponential() / _NX32[1]
            b = self._exponential()
            if np.float32(2) * b > a * a:
                return np.float32(a + _NX32[1])

    def _exponential(self) -> np.float32:
        """One value of density exp(-x), by the 256-layer ziggurat."""
        shift = np.float32(0)
        while True:
            word = int(self.raw())
            i = word & 0xFF
            x = np.float32(word >> 8) * np.float32(2.0**-24) * _EX32[i]
            if float(x) < _EX[i + 1]:
                return np.float32(shift + x)
            if i == 0:
                shift = np.float32(shift + _EX32[1])
                continue
            y01 = self._unit()
            y = _EY32[i] + y01 * _EDY32[i]
            upper = _EDX32[i] * y01 - (_EX32[i] - x)
            lower = y - (_EY32[i + 1] + (_EX32[i + 1] - x) * _EY32[i + 1])
            if upper < 0 and (lower < 0 or y < np.exp(-x)):
                return np.float32(shift + x)

    def _unit(self) -> np.float32:
        """Draw a float32 in [0, 1)."""
        while True:
            value = np.float32(int(self.raw())) * np.float32(2.0**-32)
            if value < 1:
                return np.float32(value)
