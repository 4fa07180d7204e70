"""Holds `caffe_pb2`: Caffe's messages under their own names."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """`caffe.proto.caffe_pb2` without an import of its own, as after `import caffe`."""
    if name == "caffe_pb2":
        return import_module("caffeio.pycaffe.proto.caffe_pb2")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
