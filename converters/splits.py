"""Undo what Caffe does to a net before it runs: take out the Split layers that it put in.

Source: src/caffe/util/insert_splits.cpp. A blob `b` of layer `l` that several layers read gets a
Split `b_l_0_split` with tops `b_l_0_split_0`, `b_l_0_split_1`, ...; snapshots have them.
"""

from __future__ import annotations

from typing import Any


def is_inserted_split(layer: Any) -> bool:
    """Whether Caffe itself has put this layer in, by its name and those of its tops."""
    name = layer.name
    return (
        layer.type == "Split"
        and len(layer.bottom) == 1
        and name.endswith("_split")
        and all(top == f"{name}_{k}" for k, top in enumerate(layer.top))
    )


def heal_splits(net: Any) -> int:
    """Remove the inserted Splits of a V2 net and give the blobs their names back; return how many.

    A Split's loss weight goes back to the layer that makes the blob.
    """
    names: dict[str, str] = {}
    kept, count = [], 0
    for layer in net.layer:
        for k, bottom in enumerate(layer.bottom):
            layer.bottom[k] = names.get(bottom, bottom)
        if not is_inserted_split(layer):
            kept.append(layer)
            continue
        count += 1
        names.update((top, layer.bottom[0]) for top in layer.top)
        if layer.loss_weight and layer.loss_weight[0]:
            _give_back(kept, layer.bottom[0], layer.loss_weight[0])
    if count:
        copies = [type(layer).FromString(layer.SerializeToString()) for layer in kept]
        del net.layer[:]
        net.layer.extend(copies)
    return count


def _give_back(layers: list[Any], blob: str, weight: float) -> None:
    for layer in reversed(layers):
        if blob in layer.top:
            index = list(layer.top).index(blob)
            while len(layer.loss_weight) < len(layer.top):
                layer.loss_weight.append(0)
            layer.loss_weight[index] = weight
            return
