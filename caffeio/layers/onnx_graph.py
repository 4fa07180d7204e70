"""What `Layer.onnx` builds with: values, constants and nodes of an ONNX graph.

No onnx import here: a graph is collected as plain records, converters/onnx.py writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from caffeio.layers.base import Layer

OPSET = 17


@dataclass
class OnnxNode:
    """One operator: `kind` as ONNX calls it, names of values in and out, attributes."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    layer: str = ""


@dataclass
class OnnxGraph:
    """Collects nodes; the values' names are unique, blobs of the net keep theirs in the end."""

    nodes: list[OnnxNode] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    layer: Layer | None = None  # the layer that is being added
    _count: dict[str, int] = field(default_factory=dict)

    def _fresh(self, stem: str) -> str:
        n = self._count.get(stem, 0)
        self._count[stem] = n + 1
        return f"{stem}:{n}" if n else stem

    def op(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Add operator `kind`; returns the name of its output (a tuple of names if several).

        An empty input name leaves an optional input out; attributes of None are left out.
        """
        owner = self.layer.name if self.layer is not None else "net"
        names = [self._fresh(f"{owner}/{kind}") for _ in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(OnnxNode(kind, list(inputs), names, kept, owner))
        return names[0] if outputs == 1 else tuple(names)

    def const(self, value: Any, hint: str = "const", dtype: Any = None) -> str:
        """A constant array (float32 unless it holds integers or `dtype` says otherwise)."""
        array = np.asarray(value, dtype)
        if dtype is None:
            array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        owner = self.layer.name if self.layer is not None else "net"
        name = self._fresh(f"{owner}.{hint}")
        self.constants[name] = array
        self.shapes[name] = array.shape
        return name

    def ints(self, values: Sequence[int], hint: str = "shape") -> str:
        """A constant list of int64."""
        return self.const(np.asarray(list(values), np.int64), hint)

    def param(self, layer: Layer, index: int) -> str:
        """Blob `index` of `layer` as an initializer called "<layer>.<blob's name>".

        A blob that layers share is one initializer.
        """
        blob = layer.blobs[index].detach()
        array = blob.cpu().contiguous().numpy()
        key = f"\0{blob.data_ptr()}:{tuple(blob.shape)}"
        name = self._shared.get(key)
        if name is None:
            name = self._fresh(f"{layer.name}.{layer.blob_specs[index].name}")
            self._shared[key] = name
            self.constants[name] = array
            self.shapes[name] = array.shape
        return name

    _shared: dict[str, str] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a bottom, a constant or a param, as the net was built."""
        return self.shapes[name]
