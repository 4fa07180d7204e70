"""Loops over pixels that numba compiles: OpenCV's CUBIC of a part, and (pixel - mean) * scale.

Loaded only where numba is installed (the extra `fast`). The arithmetic is that of OpenCV's
imgproc/src/resize.cpp for bytes on a plain x86-64 (SSE3, without IPP), operation by operation:
coefficients in float32, rounded to 11 bits; rows mixed in int32; columns of eight in float32, with
a product and a sum for each step; the last columns, where eight do not fit, in int32. LLVM fuses
no product with a sum unless it is told that it may.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

numba: Any = import_module("numba")
extending: Any = import_module("numba.extending")
ir: Any = import_module("llvmlite.ir")
if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: _mix_pixel has no Python form")

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_F, _I = np.float32, np.int32
_LANES = 8  # columns at a time in OpenCV's vector loop over bytes

_BYTES = numba.types.Array(numba.uint8, 2, "A", readonly=True)  # rows of a part of an image
_PLANE = numba.types.Array(numba.uint8, 2, "C", readonly=True)


def _compiled(*signature: Any) -> Callable[[_Function], _Function]:
    """Compile a function; keep it on disk where numba finds a place for it."""

    def compile_it(function: _Function) -> _Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            made: _Function = numba.njit(*signature, cache=True, **options)(function)
        except RuntimeError:  # no folder may be written
            made = numba.njit(*signature, **options)(function)
        return made

    return compile_it


@_compiled()
def _table(n_from: int, n_to: int, first: int, starts: Ints, weights: Ints) -> None:
    """Fill in where outputs first, first + 1, ... of n_to begin, and the weights of their taps."""
    scale = 1.0 / (np.float64(n_to) / np.float64(n_from))
    a, one = _F(-0.75), _F(1)
    for i in range(len(starts)):
        at = _F((np.float64(first + i) + 0.5) * scale - 0.5)
        start = np.floor(at)
        x = _F(at - start)
        y = _F(one - x)
        z = _F(x + one)
        w0 = _F(((a * z - _F(5) * a) * z + _F(8) * a) * z - _F(4) * a)
        w1 = _F(((a + _F(2)) * x - (a + _F(3))) * x * x + one)
        w2 = _F(((a + _F(2)) * y - (a + _F(3))) * y * y + one)
        starts[i] = _I(start)
        weights[4 * i] = _I(np.rint(w0 * _F(2048)))
        weights[4 * i + 1] = _I(np.rint(w1 * _F(2048)))
        weights[4 * i + 2] = _I(np.rint(w2 * _F(2048)))
        weights[4 * i + 3] = _I(np.rint((one - w0 - w1 - w2) * _F(2048)))


def _mix_pixel_code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Emit: out[to + c] = sum of row[at + 3 k + c] * weights[first + k] for c in 0..3, k in 0..3.

    Four bytes at a time are widened to 32 bits: LLVM finds this form by itself only with a pass
    that numba leaves out.
    """
    four = ir.VectorType(ir.IntType(32), 4)
    sixteen = ir.VectorType(ir.IntType(8), 16)

    def place(index: int) -> Any:
        array = context.make_array(signature.args[index])(context, builder, values[index])
        return builder.gep(array.data, [values[index + 1]])

    taps = builder.load(builder.bitcast(place(0), sixteen.as_pointer()), align=1)
    weights = builder.load(builder.bitcast(place(2), four.as_pointer()), align=4)
    total = ir.Constant(four, [0, 0, 0, 0])
    for k in range(4):
        lanes = ir.Constant(four, [3 * k, 3 * k + 1, 3 * k + 2, 3 * k + 3])
        pixel = builder.shuffle_vector(taps, ir.Constant(sixteen, ir.Undefined), lanes)
        same = ir.Constant(four, [k] * 4)
        weight = builder.shuffle_vector(weights, ir.Constant(four, ir.Undefined), same)
        total = builder.add(total, builder.mul(builder.zext(pixel, four), weight))
    builder.store(total, builder.bitcast(place(4), four.as_pointer()), align=4)
    return context.get_dummy_value()


