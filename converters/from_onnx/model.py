"""An ONNX model whose large weights lie beside the message, so that they are not copied.

Weights in large files are mapped, not read; those of a torch module are the module's own memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.held_file import HeldFile
from caffeio.errors import CaffeIOError, UnsupportedError

OLDEST = 7  # the first opset with today's broadcasting
LARGE = 1 << 20  # bytes: initializers from this size on lie beside the message
READ = 1 << 28  # bytes: weights' files below this size are read instead of mapped
_WHOLE = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 16)  # TensorProto's types of whole bytes


@dataclass
class Model:
    """A ModelProto without its large initializers, and these as arrays by name.

    The arrays may be maps of `files` or a torch module's own: they are read, never written.
    """

    proto: Any
    weights: dict[str, Array] = field(default_factory=dict)
    files: list[HeldFile] = field(default_factory=list)

    @property
    def graph(self) -> Any:
        """The message's graph."""
        return self.proto.graph

    def copy(self) -> Model:
        """The model with a message of its own, and the same arrays."""
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        return Model(proto, dict(self.weights), self.files)

    def with_outputs(self, values: Mapping[str, str]) -> Model:
        """A copy that has values as further outputs, by the names that they get there."""
        other = self.copy()
        for name, value in values.items():
            other.graph.node.add(op_type="Identity", input=[value], output=[name])
            other.graph.output.add(name=name)
        return other

    def check_files(self) -> None:
        """Raise CaffeIOError if a file that is mapped has been written: before its use."""
        for file in self.files:
            file.check()

    def runnable(self) -> Any:
        """A ModelProto that takes the arrays as inputs: no runtime copies those."""
        import onnx

        proto = self.copy().proto
        have = {item.name for item in proto.graph.input}
        for name, array in self.weights.items():
            if name not in have:
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                proto.graph.input.append(
                    onnx.helper.make_tensor_value_info(name, kind, array.shape)
                )
        return proto


def model_of(model: Any) -> Model:
    """A Model of a ModelProto, which stays as it is; a Model itself."""
    if isinstance(model, Model):
        return model
    proto, weights = type(model)(), {}
    _copy_fields(model, proto, "graph")
    _copy_fields(model.graph, proto.graph, "initializer")
    for tensor in model.graph.initializer:
        if _is_large(tensor):
            weights[tensor.name] = np.require(array_of(tensor), requirements="W")
        else:
            proto.graph.initializer.append(tensor)
    return Model(proto, weights)


def mapped(model: Any, folder: Path) -> Model:
    """A Model of a ModelProto whose external data lies in `folder`: large tensors are mapped.

    Raises CaffeIOError if a file is not there, outside of the folder, or too short.
    """
    from onnx.external_data_helper import uses_external_data

    found, held = {}, dict[Path, HeldFile]()
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            array = _external(tensor, folder, held)
            if array.nbytes >= LARGE and tensor.data_type in _WHOLE:
                found[tensor.name] = array
            else:
                _take_in(tensor, array)
    for tensor in _other_tensors(model):
        if uses_external_data(tensor):
            _take_in(tensor, _external(tensor, folder, held))
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in found]
    if found:
        copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
    out = model_of(model)
    out.weights.update(found)
    out.files = [file for file in held.values() if file.size >= READ]
    return out


