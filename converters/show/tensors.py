"""Files of others: ONNX models, safetensors, PyTorch files, NumPy archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from caffeio.converters.report.model import Report, count, listed, size
from caffeio.converters.show.stats import stats_of
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError, WeightsError
from caffeio.shape_text import format_shape


def show_onnx(source: Source) -> Report:
    """An ONNX model: who made it, its inputs and outputs, its nodes in order, its metadata."""
    onnx = import_module("onnx")
    try:
        model = onnx.load(source.path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise CaffeIOError(f"is no ONNX model: {error}", where=source.label) from None
    if not model.graph.node and not model.graph.output:
        raise CaffeIOError("is no ONNX model: it has no graph", where=source.label)
    graph = model.graph
    held = {t.name: format_shape(tuple(t.dims)) for t in graph.initializer}
    weights = sum(int(np.prod(t.dims)) for t in graph.initializer)
    opsets = [f"{item.domain or 'ai.onnx'} {item.version}" for item in model.opset_import]
    out = Report(f"{source.label}: ONNX model")
    head = out.section("").table("", "", heads=False)
    head.add("made by", f"{model.producer_name or '?'} {model.producer_version}".strip())
    head.add("opset", listed(opsets))
    head.add("IR version", str(model.ir_version))
    head.add("parameters", f"{weights:,} in {count(len(held), 'tensor')}")
    head.add("size", size(source.path.stat().st_size))
    ends = _onnx_ends(out, graph, held)
    _onnx_nodes(out, graph, held)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata:
        table = out.section("Metadata").table("", "", heads=False)
        for key, value in metadata.items():
            table.add(key, value)
    out.data = {
        "kind": "onnx",
        "file": source.label,
        "producer": model.producer_name,
        "opset": opsets,
        "parameters": weights,
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        "metadata": metadata,
        **ends,
    }
    return out


def _onnx_ends(out: Report, graph: Any, held: Mapping[str, str]) -> dict[str, Any]:
    """Tell inputs and outputs; those that are weights as well are left out."""
    table = out.section("Inputs and outputs").table("", "name", "shape")
    data: dict[str, Any] = {"inputs": {}, "outputs": {}}
    for title, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.name in held:
                continue
            dims = [d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim]
            table.add(title, value.name, "x".join(dims) or "?")
            data[f"{title}s"][value.name] = dims
    return data


def _onnx_nodes(out: Report, graph: Any, held: Mapping[str, str]) -> None:
    columns = ("name", "operator", "reads", "weights", "makes")
    table = out.section(f"Nodes ({len(graph.node)})").table(*columns)
    for node in graph.node:
        reads = [name for name in node.input if name and name not in held]
        owned = [held[name] for name in node.input if name in held]
        table.add(node.name, node.op_type, listed(reads), listed(owned), listed(list(node.output)))


def show_tensors(source: Source) -> Report:
    """A file of tensors: what they are called, their types, shapes and values."""
    titles = {"safetensors": "safetensors", "pt": "PyTorch file", "npz": "NumPy archive"}
    if source.kind == "pt" and (program := _program(source)):
        out = Report(f"{source.label}: {program}")
        out.add_paragraph(f"A program, not only tensors; size {size(source.path.stat().st_size)}.")
        out.data = {"kind": "pt", "file": source.label, "program": program}
        return out
    tensors = _READERS[source.kind](source)
    out = Report(f"{source.label}: {titles[source.kind]}")
    head = out.section("").table("", "", heads=False)
    values = sum(int(a.size) for a in tensors.values())
    head.add("tensors", f"{len(tensors):,}")
    head.add("values", f"{values:,}")
    head.add("layers", f"{len({name.rpartition('.')[0] for name in tensors}):,}")
    head.add("size", size(source.path.stat().st_size))
    table = out.section("Tensors").table(
        "name", "type", "shape", "values", "from", "to", right=(3, 4, 5)
    )
    stats = {}
    for name, array in tensors.items():
        found = stats_of(np.asarray(array, np.float32) if array.dtype.kind != "f" else array)
        stats[name] = {"dtype": str(array.dtype), **found.as_data()}
        row = (f"{array.size:,}", f"{found.low:.4g}", f"{found.high:.4g}")
        table.add(name, str(array.dtype), format_shape(array.shape), *row)
    out.data = {"kind": source.kind, "file": source.label, "tensors": stats}
    return out


def _program(source: Source) -> str | None:
    import zipfile

    from caffeio.proto.weights.npz import BROKEN_ARCHIVE

    try:
        with zipfile.ZipFile(source.path) as archive:
            names = archive.namelist()
    except BROKEN_ARCHIVE:
        return None
    if any(name.endswith("constants.pkl") for name in names):
        return "TorchScript program"
    exported = any("serialized_exported_program" in n or "/models/" in n for n in names)
    return "torch.export program" if exported else None


def _safetensors(source: Source) -> Mapping[str, np.ndarray]:
    from caffeio.proto.weights.safetensors import read_tensors

    return read_tensors(source.path)


def _pt(source: Source) -> Mapping[str, np.ndarray]:
    from caffeio.proto.weights.pytorch import read_tensors

    return read_tensors(source.path)


def _npz(source: Source) -> Mapping[str, np.ndarray]:
    from caffeio.proto.io.regular import open_regular
    from caffeio.proto.weights.npz import BROKEN_ARCHIVE, check_array

    try:
        with open_regular(source.path) as raw, np.load(raw, allow_pickle=False) as archive:
            for name in archive.files:
                check_array(archive.zip, f"{name}.npy", source.label)
            return {name: archive[name] for name in archive.files}
    except BROKEN_ARCHIVE as error:
        raise WeightsError(f"is damaged or no .npz: {error}", where=source.label) from None


_READERS: dict[str, Callable[[Source], Mapping[str, np.ndarray]]] = {
    "safetensors": _safetensors,
    "pt": _pt,
    "npz": _npz,
}