@extending.intrinsic  # type: ignore[untyped-decorator]
def _mix_pixel(
    context: Any, row: Any, at: Any, weights: Any, first: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]]:
    """Mix four neighbouring pixels of three bytes; writes a fourth number behind the three."""
    place = numba.types.intp
    return numba.void(row, place, weights, place, out, place), _mix_pixel_code


@_compiled()
def _mix_columns(row: Bytes, starts: Ints, weights: Ints, out: Ints) -> None:
    """Mix the columns of one row of pixels of three bytes; `out` has four numbers to spare."""
    last = len(row) // 3 - 1
    for i in range(len(starts)):
        start = starts[i] - 1
        if start >= 0 and start + 5 <= last:  # 16 bytes are read
            _mix_pixel(row, 3 * start, weights, 4 * i, out, 3 * i)
            continue
        for c in range(3):
            total = _I(0)
            for k in range(4):
                total += _I(row[3 * min(max(start + k, 0), last) + c]) * weights[4 * i + k]
            out[3 * i + c] = total


@_compiled()
def _mix_rows(r0: Ints, r1: Ints, r2: Ints, r3: Ints, weights: Ints, wide: int, out: Bytes) -> None:
    """Mix four rows; the first `wide` numbers in float32, the others in int32."""
    unit = _F(1) / _F(2048 * 2048)
    f0, f1 = _F(weights[0]) * unit, _F(weights[1]) * unit
    f2, f3 = _F(weights[2]) * unit, _F(weights[3]) * unit
    for j in range(wide):
        value = _F(r0[j]) * f0 + (_F(r1[j]) * f1 + (_F(r2[j]) * f2 + _F(r3[j]) * f3))
        out[j] = np.uint8(_I(min(max(np.rint(value), _F(0)), _F(255))))
    for j in range(wide, len(out)):
        total = np.int64(r0[j]) * weights[0] + np.int64(r1[j]) * weights[1]
        total += np.int64(r2[j]) * weights[2] + np.int64(r3[j]) * weights[3]
        out[j] = np.uint8(min(max((total + (1 << 21)) >> 22, 0), 255))


