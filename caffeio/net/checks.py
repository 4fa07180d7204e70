"""What a net refuses of how a layer stands in it: asked by the builder, `show`, `lint`. No torch.

Sources: src/caffe/net.cpp (Init, AppendParam), include/caffe/layer.hpp (CheckBlobCounts),
src/caffe/layers/batch_norm_layer.cpp (masking of statistics).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from caffeio.errors import NetError
from caffeio.layers import LayerType
from caffeio.net.graph import LayerNode
from caffeio.shape_text import caffe_shape

Shape = Sequence[int]


@dataclass(frozen=True)
class Refusal:
    """One thing that is wrong, and the field of the layer that says it."""

    check: str  # counts, in-place, loss-weights, params, statistics, shared-shapes, shared-mults
    message: str
    steps: tuple[str | int, ...] = ()
    named: bool = True  # does the error begin with the layer's name?

    def text(self, node: LayerNode) -> str:
        """The error's text."""
        return f"layer {node.name!r}: {self.message}" if self.named else self.message

    def error(self, node: LayerNode) -> NetError:
        """Make the error with which a net is not built."""
        return NetError(self.text(node), where=node.where or None)


def insist(node: LayerNode, refusals: Iterable[Refusal]) -> None:
    """Raise NetError for the first of `refusals`, if there is one."""
    for refusal in refusals:
        raise refusal.error(node)


def wrong_counts(node: LayerNode, cls: type[LayerType], n_tops: int) -> Iterator[Refusal]:
    """Find a wrong number of bottoms or tops, and a layer in place that cannot be."""
    problem = cls.count_problem(node.type, len(node.param.bottom), n_tops)
    if problem is not None:
        yield Refusal("counts", problem)
    if node.in_place and not cls.in_place:
        first = min(node.in_place)
        top = node.param.top[first]
        message = f"{node.type} cannot work in place (top and bottom {top!r})"
        yield Refusal("in-place", message, ("top", first))


def wrong_weights(node: LayerNode, n_tops: int) -> Iterator[Refusal]:
    """Find a loss_weight that is not given once for each top."""
    weights = len(node.param.loss_weight)
    if weights and weights != n_tops:
        message = (
            f"loss_weight must be left out or given once per top blob: {weights} weights, "
            f"{n_tops} tops"
        )
        yield Refusal("loss-weights", message, ("loss_weight",))


def wrong_params(node: LayerNode, blobs: int, statistics: Iterable[int]) -> Iterator[Refusal]:
    """Find more `param` specs than there are blobs, and statistics that would be learned."""
    specs = node.param.param
    if len(specs) > blobs:
        message = f"too many params: {len(specs)} are specified, {node.type} has {blobs} blobs"
        yield Refusal("params", message, ("param", blobs))
    for i in statistics:
        if len(specs) > i and specs[i].lr_mult != 0:
            message = (
                f"batch normalization statistics cannot be learned: param {i} needs lr_mult 0, "
                f"not {specs[i].lr_mult:g}"
            )
            yield Refusal("statistics", message, ("param", i, "lr_mult"))


@dataclass
class BlobOwner:
    """The layer that named a shared param first: the blob is its own."""

    node: LayerNode
    index: int  # of the blob
    shape: Shape
    mults: dict[str, float] = field(default_factory=dict)  # as those that share it have set them


class SharedParams:
    """The params of a net that have names."""

    def __init__(self) -> None:
        self.owners: dict[str, BlobOwner] = {}

    def add(
        self, node: LayerNode, shapes: Mapping[int, Shape]
    ) -> Iterator[tuple[int, BlobOwner, Refusal | None]]:
        """Take a layer's named params in; yield those that another layer owns, and what is wrong.

        `shapes` holds the shapes of the blobs that are known; -1 is an unknown dimension.
        """
        for i, spec in enumerate(node.param.param):
            if not spec.name or i not in shapes:
                continue
            mults = {k: getattr(spec, k) for k in ("lr_mult", "decay_mult") if spec.HasField(k)}
            owner = self.owners.get(spec.name)
            if owner is None:
                self.owners[spec.name] = BlobOwner(node, i, shapes[i], mults)
                continue
            refusal = self._wrong_shape(node, i, owner, shapes[i])
            for key, value in mults.items():
                if owner.mults.setdefault(key, value) != value and refusal is None:
                    message = f"shared param {spec.name!r} has mismatched {key}"
                    refusal = Refusal("shared-mults", message, ("param", i, key), named=False)
            yield i, owner, refusal

    @staticmethod
    def _wrong_shape(node: LayerNode, i: int, owner: BlobOwner, mine: Shape) -> Refusal | None:
        spec, theirs = node.param.param[i], owner.shape
        if -1 in (*mine, *theirs):
            return None
        title = (
            f"cannot share param {spec.name!r} owned by layer {owner.node.name!r} with layer "
            f"{node.name!r}"
        )
        if spec.share_mode and prod(mine) != prod(theirs):  # PERMISSIVE
            reason = f"count mismatch, {prod(theirs)} against {prod(mine)}"
        elif not spec.share_mode and tuple(mine) != tuple(theirs):
            reason = (
                f"shape mismatch, the owner's is {caffe_shape(theirs)}, the sharing layer expects "
                f"{caffe_shape(mine)}"
            )
        else:
            return None
        return Refusal("shared-shapes", f"{title}: {reason}", ("param", i), named=False)
