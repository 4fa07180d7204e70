"""The last steps: layers that are one are merged, what nothing reads goes, ReLU in place, names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from caffeio.converters.from_onnx.caffe_net import CaffeLayer, Writer
from caffeio.converters.from_onnx.merging import STEPS
from caffeio.converters.from_onnx.names import plain
from caffeio.converters.from_onnx.wiring import makers, mended, readers, rename
from caffeio.proto import caffe_pb2 as pb

# Layers whose top has memory of its own (that of a Reshape or a Slice is its bottom's) and whose
# backward pass does not read it.
_OWN_MEMORY = ("Convolution", "Deconvolution", "InnerProduct", "Eltwise", "BatchNorm", "Scale",
               "Bias", "Pooling", "LRN", "Concat")  # fmt: skip
_IN_PLACE = ("ReLU", "BatchNorm", "Scale")


def finish(w: Writer, outputs: Iterable[str]) -> None:
    """Tidy the net up; blobs in `outputs` keep their values and names."""
    keep = set(outputs)
    while any(mended(w, step, keep) for step in STEPS):
        pass
    _drop_unread(w, keep)
    if w.target.rule("line_behind_power"):
        _part_lines(w)
    if w.target.rule("scale_of_positions"):
        _part_scales(w)
    if w.target.rule("outputs_are_layers"):
        _layers_of_outputs(w, keep)
    _in_place(w, keep)


def _part_lines(w: Writer) -> None:
    """Put a Reshape that does nothing between a root or square and the line behind it."""
    reads = readers(w)
    for index, layer in reversed(list(enumerate(w.layers))):
        p, top = layer.param.power_param, layer.tops[:1]
        if layer.type_name != "Power" or p.power == 1 or len(reads.get(top[0], [])) != 1:
            continue
        behind = reads[top[0]][0]
        line = behind.type_name == "Power" and behind.param.power_param.power == 1
        if not line and not (
            behind.type_name in ("Scale", "BatchNorm") and w.shape(top[0])[1:2] == (1,)
        ):
            continue
        behind.param.bottom[0] = _same(w, index + 1, top[0], w.unique(f"{top[0]}_apart"))


def _part_scales(w: Writer) -> None:
    """Put a Reshape that does nothing before a Scale that has no number for each channel."""
    for index, layer in reversed(list(enumerate(w.layers))):
        p = layer.param.scale_param
        if layer.type_name == "Scale" and (p.axis, p.num_axes) != (1, 1):
            bottom = layer.bottoms[0]
            layer.param.bottom[0] = _same(w, index, bottom, w.unique(f"{bottom}_apart"))


def _layers_of_outputs(w: Writer, keep: set[str]) -> None:
    """Let an output that is one of several tops be the top of a Reshape that does nothing."""
    for index, layer in reversed(list(enumerate(w.layers))):
        for top in keep.intersection(layer.tops) if len(layer.tops) > 1 else ():
            piece = w.unique(f"{top}_piece")
            rename(w, top, piece)
            w.batch[piece] = w.batch.get(top)
            _same(w, index + 1, piece, top)


def _same(w: Writer, index: int, bottom: str, top: str) -> str:
    """Insert a Reshape to the same shape; returns its top, which has its name."""
    param = pb.LayerParameter(name=top, type="Reshape", bottom=[bottom], top=[top])
    param.reshape_param.shape.dim.extend([0] * len(w.shape(bottom)))
    w.shapes[top], w.batch[top] = w.shape(bottom), w.batch.get(bottom)
    w.layers.insert(index, CaffeLayer(param))
    return top


def _drop_unread(w: Writer, keep: set[str]) -> None:
    """Layers whose tops nothing reads go; a Silence reads what is left of others."""
    while True:
        reads = readers(w)
        quiet = {n for layer in w.layers if layer.type_name == "Silence" for n in layer.bottoms}

        def used(name: str, reads: dict[str, Any] = reads, quiet: set[str] = quiet) -> bool:
            return name in keep or any(r.type_name != "Silence" for r in reads.get(name, []))

        gone = [
            layer
            for layer in w.layers
            if layer.type_name != "Input" and layer.tops and not any(map(used, layer.tops))
        ]
        if not gone:
            break
        tops = {top for layer in gone for top in layer.tops}
        w.layers = [layer for layer in w.layers if layer not in gone]
        for layer in list(w.layers):
            if layer.type_name == "Silence":
                rest = [name for name in layer.bottoms if name not in tops]
                del layer.param.bottom[:]
                layer.param.bottom.extend(rest)
                if not rest:
                    w.layers.remove(layer)


def _in_place(w: Writer, keep: set[str]) -> None:
    """ReLU, BatchNorm and Scale write over their bottom where nothing else reads it."""
    reads, made_by = readers(w), makers(w)
    for layer in w.layers:
        if layer.type_name not in _IN_PLACE or len(layer.bottoms) != 1:
            continue
        name, top = layer.bottoms[0], layer.tops[0]
        maker = made_by.get(name)
        fits = maker is not None and maker.type_name in _OWN_MEMORY + _IN_PLACE
        if not fits or name in keep or len(reads[name]) != 1:
            continue
        if top in keep and w.target.rule("outputs_are_layers"):
            continue
        if maker is not None and maker.type_name == "Concat" and len(maker.bottoms) == 1:
            continue
        layer.param.top[0] = name
        made_by[name] = layer
        reads[name] = reads.get(top, [])
        for other in reads[name]:
            for i, bottom in enumerate(other.param.bottom):
                if bottom == top:
                    other.param.bottom[i] = name
        if top in keep:  # the chain has the output's name from its beginning
            rename(w, name, top)
            made_by[top], reads[top] = layer, []


def own_output(w: Writer, blob: str) -> str:
    """A blob with the numbers of an output, which nothing reads: Caffe's outputs are such blobs.

    OpenCV hands out any layer's.
    """
    if w.target.rule("outputs_are_layers") or not readers(w).get(blob):
        return blob
    last = max(i for i, layer in enumerate(w.layers) if blob in layer.tops)
    behind = [layer for layer in w.layers[last + 1 :] if blob in layer.bottoms]
    if not behind:
        return blob
    out = w.unique(f"{blob}_out")
    w.shapes[out], w.batch[out] = w.shape(blob), w.batch.get(blob)
    if w.target.has("Split"):
        on = w.unique(f"{blob}_on")
        w.shapes[on], w.batch[on] = w.shape(blob), w.batch.get(blob)
        param = pb.LayerParameter(name=w.unique(f"{blob}_split"), type="Split", bottom=[blob])
        param.top.extend([on, out])
        for layer in behind:
            for i, name in enumerate(layer.param.bottom):
                if name == blob:
                    layer.param.bottom[i] = on
    else:
        param = pb.LayerParameter(name=out, type="Power", bottom=[blob], top=[out])
    w.layers.insert(last + 1, CaffeLayer(param))
    return out


def silence_inputs(w: Writer, inputs: set[str]) -> None:
    """Give inputs that nothing reads a Silence: an input without a reader would be an output."""
    reads = readers(w)
    if unread := sorted(blob for blob in inputs if blob not in reads):
        w.stem = "inputs"
        w.silence(unread)


def name_blob(w: Writer, blob: str, expected: str) -> str:
    """Call an output's blob, and the layer that makes it, as the model does; returns the name.

    A name that is taken leaves the blob's as it is. A layer in place keeps its own name: OpenCV has
    given the blob's to an earlier one by then.
    """
    name = plain(expected)
    taken = {n for layer in w.layers for n in (*layer.bottoms, *layer.tops)}
    if name != blob and name not in taken:
        rename(w, blob, name)
        blob = name
    last = [layer for layer in w.layers if blob in layer.tops][-1]
    names = {layer.param.name for layer in w.layers}
    own = len(last.tops) == 1 and blob not in last.bottoms and last.type_name != "Input"
    if own and blob not in names:
        last.param.name = blob
    return blob