@_compiled(numba.void(_BYTES, *[numba.int64] * 5, numba.uint8[:, ::1]))
def cubic_part(
    image: Bytes, height: int, to_height: int, to_width: int, y: int, x: int, out: Bytes
) -> None:
    """Write a part of `image` resized to to_height x to_width into `out`, whose corner is (y, x).

    image: (rows, 3 * width), bytes of a row side by side. It is the top of `height` rows, of which
    those below may be missing if no output needs them.
    """
    rows, columns = out.shape[0], out.shape[1] // 3
    across, across_weights = np.empty(columns, _I), np.empty(4 * columns, _I)
    down, down_weights = np.empty(rows, _I), np.empty(4 * rows, _I)
    _table(image.shape[1] // 3, to_width, x, across, across_weights)
    _table(height, to_height, y, down, down_weights)
    ring = np.empty((4, 3 * columns + 4), _I)  # the last mixed rows, row p in p % 4
    held = np.full(4, -1, np.int64)
    wide = min(max(3 * to_width // _LANES * _LANES - 3 * x, 0), 3 * columns)
    top = height - 1
    for i in range(rows):
        first, end = min(max(down[i] - 1, 0), top), min(max(down[i] + 2, 0), top)
        for p in range(first, end + 1):
            if held[p & 3] != p:
                _mix_columns(image[p], across, across_weights, ring[p & 3])
                held[p & 3] = p
        second, third = min(max(down[i], 0), top), min(max(down[i] + 1, 0), top)
        _mix_rows(
            ring[first & 3], ring[second & 3], ring[third & 3], ring[end & 3],
            down_weights[4 * i : 4 * i + 4], wide, out[i],
        )  # fmt: skip


@_compiled(numba.void(_PLANE, numba.boolean, numba.float32, numba.float32, numba.float32[:, ::1]))
def write_plane(
    plane: Bytes, scaled: bool, scale: np.float32, mean: np.float32, out: Floats
) -> None:
    """Write (pixel - mean) * scale; `scaled`: pixel * scale - mean, of a mean scaled already."""
    for y in range(plane.shape[0]):
        pixels, row = plane[y], out[y]
        if scaled:
            for x in range(len(pixels)):
                row[x] = _F(pixels[x]) * scale - mean
        else:
            for x in range(len(pixels)):
                row[x] = (_F(pixels[x]) - mean) * scale


def _spread_code(back: bool) -> Callable[..., Any]:
    """Make the code of `_spread` (`back`: of `_spread_back`)."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        triples = ir.VectorType(ir.IntType(8), 3 * _LANES)
        numbers, floats = (ir.VectorType(t, _LANES) for t in (ir.IntType(32), ir.FloatType()))

        def place(index: int, at: int) -> Any:
            array = context.make_array(signature.args[index])(context, builder, values[index])
            return builder.gep(array.data, [values[at]])

        taken = builder.load(builder.bitcast(place(0, 1), triples.as_pointer()), align=1)
        for c in range(3):
            lanes = [3 * k + c for k in range(_LANES)]
            order = ir.Constant(
                ir.VectorType(ir.IntType(32), _LANES), lanes[::-1] if back else lanes
            )
            plane = builder.shuffle_vector(taken, ir.Constant(triples, ir.Undefined), order)
            values_of = builder.sitofp(builder.zext(plane, numbers), floats)
            builder.store(values_of, builder.bitcast(place(2 + c, 5), floats.as_pointer()), align=4)
        return context.get_dummy_value()

    return emit


@extending.intrinsic  # type: ignore[untyped-decorator]
def _spread(
    context: Any, row: Any, at: Any, first: Any, second: Any, third: Any, to: Any
) -> tuple[Any, Callable[..., Any]]:
    """Write the bytes of eight pixels from row[at] on as floats into three planes, from `to` on."""
    place = numba.types.intp
    return numba.void(row, place, first, second, third, place), _spread_code(False)


@extending.intrinsic  # type: ignore[untyped-decorator]
def _spread_back(
    context: Any, row: Any, at: Any, first: Any, second: Any, third: Any, to: Any
) -> tuple[Any, Callable[..., Any]]:
    """Do the same from right to left."""
    place = numba.types.intp
    return numba.void(row, place, first, second, third, place), _spread_code(True)


@_compiled()
def _normalize(row: Floats, scaled: bool, scale: np.float32, mean: np.float32) -> None:
    """Turn pixels into values: (pixel - mean) * scale, or pixel * scale - mean."""
    if scaled:
        for x in range(len(row)):
            row[x] = row[x] * scale - mean
    else:
        for x in range(len(row)):
            row[x] = (row[x] - mean) * scale


@_compiled(
    numba.void(_BYTES, *[numba.boolean] * 2, numba.float32, numba.float32[::1],
               numba.float32[:, :, ::1])
)  # fmt: skip
def write_pixels(
    image: Bytes, mirror: bool, scaled: bool, scale: np.float32, means: Floats, out: Floats
) -> None:
    """Write pixels of three bytes, (rows, 3 * width), as three planes of values (`write_plane`)."""
    width = out.shape[2]
    for y in range(out.shape[1]):
        row = image[y]
        first, second, third = out[0, y], out[1, y], out[2, y]
        done = width // _LANES * _LANES
        for to in range(0, done, _LANES):
            if mirror:
                _spread_back(row, 3 * (width - _LANES - to), first, second, third, to)
            else:
                _spread(row, 3 * to, first, second, third, to)
        for to in range(done, width):
            x = width - 1 - to if mirror else to
            first[to], second[to], third[to] = row[3 * x], row[3 * x + 1], row[3 * x + 2]
        _normalize(first, scaled, scale, means[0])
        _normalize(second, scaled, scale, means[1])
        _normalize(third, scaled, scale, means[2])
