"""The exact forms of layers that change number by number."""

from __future__ import annotations

from caffeio.converters.rewrites.piece import CannotRewriteError, Piece, rewrite
from caffeio.proto import caffe_pb2 as pb

LARGE = 1e3  # from this bound on, high - relu(high - x) would lose too many digits


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
    large = abs(p.max) >= LARGE
    least = piece.blob("least") if large else top  # an Eltwise does not work in place
    if p.min:
        piece.add("Power", [now], least, "low").power_param.shift = -p.min
        now = least
    piece.add("ReLU", [now], least, "least")
    if not large:
        _at_most(piece, p.max - p.min, p.max)
        return
    above = piece.blob("above")
    piece.add("Power", [least], above, "above").power_param.shift = p.min - p.max
    piece.add("ReLU", [above], above, "excess")
    piece.add("Eltwise", [least, above], top).eltwise_param.coeff.extend((1, -1))
    if p.min:
        piece.add("Power", [top], top, "back").power_param.shift = p.min


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
