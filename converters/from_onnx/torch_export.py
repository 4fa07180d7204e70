"""Torch modules and torch.export programs -> a Model, by either of torch's exporters."""

from __future__ import annotations

import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from caffeio.converters.from_onnx import model as models
from caffeio.converters.from_onnx.model import Model, checked, mapped, model_of
from caffeio.converters.programs import load_program
from caffeio.errors import CaffeIOError, UnsupportedError

_TOO_LARGE = 1_900_000_000  # bytes; protobuf cannot serialize 2 GiB


def model_of_program(path: Path) -> Model:
    """The Model of a program that torch.export.save wrote."""
    try:
        program = load_program(path)
    except FileNotFoundError:
        raise CaffeIOError("there is no such file", where=str(path)) from None
    except Exception as error:  # noqa: BLE001  (zip, pickle and torch's own)
        said = str(error).strip().split("\n")[0][:300]
        raise CaffeIOError(f"is no torch.export program: {said}", where=str(path)) from None
    return exported(program, None, str(path))


def model_of_module(module: Any, example_inputs: Any) -> Model:
    """The Model of a torch module in evaluation, traced on `example_inputs`."""
    import torch

    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    return exported(module, tuple(example_inputs), type(module).__name__)


def exported(model: Any, arguments: tuple[Any, ...] | None, where: str) -> Model:
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
    if program and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise UnsupportedError(
            f"reading a torch.export program needs PyTorch 2.7 or later, this is "
            f"{torch.__version__}: its exporter does not fit onnxscript's",
            where=where,
        )
    training = [] if program else [m for m in model.modules() if m.training]
    said = ""
    try:
        for way in ([by_dynamo] if dynamo else []) + ([] if program else [by_torchscript]):
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


def by_dynamo(model: Any, arguments: tuple[Any, ...] | None) -> Model:
    """The Model that torch's exporter makes of a program or module; weights are the module's."""
    import torch

    names = None if arguments is None else _names(model, arguments)
    program = torch.onnx.export(
        model, arguments or (), dynamo=True, verbose=False, input_names=names
    )
    assert program is not None
    initializers, weights = program.model.graph.initializers, {}
    for name, value in list(initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= models.LARGE and tensor.dtype.itemsize >= 1:
            weights[name] = tensor.numpy()
            del initializers[name]
    return Model(program.model_proto, weights)


def by_torchscript(model: Any, arguments: tuple[Any, ...] | None) -> Model:
    """The Model that torch's older exporter makes of a module."""
    import onnx
    import torch

    assert arguments is not None
    names = _names(model, arguments)
    shapes = {tuple(x.shape[:1]) for x in arguments}
    axes = {name: {0: "N"} for name in names} if len(shapes) == 1 and shapes != {()} else None

    def export(target: Any) -> None:
        torch.onnx.export(
            model, arguments, target, dynamo=False, opset_version=17, input_names=names,
            dynamic_axes=axes,
        )  # fmt: skip

    size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    if size < _TOO_LARGE:
        buffer = io.BytesIO()
        export(buffer)
        return model_of(onnx.load_from_string(buffer.getvalue()))
    with tempfile.TemporaryDirectory(prefix="caffeio-") as folder:
        path = Path(folder) / "model.onnx"
        export(str(path))
        made = mapped(onnx.load(path, load_external_data=False), path.parent)
        made.weights = {name: array.copy() for name, array in made.weights.items()}
        return made


def _names(model: Any, arguments: tuple[Any, ...]) -> list[str]:
    """`data`, or the names of forward's parameters."""
    if len(arguments) == 1:
        return ["data"]
    found = list(inspect.signature(model.forward).parameters)[: len(arguments)]
    return found if len(found) == len(arguments) else [f"data{i}" for i in range(len(arguments))]
