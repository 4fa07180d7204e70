"""Operators that move numbers: shapes, pieces, order."""

from __future__ import annotations

import numpy as np

from caffeio.converters.from_onnx import exact
from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Node
from caffeio.converters.from_onnx.slices import slice_ranges
from caffeio.converters.from_onnx.table import operator


def refuse_computed(w: Writer, node: Node, what: str) -> None:
    """Raise Refused if an operator's second input, of which its shape comes, is no constant."""
    if node.input(1) and w.graph.constant(node.inputs[1]) is None:
        said = "is" if what == "shape" else "are"
        raise Refused(f"its {what} {said} computed", "export with fixed shapes")


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(w: Writer, node: Node) -> str:
    """The shape is known: a Reshape, or a Flatten."""
    refuse_computed(w, node, "shape" if node.op == "Reshape" else "axes")
    out = node.outputs[0]
    return w.reshape(w.blob(node.inputs[0]), w.graph.shapes[out], batch=w.graph.batch_axis(out))


@operator("Transpose")
def transpose(w: Writer, node: Node) -> str:
    """A Permute, a Reshape where only axes of size 1 move, else Slice and Concat."""
    x = w.blob(node.inputs[0])
    order = node.attrs.get("perm", range(len(w.shape(x)))[::-1])
    return exact.permute(w, x, [int(n) for n in order])


@operator("Concat")
def concat(w: Writer, node: Node) -> str:
    """Concat; constants among its inputs are Parameter layers."""
    axis = int(node.attrs["axis"])
    parts = [name for name in node.inputs if 0 not in w.graph.shape(name)]
    if not parts:
        raise Refused("all of its inputs are empty", "Caffe's blobs hold one number at least")
    xs = [w.blob(name) for name in parts]
    return exact.concat(w, xs, axis % len(w.shape(xs[0])), hint="")


