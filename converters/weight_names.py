"""Which layers of a net a file of weights serves, which it lacks, and what no layer takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from caffeio.errors import CaffeIOError, WeightsError
from caffeio.net.graph import LayerNode, NetGraph, build_graph
from caffeio.net.shapes import Shape, agree, infer_net
from caffeio.profiles import profile_of_dialect
from caffeio.proto.files import NetFile
from caffeio.proto.io.blobs import BlobInfo
from caffeio.proto.weights.load import Weights
from caffeio.shape_text import format_shape


@dataclass
class Match:
    """A net and a file of weights, layer by layer.

    `lacking` are the layers of the net with blobs that the file does not have: name -> what they
    hold then, in words. Of these, `useless` are random or zero. `unused` are layers of the file
    that no layer of the net takes, `wrong` messages on counts and shapes that differ.
    """

    lacking: dict[str, str] = field(default_factory=dict)
    useless: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A line for each layer that has no partner."""
        lines = [
            f"layer {name!r} is not in the weights: {how}" for name, how in self.lacking.items()
        ]
        return lines + [f"layer {name!r} of the weights is not in the net" for name in self.unused]

    def refuse(self, source: str, *, untrained: bool = False) -> None:
        """Raise WeightsError if counts or shapes differ, or a layer would be random or zero."""
        if self.wrong:
            raise WeightsError("\n".join(self.wrong))
        if self.useless and not untrained:
            lines = [f"  layer {name!r}: {self.lacking[name]}" for name in self.useless]
            hint = [f"  the file has {name!r}, which the net has not" for name in self.unused[:20]]
            raise WeightsError(
                f"has no weights for {len(lines)} layer{'s' * (len(lines) > 1)} of the net "
                "(--untrained converts all the same):\n" + "\n".join([*lines, *hint]),
                where=source,
            )


def match_net(file: NetFile, weights: Weights, graph: NetGraph | None = None) -> Match:
    """Hold the net of a file against weights for it, by names, counts and shapes.

    Shapes that depend on data that is not there match everything. Layers of a phase that `graph`
    (default: that of TEST, else of TRAIN) does not have are not missed in it.
    """
    graph = graph or _graph(file)
    match = Match()
    known = {layer.name for layer in file.message.layer}
    match.unused = list(dict.fromkeys(name for name in weights if name not in known))
    if graph is None:
        return match
    shapes = infer_net(graph, profile=profile_of_dialect(file.dialect))
    shared: set[str] = set()  # params that a layer with weights owns
    for node, owned in zip(graph.nodes, shapes.layers, strict=True):
        specs = [spec.name for spec in node.param.param]
        have = weights.get(node.name)
        if have is not None:
            shared.update(filter(None, specs))
            match.wrong += _wrong(node, weights.entry(node.name).blobs, owned.blobs, weights)
        elif owned.blobs and not (
            (specs and all(name in shared for name in specs)) or _merged(node, graph, weights)
        ):
            match.lacking[node.name] = "nothing is written for it"
            match.useless.append(node.name)
    return match


def _graph(file: NetFile) -> NetGraph | None:
    for phase in ("TEST", "TRAIN"):
        try:
            return build_graph(file.message, phase=phase)
        except CaffeIOError:
            continue
    return None


def _merged(node: LayerNode, graph: NetGraph, weights: Weights) -> bool:
    """Whether a BatchNorm of the file holds the blobs of this Scale."""
    if node.type != "Scale" or len(node.param.bottom) != 1:
        return False
    makers = [n for n in graph.nodes if node.param.bottom[0] in n.param.top and n is not node]
    return any(n.type == "BatchNorm" and len(weights.get(n.name, ())) > 3 for n in makers)


def _wrong(
    node: LayerNode,
    have: Sequence[BlobInfo],
    expected: Sequence[Shape],
    weights: Weights,
) -> list[str]:
    """What does not fit in a layer of the file."""
    if not expected:
        return []
    where = f"{weights.path}: layer {node.name!r}"
    count = len(have)
    if node.type == "BatchNorm" and len(expected) == 3 and count in (4, 5):
        have = have[:3]
    elif count != len(expected):
        return [f"{where}: the file has {count} blobs, the net {len(expected)}"]
    return [
        f"{where}, blob {i}: the file's shape is {format_shape(blob.shape)}, the net's "
        f"{format_shape(shape)}"
        for i, (blob, shape) in enumerate(zip(have, expected, strict=True))
        if not _fits(blob, shape)
        and not (node.type == "BatchNorm" and _fits(blob, (1, *shape, 1, 1)))  # NVIDIA's
    ]


def _fits(blob: BlobInfo, shape: Shape) -> bool:
    own = tuple(blob.shape)
    if blob.legacy and len(shape) <= 4:
        shape = (1,) * (4 - len(shape)) + tuple(shape)
    return len(own) == len(shape) and all(map(agree, own, shape))
