"""ONNX files -> a Model: what is broken, too old or not there is said here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caffeio.converters.from_onnx.model import Model, mapped
from caffeio.errors import CaffeIOError, UnsupportedError

OLDEST = 7  # the first opset with today's broadcasting


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
        onnx.checker.check_model(model.runnable())
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


def checked(model: Model, where: str) -> Model:
    """The model, if its opset is one that we read. Raises UnsupportedError."""
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
    return model


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
