"""ONNX files, torch.export programs and torch modules -> a ModelProto that can be run.

What comes out has float32 numbers, fixed input shapes, no functions, and its weights in memory.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from caffeio.errors import CaffeIOError, UnsupportedError

HALVES = (10, 11, 16)  # TensorProto.FLOAT16, DOUBLE, BFLOAT16
FLOAT = 1
OLDEST = 7  # the first opset with today's broadcasting

Shapes = Mapping[str, Sequence[int]]


def load_model(path: str | os.PathLike[str]) -> Any:
    """The ModelProto in an .onnx file (external data included) or of a .pt2 program.

    Raises CaffeIOError if the file is missing, broken, or of an opset below 7.
    """
    place = Path(path)
    if place.suffix.lower() == ".pt2":
        return model_of_program(place)
    import onnx

    try:
        model = onnx.load(place)
        onnx.checker.check_model(model if model.ByteSize() < (1 << 31) - 1 else str(place))
    except FileNotFoundError as error:
        missing = Path(str(error.filename or place))
        what = "there is no such file" if missing == place else f"its weights are not at {missing}"
        raise CaffeIOError(what, where=str(path)) from None
    except OSError as error:
        raise CaffeIOError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except Exception as error:  # noqa: BLE001  (protobuf's, onnx's and C++'s own)
        said = str(error).strip().split("\n")[0][:300]
        raise CaffeIOError(f"is no valid ONNX model: {said}", where=str(path)) from None
    return checked(model, str(path))


def checked(model: Any, where: str) -> Any:
    """The model, if its opset is one that we read. Raises UnsupportedError."""
    if not _is_text(model):
        raise CaffeIOError("has names that are not UTF-8: it is damaged", where=where)
    if not model.graph.node:
        raise CaffeIOError("is no ONNX model with operators in it", where=where)
    opset = opset_of(model)
    if opset < OLDEST:
        raise UnsupportedError(
            f"the model is of opset {opset}; those from {OLDEST} on are read: export it anew, or "
            "use onnx.version_converter",
            where=where,
        )
    return model


def array_of(tensor: Any) -> Any:
    """The numbers of a TensorProto. Raises CaffeIOError if they are not those it promises."""
    import onnx

    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise CaffeIOError(f"tensor {tensor.name!r} is damaged: {error}") from None


def _is_text(message: Any) -> bool:
    """Whether every string is one; protobuf hands out as bytes what is not UTF-8."""
    for field, value in message.ListFields():
        many = value if field.is_repeated else (value,)
        if field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in many):
            return False
        if field.type == field.TYPE_MESSAGE and not all(map(_is_text, many)):
            return False
    return True


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that the model uses."""
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    return int(max(versions, default=1))


# --- torch


def model_of_program(path: Path) -> Any:
    """The ModelProto of a program that torch.export.save wrote."""
    import torch

    try:
        program = torch.export.load(path)
    except FileNotFoundError:
        raise CaffeIOError("there is no such file", where=str(path)) from None
    except Exception as error:  # noqa: BLE001  (zip, pickle and torch's own)
        said = str(error).strip().split("\n")[0][:300]
        raise CaffeIOError(f"is no torch.export program: {said}", where=str(path)) from None
    return exported(program, None, str(path))


def model_of_module(module: Any, example_inputs: Any) -> Any:
    """The ModelProto of a torch module in evaluation, traced on `example_inputs`."""
    import torch

    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    return exported(module, tuple(example_inputs), type(module).__name__)


