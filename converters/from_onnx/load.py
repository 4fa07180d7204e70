"""ONNX files -> a Model: what is broken, too old or not there is said here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caffeio.converters.from_onnx.model import Model, checked, mapped
from caffeio.errors import CaffeIOError

_WITHOUT_INPUTS = 4  # the first IR version whose initializers need be no inputs


def load_model(path: str | os.PathLike[str]) -> Model:
    """The Model in an .onnx file (its external data is mapped) or of a .pt2 program.

    Raises CaffeIOError if the file is missing, broken, or of an opset below 7.
    """
    place = Path(path)
    if place.suffix.lower() == ".pt2":
        from caffeio.converters.from_onnx.torch_export import model_of_program

        return model_of_program(place)
    import onnx

    try:
        model = mapped(onnx.load(place, load_external_data=False), place.parent)
        onnx.checker.check_model(_with_shapes(model.runnable()))
    except CaffeIOError as error:
        raise CaffeIOError(error.message, where=str(path)) from None
    except FileNotFoundError:
        raise CaffeIOError("there is no such file", where=str(path)) from None
    except OSError as error:
        raise CaffeIOError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except Exception as error:  # noqa: BLE001  (protobuf's, onnx's and C++'s own)
        said = str(error).strip().split("\n")[0][:300]
        raise CaffeIOError(f"is no valid ONNX model: {said}", where=str(path)) from None
    return checked(model, str(path))


def _with_shapes(proto: Any) -> Any:
    """The message with all that the checker asks for and no runtime does.

    These are types and shapes everywhere, and in old versions initializers among the inputs.
    """
    for item in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if item.type.WhichOneof("value") in (None, "tensor_type"):
            tensor = item.type.tensor_type
            tensor.elem_type = tensor.elem_type or 1
            tensor.shape.SetInParent()
    proto.ir_version = max(proto.ir_version, _WITHOUT_INPUTS)
    return proto
