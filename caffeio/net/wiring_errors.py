"""What is said of a net whose layers read blobs that no layer makes."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from caffeio.errors import NetError
from caffeio.proto import caffe_pb2 as pb


def unknown_bottom(
    layers: Sequence[pb.LayerParameter],
    index: int,
    bottom: int,
    left_out: Sequence[pb.LayerParameter],
    state: pb.NetState,
    where: str,
) -> NetError:
    """Make the error of layer `index`, whose bottom no layer before it makes, with its cause.

    `left_out` are the layers of the file that take no part in `state`.
    """
    blob = layers[index].bottom[bottom]
    later = next((la.name for la in layers[index + 1 :] if blob in la.top), None)
    absent = next((la for la in left_out if blob in la.top), None)
    if absent is not None:
        hint = _absent(absent, state)
    elif later is not None:
        hint = f"layer {later!r} makes it, but only further down: move that layer up"
    else:
        known = dict.fromkeys(top for la in layers[:index] for top in la.top)
        close = get_close_matches(blob, known, 2)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "no layer makes it"
        hint += " (in this phase, level and stage)"
    reader = f"layer {layers[index].name!r}, bottom index {bottom}"
    return NetError(
        f"unknown bottom blob {blob!r} ({reader}): {hint}",
        where=where or None,
    )


def _absent(layer: pb.LayerParameter, state: pb.NetState) -> str:
    rules = layer.include or layer.exclude
    kind = "include" if len(layer.include) else "exclude"
    asked = "; ".join(str(rule).strip().replace("\n", " ") for rule in rules)
    stages = ", ".join(f'"{stage}"' for stage in state.stage) or "none"
    hint = (
        f"layer {layer.name!r} makes it, but takes no part here (phase "
        f"{pb.Phase.Name(state.phase)}, level {state.level}, stages: {stages}): its rule is "
        f"{kind} {{ {asked} }}"
    )
    if state.phase == pb.TEST and any(rule.stage for rule in layer.include):
        hint += "; -stage is for the training net, a test net gets its stages by test_state"
    return hint
