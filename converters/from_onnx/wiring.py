"""Who makes and who reads a blob of the Caffe net, and how a layer is taken out."""

from __future__ import annotations

from collections.abc import Callable

from caffeio.converters.from_onnx.caffe_net import CaffeLayer, Writer

SHAPES = ("Reshape", "Flatten")  # layers whose top has the numbers of their bottom


def readers(w: Writer) -> dict[str, list[CaffeLayer]]:
    """Blob -> the layers that read it."""
    if w.wires is not None:
        known: dict[str, list[CaffeLayer]] = w.wires[0]
        return known
    out: dict[str, list[CaffeLayer]] = {}
    for layer in w.layers:
        for name in layer.bottoms:
            out.setdefault(name, []).append(layer)
    return out


def makers(w: Writer) -> dict[str, CaffeLayer]:
    """Blob -> the layer that makes it (the last one of a chain in place)."""
    if w.wires is not None:
        known: dict[str, CaffeLayer] = w.wires[1]
        return known
    return {top: layer for layer in w.layers for top in layer.tops}


def may_go(w: Writer, source: str, keep: set[str]) -> bool:
    """Whether a blob may take the name of an output that equals it."""
    maker = makers(w).get(source)
    alone = len(readers(w).get(source, [])) == 1 and source not in keep
    return maker is not None and maker.type_name != "Input" and alone


def remove(w: Writer, layer: CaffeLayer, keep: set[str]) -> bool:
    """Take out a layer whose top equals its bottom, if the output's name can stay."""
    source, top = layer.bottoms[0], layer.tops[0]
    if top not in keep:
        w.layers.remove(layer)
        bypass(w, top, source)
        return True
    if not may_go(w, source, keep):
        return False
    w.layers.remove(layer)
    rename(w, source, top)
    return True


def bypass(w: Writer, old: str, new: str) -> None:
    """Let all that reads `old` read `new`."""
    for layer in w.layers:
        for i, name in enumerate(layer.param.bottom):
            if name == old:
                layer.param.bottom[i] = new


def only_maker(
    w: Writer, layer: CaffeLayer, keep: set[str], kinds: tuple[str, ...]
) -> CaffeLayer | None:
    """The layer that makes the only bottom, if nothing else reads it and it is of those kinds."""
    name = layer.bottoms[0]
    maker = makers(w).get(name)
    if maker is None or maker.type_name not in kinds or name in keep:
        return None
    return maker if len(readers(w).get(name, [])) == 1 and len(maker.tops) == 1 else None


def rename(w: Writer, old: str, new: str) -> None:
    """Call a blob otherwise wherever it stands."""
    for layer in w.layers:
        for names in (layer.param.bottom, layer.param.top):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    w.shapes[new] = w.shapes[old]


def mended(w: Writer, step: Callable[[Writer, set[str]], bool], keep: set[str]) -> bool:
    """What a step says that looks for one place and changes nothing before it has found it.

    Who makes and reads what is looked up once for it: nets that are unrolled have 10,000 layers.
    """
    w.wires = None
    w.wires = (readers(w), makers(w))
    try:
        return step(w, keep)
    finally:
        w.wires = None
