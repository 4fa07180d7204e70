"""Which layer of one net is which layer of the other: by name, then by structure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from caffeio.converters.diff.matching import matching
from caffeio.converters.diff.messages import layer_fields, rules_text
from caffeio.proto.caffe_pb2 import LayerParameter, Phase

Layers = Sequence[LayerParameter]


@dataclass(frozen=True)
class Alignment:
    """Pairs of indices (left, right), and the indices that have no partner."""

    pairs: list[tuple[int, int]]
    removed: list[int]
    added: list[int]


def align(left: Layers, right: Layers) -> Alignment:
    """Pair the layers of two nets; no layer has two partners."""
    partner: dict[int, int] = {}
    for pair in (
        partial(_pair_by_key, key=lambda p: (p.name, rules_text(p))),
        partial(_pair_by_key, key=lambda p: p.name),
        partial(_pair_by_structure, key=_structure),
        _pair_by_wiring,
    ):
        if len(partner) < min(len(left), len(right)):
            pair(left, right, partner)
    taken = set(partner.values())
    return Alignment(
        sorted(partner.items()),
        [i for i in range(len(left)) if i not in partner],
        [j for j in range(len(right)) if j not in taken],
    )


def _pair_by_key(left: Layers, right: Layers, partner: dict[int, int], key: object) -> None:
    assert callable(key)
    taken = set(partner.values())
    waiting: dict[Hashable, deque[int]] = defaultdict(deque)
    for j, param in enumerate(right):
        if j not in taken and param.name:
            waiting[key(param)].append(j)
    for i, param in enumerate(left):
        if i not in partner and (found := waiting.get(key(param))):
            partner[i] = found.popleft()


def _structure(param: LayerParameter) -> Hashable:
    return (
        param.type,
        len(param.bottom),
        len(param.top),
        rules_text(param),
        tuple(sorted(layer_fields(param).items())),
    )


def _pair_by_structure(left: Layers, right: Layers, partner: dict[int, int], key: object) -> None:
    """Pair layers of equal structure that stand in the same order between paired ones."""
    assert callable(key)
    back = {j: i for i, j in partner.items()}
    tokens: dict[Hashable, int] = {}

    def token(value: Hashable) -> int:
        return tokens.setdefault(value, len(tokens))

    a = [token(("pair", i)) if i in partner else token(key(p)) for i, p in enumerate(left)]
    b = [token(("pair", back[j])) if j in back else token(key(p)) for j, p in enumerate(right)]
    for i, j in matching(a, b):
        if i not in partner and j not in back:
            partner[i], back[j] = j, i


Maker = tuple[int, int] | None  # (layer, top)


def producers(layers: Layers, phase: str | None = None) -> list[list[Maker] | None]:
    """For each layer, for each of its bottoms: what made it last; None for nothing.

    With a phase, layers that never take part in it have None instead of a list.
    """
    latest: dict[str, tuple[int, int]] = {}
    out: list[list[Maker] | None] = []
    for i, param in enumerate(layers):
        if phase is not None and not _may_take_part(param, phase):
            out.append(None)
            continue
        out.append([latest.get(name) for name in param.bottom])
        for k, name in enumerate(param.top):
            latest[name] = (i, k)
    return out


def _may_take_part(param: LayerParameter, phase: str) -> bool:
    """Whether the phase rules leave the layer in, whatever the level and the stages."""
    number = Phase.Value(phase)
    if param.include:
        return any(not rule.HasField("phase") or rule.phase == number for rule in param.include)
    return not any(
        rule.HasField("phase") and rule.phase == number and not (rule.stage or rule.not_stage)
        for rule in param.exclude
    )


def _pair_by_wiring(left: Layers, right: Layers, partner: dict[int, int]) -> None:
    """Pair layers of one type that read from partners: renamed and changed at once."""
    from_left, from_right = producers(left), producers(right)
    taken = set(partner.values())
    waiting: dict[tuple[str, tuple[Maker, ...]], set[int]] = defaultdict(set)
    for j, other in enumerate(right):
        if j not in taken:
            waiting[other.type, tuple(from_right[j] or [])].add(j)
    for i, param in enumerate(left):
        if i in partner or not param.bottom:
            continue
        makers = from_left[i] or []
        if any(p is not None and p[0] not in partner for p in makers):
            continue
        wanted = tuple((partner[p[0]], p[1]) if p else None for p in makers)
        fits = waiting.get((param.type, wanted), set())
        if len(fits) == 1:
            partner[i] = fits.pop()