@operator("Split", "Parts")
def split(w: Writer, node: Node) -> list[str]:
    """Slice; parts that nothing reads go to a Silence."""
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    if w.batch.get(x) == axis:
        w.fix_batch()
    sizes = w.graph.ints(node, "split", 1)
    if sizes is None:
        count = len(node.outputs)
        each = -(-shape[axis] // count)
        sizes = [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    ends = list(np.cumsum(sizes))
    if any(n == 0 for n in sizes):
        raise Refused("one of its parts is empty")
    tops = exact.slices(w, x, axis, [int(n) for n in ends[:-1]], hint="")
    used = {name for other in w.graph.nodes for name in other.inputs} | set(w.graph.outputs)
    pairs = list(zip(tops, node.outputs, strict=False))
    w.silence([top for top, name in pairs if name not in used] + tops[len(node.outputs) :])
    return tops[: len(node.outputs)]


@operator("Slice")
def slice_(w: Writer, node: Node) -> str:
    """Pieces along each axis; steps over maps by a convolution that picks."""
    x = w.blob(node.inputs[0])
    ranges = slice_ranges(w.graph.shape(node.inputs[0]), *_given(w, node))
    if ranges is None:
        raise Refused("its ends are computed")
    if w.graph.larger is not None and w.batch.get(x) != w.graph.batch_axis(node.outputs[0]):
        w.fix_batch()
    shape = w.shape(x)
    steps = {axis: r for axis, r in ranges.items() if r.step > 1 and len(r) > 1}
    if len(shape) == 4 and steps and set(steps) <= {2, 3}:
        x = strided(w, x, steps)
        ranges = {axis: r for axis, r in ranges.items() if axis not in steps}
    for axis, r in ranges.items():
        if w.batch.get(x) == axis and len(r) != w.shape(x)[axis]:
            w.fix_batch()
        x = exact.take(w, x, axis, list(r), hint="part")
    return x


def _given(w: Writer, node: Node) -> tuple[list[int] | None, ...]:
    g = w.graph
    return (
        g.ints(node, "starts", 1),
        g.ints(node, "ends", 2),
        g.ints(node, "axes", 3),
        g.ints(node, "steps", 4),
    )


def strided(w: Writer, x: str, steps: dict[int, range]) -> str:
    """Every n-th row or column: a convolution of every channel with one 1 in the kernel."""
    shape = w.shape(x)
    kernel, fields, counts = [], {}, []
    for axis, name in ((2, "h"), (3, "w")):
        r = steps.get(axis, range(shape[axis]))
        step = r.step
        one = np.zeros(r.start + 1)
        one[r.start] = 1
        kernel.append(one)
        fields[f"stride_{name}"] = step
        counts.append(len(r))
    y = exact.window(w, x, np.outer(*kernel), hint="step", **fields)
    for axis, count in zip((2, 3), counts, strict=True):
        if w.shape(y)[axis] > count:
            y = exact.crop(w, y, axis, 0, count)
    return y


@operator("Expand")
def expand(w: Writer, node: Node) -> str:
    """Tile along each axis that grows."""
    refuse_computed(w, node, "shape")
    x = w.blob(node.inputs[0])
    out = w.graph.shapes[node.outputs[0]]
    have, batch = w.shape(x), w.batch.get(x)
    more = len(out) - len(have)
    to = None if batch is None else batch + more
    x = w.reshape(x, (1,) * more + have, batch=to)
    if w.graph.batch_axis(node.outputs[0]) != w.batch.get(x):
        w.fix_batch()
    return exact.spread(w, x, out)


@operator("Tile")
def tile(w: Writer, node: Node) -> str:
    """One Tile for each axis that is repeated."""
    x = w.blob(node.inputs[0])
    repeats = w.graph.ints(node, "repeats", 1)
    if repeats is None:
        raise Refused("its repeats are computed")
    for axis, count in enumerate(repeats):
        if count == 1:
            continue
        if w.batch.get(x) == axis:
            w.fix_batch()
        shape = w.shape(x)
        new = (*shape[:axis], shape[axis] * count, *shape[axis + 1 :])
        if w.target.has("Tile"):
            x = w.layer("Tile", [x], new, tile_param={"axis": axis, "tiles": count})
        else:
            x = exact.concat(w, [x] * count, axis, hint="tile")
    return x


@operator("ChannelShuffle")
def channel_shuffle(w: Writer, node: Node) -> str:
    """Groups of channels, taken in turn: ShuffleChannel, or a 1x1 convolution."""
    return exact.shuffle_channels(w, w.blob(node.inputs[0]), int(node.attrs["group"]))


@operator("DepthToSpace")
def depth_to_space(w: Writer, node: Node) -> str:
    """A Deconvolution with one 1 in each kernel; the two modes differ in the weights only."""
    x = w.blob(node.inputs[0])
    n, channels, height, width = w.shape(x)
    block = int(node.attrs["blocksize"])
    kept = channels // block**2
    blob = np.zeros((channels, kept, block, block), np.float32)
    for c in range(kept):
        for i in range(block):
            for j in range(block):
                if node.attrs.get("mode", "DCR") == "DCR":
                    source = (i * block + j) * kept + c
                else:
                    source = (c * block + i) * block + j
                blob[source, c, i, j] = 1
    fields = {"num_output": kept, "bias_term": False, "kernel_size": [block], "stride": [block]}
    top: str = w.layer(
        "Deconvolution", [x], (n, kept, height * block, width * block), blobs=[blob],
        convolution_param=fields,
    )  # fmt: skip
    return top


@operator("SpaceToDepth", "Focus")
def space_to_depth(w: Writer, node: Node) -> str:
    """A convolution with one 1 in each kernel.

    `order` (of Focus) gives the offsets (row, column) of the output's groups of channels; with
    `inner` (as with the mode CRD) the offsets of one channel stand together.
    """
    x = w.blob(node.inputs[0])
    n, channels, height, width = w.shape(x)
    block = int(node.attrs["blocksize"])
    order = node.attrs.get("order", [(i, j) for i in range(block) for j in range(block)])
    inner = node.attrs.get("inner") or node.attrs.get("mode") == "CRD"
    blob = np.zeros((channels * len(order), channels, block, block), np.float32)
    for k, (i, j) in enumerate(order):
        for c in range(channels):
            at = c * len(order) + k if inner else k * channels + c
            blob[at, c, i, j] = 1
    if height % block or width % block:
        raise Refused("the map is no multiple of the block")
    fields = {"num_output": len(blob), "bias_term": False, "kernel_size": [block],
              "stride": [block]}  # fmt: skip
    top: str = w.layer(
        "Convolution", [x], (n, len(blob), height // block, width // block), blobs=[blob],
        convolution_param=fields,
    )  # fmt: skip
    return top
