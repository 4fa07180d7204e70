"""Which layers Intel Caffe folds away in TEST nets: Convolution + BatchNorm (+ Scale) becomes one.

Our nets run the layers as written (the outputs agree to rounding); Intel's log shows the folded
net, and so does ours. No torch here. Source: sara-nl/caffe src/caffe/util/remove_batch_norm.cpp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from caffeio.net.graph import Readers
from caffeio.proto import caffe_pb2 as pb


@dataclass
class Folded:
    """The layers of a net after folding."""

    layers: list[pb.LayerParameter] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # their indices in the net before
    dropped: list[str] = field(default_factory=list)  # names, in the order of Caffe's log
    kept_batch_norms: list[str] = field(default_factory=list)
    folds: bool = False  # whether any layer was dropped


def fold_batch_norms(
    layers: Sequence[pb.LayerParameter], keep: Sequence[str] | None = None
) -> Folded:
    """Fold every Convolution that a BatchNorm reads first; `layers` (with splits) stay as they are.

    A BatchNorm with `use_global_stats: false` is left alone; with `keep` (the folding of a file of
    weights into a net that is there) the BatchNorms of these names are.
    """
    out = Folded()
    drop: Counter[str] = Counter()  # names, with how many layers of that name go
    readers = Readers(layers)
    kept = None if keep is None else frozenset(keep)
    for i, layer in enumerate(layers):
        merged = pb.LayerParameter()
        merged.CopyFrom(layer)
        if layer.type == "Convolution" and len(layer.top):
            norm = _first_reader(layers, readers, layer.top[0], i + 1)
            if norm is not None and norm.type == "BatchNorm":
                if _stays(norm, kept):
                    if keep is None:
                        out.kept_batch_norms.append(norm.name)
                else:
                    drop.update(_fold(layers, readers, i, norm, merged))
        if drop[layer.name]:
            drop[layer.name] -= 1
            out.dropped.append(layer.name)
            continue
        if layer.type == "BatchNorm":
            out.kept_batch_norms.append(layer.name)
        out.layers.append(merged)
        out.kept.append(i)
    out.folds = bool(out.dropped)
    return out


def _stays(norm: pb.LayerParameter, keep: frozenset[str] | None) -> bool:
    if keep is not None:
        return norm.name in keep
    param = norm.batch_norm_param
    return param.HasField("use_global_stats") and not param.use_global_stats


def _fold(
    layers: Sequence[pb.LayerParameter],
    readers: Readers,
    index: int,
    norm: pb.LayerParameter,
    merged: pb.LayerParameter,
) -> list[str]:
    """Give `merged` the last top and a bias; the names of what it takes in."""
    scale = _first_reader(layers, readers, norm.top[0], index + 2)
    if scale is None:
        return []
    taken = [norm, scale] if scale.type == "Scale" else [norm]
    merged.top[0] = taken[-1].top[0]
    if not merged.convolution_param.bias_term:
        merged.convolution_param.bias_term = True
    return list(dict.fromkeys(layer.name for layer in taken))


def _first_reader(
    layers: Sequence[pb.LayerParameter], readers: Readers, blob: str, start: int
) -> pb.LayerParameter | None:
    index = readers.first(blob, start)
    return None if index is None else layers[index]
