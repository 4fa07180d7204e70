"""The two files: the deploy prototxt, and the caffemodel with the same layers and the weights."""

from __future__ import annotations

import os
from pathlib import Path

from caffeio import __version__
from caffeio.converters.from_onnx.compile import Compiled
from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.targets import Target, TargetRow
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto.dialect.dialect import Lost
from caffeio.proto.io.atomic import atomic_write, size_text
from caffeio.proto.text.printer import format_message
from caffeio.proto.weights.hdf5 import write_caffemodel_h5
from caffeio.proto.weights.write import write_caffemodel

_MOST = (1 << 31) - 1  # bytes of a protobuf message
MADE_BY = "# Made by caffeio "


def prototxt_text(compiled: Compiled, source: str) -> str:
    """The deploy prototxt, under comments that say what it was made from and for whom."""
    target = compiled.target
    head = [f"{MADE_BY}{__version__} from {source}", f"# for {target.name}: {target.title}"]
    head += [f"# {line}" for line in (*compiled.notes, *unverified(compiled))]
    body = format_message(compiled.message(), dialect=target.dialect)
    return "\n".join(head) + "\n" + body


def write_files(
    compiled: Compiled,
    caffemodel: str | os.PathLike[str],
    prototxt: str | os.PathLike[str],
    source: str,
    *,
    hdf5: bool = False,
) -> list[str]:
    """Write both files, each whole or not at all; returns notes on what the caffemodel lacks.

    Raises UnsupportedError for weights that no caffemodel holds (unless it shall be `hdf5`),
    CaffeIOError and SnapshotError if the files cannot be written.
    """
    compiled.model.check_files()
    lost: list[Lost] = []
    message = compiled.message()
    if hdf5:
        write_caffemodel_h5(caffemodel, message, _owned(compiled))
    else:
        refuse_size(compiled, str(caffemodel))
        blobs = [layer.blobs for layer in compiled.layers]
        write_caffemodel(caffemodel, message, blobs, dialect=compiled.target.dialect, lost=lost)
    compiled.model.check_files()
    with atomic_write(prototxt, error=CaffeIOError) as file:
        file.write(prototxt_text(compiled, source).encode("utf-8"))
    return [f"the caffemodel cannot say {item}; the prototxt does" for item in lost]


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether weights of that name are written as HDF5: Caffe goes by the same suffix."""
    return Path(path).suffix.lower() in (".h5", ".hdf5")


def refuse_size(compiled: Compiled, where: str) -> None:
    """Raise UnsupportedError if the weights do not fit into a caffemodel that Caffe reads.

    Protobuf stops at 2^31 - 1 bytes, in Caffe's ReadProtoFromBinaryFile (src/caffe/util/io.cpp,
    kProtoReadBytesLimit) as in every other reader; HDF5 has no such limit.
    """
    size = sum(array.nbytes for layer in compiled.layers for array in layer.blobs)
    if size + compiled.message().ByteSize() <= _MOST:
        return
    raise UnsupportedError(
        f"the weights are {size_text(size)}, and a caffemodel may have {_MOST} bytes: Caffe reads "
        "it by protobuf, which stops there. Write HDF5, which Caffe reads as well (vendors' "
        f"compilers and OpenCV do not): name the output {Path(where).stem}.caffemodel.h5",
        where=where,
    )


def _owned(compiled: Compiled) -> list[list[Array | None]]:
    """The blobs of each layer; of shared ones the first layer's only, as Caffe writes HDF5."""
    seen: set[str] = set()
    out = []
    for layer in compiled.layers:
        blobs: list[Array | None] = list(layer.blobs)
        for i, spec in enumerate(layer.param.param):
            if spec.name in seen and i < len(blobs):
                blobs[i] = None
            seen |= {spec.name} - {""}
        out.append(blobs)
    return out


def prototxt_beside(caffemodel: Path) -> Path:
    """The prototxt that goes with a caffemodel when none is named."""
    if is_hdf5(caffemodel):  # net.caffemodel.h5, or net.h5
        caffemodel = caffemodel.with_suffix("")
    return caffemodel.with_suffix(".prototxt")


def made_here(path: Path) -> bool:
    """Whether the file at `path` is a prototxt of ours: no other file may be replaced."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(MADE_BY)
    except OSError:
        return False


def unverified(compiled: Compiled) -> list[str]:
    """A line for each thing that is used and was not checked with the target itself."""
    target, used = compiled.target, {layer.type_name for layer in compiled.layers}
    rows = [row for kind, row in sorted(target.layers.items()) if kind in used]
    rows += list(target.rules.values())
    hearsay = [_fact(row) for row in rows if row.state == "hearsay"]
    if not hearsay:
        return []
    return [f"not verified with {target.name} itself: {', '.join(hearsay)}"]


def _fact(row: TargetRow) -> str:
    return row.name if row.kind == "layer" else f"{row.name} {row.value}".strip()


def facts(target: Target) -> list[str]:
    """All rows of a target for people."""
    return [
        f"{row.kind}\t{row.name}\t{row.value}\t{row.state}\t{row.source}" for row in target.rows
    ]
