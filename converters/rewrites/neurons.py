"""The exact forms of layers that change number by number."""

from __future__ import annotations

from caffeio.converters.rewrites.piece import CannotRewriteError, Piece, rewrite
from caffeio.proto import caffe_pb2 as pb

LARGE = 1e3  # from this bound on, high - relu(high - x) and the like lose too many digits


@rewrite("ReLU6")
def relu6(piece: Piece) -> None:
    """6 - max(6 - max(x, 0), 0), or Clip where the target has it."""
    bottom, top = piece.old.bottom[0], piece.old.top[0]
    slope = piece.old.relu6_param.negative_slope
    if piece.has("Clip") and not slope:
        clip = piece.add("Clip", [bottom], top)
        clip.clip_param.min, clip.clip_param.max = 0, 6
        return
    first = piece.add("ReLU", [bottom], top)
    if slope:
        first.relu_param.negative_slope = slope
    _at_most(piece, 6.0, 6.0)


@rewrite("Clip")
def clip(piece: Piece) -> None:
    """max(x, low), less what is more than high; both by ReLU."""
    p, now, top = piece.old.clip_param, piece.old.bottom[0], piece.old.top[0]
    if max(abs(p.min), abs(p.max)) >= LARGE:
        _large_clip(piece)
        return
    if p.min:
        piece.add("Power", [now], top, "low").power_param.shift = -p.min
        now = top
    piece.add("ReLU", [now], top, "least")
    _at_most(piece, p.max - p.min, p.max)


def _large_clip(piece: Piece) -> None:
    """x and what it lacks of low, less what is more than high: x between them is not touched."""
    p, bottom, top = piece.old.clip_param, piece.old.bottom[0], piece.old.top[0]
    least, above = piece.blob("least"), piece.blob("above")  # an Eltwise does not work in place
    if p.min:
        below = piece.blob("below")
        lack = piece.add("Power", [bottom], below, "below").power_param
        lack.scale, lack.shift = -1, p.min
        piece.add("ReLU", [below], below, "lack")
        piece.add("Eltwise", [bottom, below], least, "least")
    else:
        piece.add("ReLU", [bottom], least, "least")
    piece.add("Power", [least], above, "above").power_param.shift = -p.max
    piece.add("ReLU", [above], above, "excess")
    piece.add("Eltwise", [least, above], top).eltwise_param.coeff.extend((1, -1))


def _at_most(piece: Piece, most: float, end: float) -> None:
    """The top as end - max(most - top, 0)."""
    top = piece.old.top[0]
    for suffix, shift in (("flip", most), ("back", end)):
        p = piece.add("Power", [top], top, suffix).power_param
        p.scale, p.shift = -1, shift
        if suffix == "flip":
            piece.add("ReLU", [top], top, "cap")


@rewrite("Swish")
def swish(piece: Piece) -> None:
    """x * sigmoid(beta x)."""
    bottom, top = piece.old.bottom[0], piece.old.top[0]
    if bottom == top:
        raise CannotRewriteError("it works in place")
    gate, beta = piece.blob("gate"), piece.old.swish_param.beta
    source = bottom
    if beta != 1:
        piece.add("Power", [bottom], gate, "beta").power_param.scale = beta
        source = gate
    piece.add("Sigmoid", [source], gate, "sigmoid")
    piece.add("Eltwise", [bottom, gate], top).eltwise_param.operation = pb.EltwiseParameter.PROD