def _other_tensors(model: Any) -> list[Any]:
    """Tensors that are attributes, and those of graphs inside nodes."""
    out, waiting = [], [(model.graph, False), *((f, False) for f in model.functions)]
    while waiting:
        graph, inner = waiting.pop()
        if inner:
            out += list(graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                out += [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
                graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                waiting += [(one, True) for one in graphs]
    return out


def _external(tensor: Any, folder: Path, held: dict[Path, HeldFile]) -> Array:
    """The bytes or numbers of a tensor in a file beside the model.

    Those of a large file are a map that may be written: what is written stays in memory. torch
    wants arrays that allow it, and nobody does it.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place = folder / entries.get("location", "")
    where = f"tensor {tensor.name!r}"
    try:
        inside = place.resolve().is_relative_to(folder.resolve()) and not place.is_symlink()
        if not inside or not entries.get("location"):
            raise CaffeIOError(f"{where} points outside of the model's folder: {str(place)!r}")
        if place not in held:
            if place.exists() and not place.is_file():
                raise CaffeIOError(f"{where}: {place} is no file")
            held[place] = HeldFile(place)
        size = held[place].size
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except FileNotFoundError:
        raise CaffeIOError(f"its weights are not at {place}") from None
    except (OSError, ValueError) as error:
        raise CaffeIOError(f"{where} cannot be found: {error}") from None
    if not 0 <= offset <= offset + length <= size:
        raise CaffeIOError(
            f"{where} lies at bytes {offset} to {offset + length} of {place}, which has {size}"
        )
    if tensor.data_type not in _WHOLE:
        return held[place].bytes(offset, length)
    return _numbers(tensor, held[place], offset, length)


def _numbers(tensor: Any, file: HeldFile, offset: int, length: int) -> Array:
    """The numbers of a tensor in a file, mapped if they can be; float32 for bfloat16."""
    import onnx

    bfloat16 = tensor.data_type == tensor.BFLOAT16  # onnx before 1.19 has no dtype for it
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.UINT16 if bfloat16 else tensor.data_type)
    shape = tuple(tensor.dims)
    wanted = dtype.itemsize * math.prod(shape)
    if wanted != length:
        raise CaffeIOError(
            f"tensor {tensor.name!r} has {length} bytes in {file.path}; {shape} are {wanted}"
        )
    if not length:
        return np.zeros(shape, dtype)
    aligned = offset % dtype.itemsize == 0
    if aligned and dtype.isbuiltin == 1 and not bfloat16 and file.size >= READ:
        with open(os.dup(file.number), "rb") as opened:  # noqa: PTH123  (of a number)
            return np.memmap(opened, dtype, "c", offset, shape).view(np.ndarray)
    found = file.bytes(offset, length).view(dtype).reshape(shape)
    return (found.astype(np.uint32) << 16).view(np.float32) if bfloat16 else found


def _take_in(tensor: Any, array: Array) -> None:
    """Put what `_external` has found into the message; bfloat16 came as float32."""
    if tensor.data_type == tensor.BFLOAT16:
        tensor.data_type = tensor.FLOAT
    tensor.raw_data = array.tobytes()
    tensor.data_location = tensor.DEFAULT
    del tensor.external_data[:]


def array_of(tensor: Any) -> Array:
    """The numbers of a TensorProto. Raises CaffeIOError if they are not those it promises."""
    import onnx

    try:
        found: Array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise CaffeIOError(f"tensor {tensor.name!r} is damaged: {error}") from None
    return found


def _is_large(tensor: Any) -> bool:
    """Whether a tensor holds so many numbers, and in raw bytes: other ways are for small ones."""
    return tensor.data_type in _WHOLE and tensor.HasField("raw_data") and _bytes(tensor) >= LARGE


def _bytes(tensor: Any) -> int:
    import onnx

    return int(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    )


def _copy_fields(source: Any, target: Any, without: str) -> None:
    """Copy all fields of a message but one."""
    for entry, value in source.ListFields():
        if entry.name == without:
            continue
        if entry.is_repeated:
            getattr(target, entry.name).extend(value)
        elif entry.message_type is not None:
            getattr(target, entry.name).CopyFrom(value)
        else:
            setattr(target, entry.name, value)


def checked(model: Model, where: str) -> Model:
    """The model, if its opset is one that we read. Raises UnsupportedError."""
    import onnx

    if not _is_text(model.proto):
        raise CaffeIOError("has names that are not UTF-8: it is damaged", where=where)
    if not model.graph.node:
        raise CaffeIOError("is no ONNX model with operators in it", where=where)
    opset = opset_of(model.proto)
    if opset < OLDEST:
        raise UnsupportedError(
            f"the model is of opset {opset}; those from {OLDEST} on are read: export it anew, or "
            "use onnx.version_converter",
            where=where,
        )
    if opset > (newest := onnx.defs.onnx_opset_version()):
        raise UnsupportedError(
            f"the model is of opset {opset}, and the installed onnx {onnx.__version__} knows those "
            f"up to {newest}: update it, or export the model for an older one",
            where=where,
        )
    return model


def _is_text(message: Any) -> bool:
    """Whether every string is one; protobuf hands out as bytes what is not UTF-8."""
    for entry, value in message.ListFields():
        many = value if entry.is_repeated else (value,)
        if entry.type == entry.TYPE_STRING and any(isinstance(text, bytes) for text in many):
            return False
        if entry.type == entry.TYPE_MESSAGE and not all(map(_is_text, many)):
            return False
    return True


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that the model uses."""
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    return int(max(versions, default=1))