def exported(model: Any, arguments: tuple[Any, ...] | None, where: str) -> Any:
    """What torch.onnx.export makes of a module or program: by dynamo, else by TorchScript.

    Raises UnsupportedError with what torch says if neither can.
    """
    import torch

    program = isinstance(model, torch.export.ExportedProgram)
    dynamo = find_spec("onnxscript") is not None
    if program and not dynamo:
        raise UnsupportedError(
            "reading a torch.export program needs the package onnxscript: "
            "pip install 'caffeio[torch-export]'",
            where=where,
        )
    training = [] if program else [m for m in model.modules() if m.training]
    said = ""
    try:
        for way in ([_by_dynamo] if dynamo else []) + ([] if program else [_by_torchscript]):
            try:
                with warnings.catch_warnings(), _quiet():
                    warnings.simplefilter("ignore")
                    if not program:
                        model.eval()
                    return checked(way(model, arguments), where)
            except Exception as error:  # noqa: BLE001  (whatever torch cannot trace)
                said = said or str(error).strip().split("\n")[0][:300]
    finally:
        for part in training:
            part.training = True
    raise UnsupportedError(f"torch.onnx.export cannot export it: {said}", where=where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch logs and prints of its progress to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _by_dynamo(model: Any, arguments: tuple[Any, ...] | None) -> Any:
    import torch

    names = None if arguments is None else _names(model, arguments)
    program = torch.onnx.export(
        model, arguments or (), dynamo=True, verbose=False, input_names=names
    )
    assert program is not None
    return program.model_proto


def _by_torchscript(model: Any, arguments: tuple[Any, ...] | None) -> Any:
    import onnx
    import torch

    assert arguments is not None
    names = _names(model, arguments)
    shapes = {tuple(x.shape[:1]) for x in arguments}
    axes = {name: {0: "N"} for name in names} if len(shapes) == 1 and shapes != {()} else None
    buffer: Any = io.BytesIO()
    torch.onnx.export(
        model,
        arguments,
        buffer,
        dynamo=False,
        opset_version=17,
        input_names=names,
        dynamic_axes=axes,
    )
    return onnx.load_from_string(buffer.getvalue())


def _names(model: Any, arguments: tuple[Any, ...]) -> list[str]:
    """`data`, or the names of forward's parameters."""
    if len(arguments) == 1:
        return ["data"]
    found = list(inspect.signature(model.forward).parameters)[: len(arguments)]
    return found if len(found) == len(arguments) else [f"data{i}" for i in range(len(arguments))]


# --- one form


def fixed(model: Any, shapes: Shapes, outputs: Sequence[str] = ()) -> Any:
    """A copy of the model with every input shape fixed, in float32, without functions.

    `shapes` gives shapes by input name, `outputs` the values to stop at. Dimensions that are not
    given are the model's own, 1 for an unknown first one. Raises UnsupportedError if another
    dimension is unknown, naming what `--input-shape` wants.
    """
    import onnx

    work = onnx.ModelProto()
    work.CopyFrom(model)
    if work.functions:
        inliner = import_module("onnx.inliner")
        work = inliner.inline_local_functions(work)
    _float32(work)
    graph = work.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [item for item in graph.input if item.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)
    names = [item.name for item in kept]
    if unknown := sorted(set(shapes) - set(names)):
        raise UnsupportedError(
            f"--input-shape names {unknown[0]!r}, but the model's inputs are {', '.join(names)}"
        )
    for item in graph.input:
        _fix(item, shapes.get(item.name))
    del graph.value_info[:]
    _cut(graph, outputs)
    for item in graph.output:
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.ClearField("shape")
    return work


def _fix(item: Any, given: Sequence[int] | None) -> None:
    dims = item.type.tensor_type.shape.dim
    if given is not None:
        if item.type.tensor_type.HasField("shape") and len(dims) != len(given):
            raise UnsupportedError(
                f"input {item.name!r} has {len(dims)} axes, not {len(given)} as in --input-shape"
            )
        fix = [dim.dim_value for dim in dims]
        for axis, (have, want) in enumerate(zip(fix, given, strict=False)):
            if have and have != want and axis:
                raise UnsupportedError(
                    f"input {item.name!r}: the model fixes axis {axis} at {have}, and "
                    f"--input-shape says {want}"
                )
        found = list(given)
    else:
        found = [dim.dim_value for dim in dims]
        if found and not found[0]:
            found[0] = 1
        if not all(found) or not item.type.tensor_type.HasField("shape"):
            said = ",".join(str(n) if n else "?" for n in found) or "N,C,H,W"
            raise UnsupportedError(
                f"the shape of input {item.name!r} is not in the model: give "
                f"--input-shape {item.name}={said} with numbers"
            )
    item.type.tensor_type.shape.ClearField("dim")
    for size in found:
        item.type.tensor_type.shape.dim.add(dim_value=size)


def _cut(graph: Any, outputs: Sequence[str]) -> None:
    """Make the values called `outputs` the only outputs."""
    if not outputs:
        return
    import onnx

    known = {item.name: item for item in graph.output}
    made = {name for node in graph.node for name in node.output}
    by_node = {node.name: node.output[0] for node in graph.node if node.name}
    chosen = []
    for expected in outputs:
        name = expected if expected in made else by_node.get(expected, "")
        if not name:
            raise UnsupportedError(
                f"--output-blob {expected}: the model has no value and no node of that name"
            )
        chosen.append(known.get(name) or onnx.ValueInfoProto(name=name))
    del graph.output[:]
    graph.output.extend(chosen)
    needed, keep = {item.name for item in chosen}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(_captured(node))
            keep.append(node)
    nodes = keep[::-1]
    del graph.node[:]
    graph.node.extend(nodes)
    inputs = [item for item in graph.input if item.name in needed]
    del graph.input[:]
    graph.input.extend(inputs)


def _captured(node: Any) -> set[str]:
    """Values of the outer graph that the graphs inside a node may read."""
    out: set[str] = set()
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                out.update(inner.input)
                out.update(_captured(inner))
            out.update(item.name for item in graph.output)
    return out


def _float32(model: Any) -> None:
    """Make float32 of float16, bfloat16 and double: Caffe's blobs are float32."""
    _graph_float32(model.graph)


def _graph_float32(graph: Any) -> None:
    import onnx

    def single(tensor: Any) -> None:
        if tensor.data_type in HALVES:
            array = array_of(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    for tensor in graph.initializer:
        single(tensor)
    for item in (*graph.input, *graph.output):
        if item.type.tensor_type.elem_type in HALVES:
            item.type.tensor_type.elem_type = FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_datatype") and attribute.i in HALVES:
                attribute.i = FLOAT
            if attribute.HasField("t"):
                single(attribute.t)
            if attribute.HasField("g"):
                _graph_float32(attribute.g)
