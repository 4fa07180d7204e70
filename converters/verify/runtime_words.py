"""What onnxruntime says of models that it cannot load or run, for people."""

from __future__ import annotations

import re
from importlib import import_module

# A line of onnxruntime's sources and the function there, which it puts before its words.
_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)(?: const)? ")
_OPSET = re.compile(r"Opset (\d+) is under development.* till opset (\d+)")


def said_by(error: Exception) -> str:
    """What onnxruntime says, in one line without places in its sources."""
    text = _PLACE.sub("", " ".join(str(error).split()))
    if found := _OPSET.search(text):
        version = import_module("onnxruntime").__version__
        return (
            f"it is of opset {found[1]}, onnxruntime {version} runs those up to {found[2]}: "
            "pip install --upgrade onnxruntime"
        )
    return text[:300]
