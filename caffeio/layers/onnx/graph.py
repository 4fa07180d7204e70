"""What `Layer.onnx` builds with: values, constants and nodes of an ONNX graph.

No onnx import here: a graph is collected as plain records, converters/onnx.py writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from caffeio.errors import UnsupportedError

OPSET = 17
FLOAT = 1  # onnx.TensorProto.FLOAT
INT64 = 7  # onnx.TensorProto.INT64


class OnnxLayer(Protocol):
    """What a graph asks of the layer that is being added."""

    name: str
    type_name: str

    @property
    def context(self) -> Any:
        """Where the layer stands in its file."""

    @property
    def blobs(self) -> Any:
        """The values of the blobs, as tensors."""

    @property
    def blob_specs(self) -> Sequence[Any]:
        """The names of the blobs."""


@dataclass
class OnnxNode:
    """One operator: `op_type` as ONNX calls it, names of values in and out, attributes."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    layer: str = ""


@dataclass
class OnnxGraph:
    """Collects nodes; the values' names are unique, blobs of the net keep theirs in the end.

    Axis 0 of the net's inputs may be of any size when `dynamic_batch` is set, axes 2 and 3 with
    `dynamic_size`: a layer that cannot do with that raises `unsupported`. A form that holds for one
    size only is found out afterwards, by building it at another.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    layer: OnnxLayer | None = None  # the layer that is being added
    dynamic_batch: bool = False
    dynamic_size: bool = False
    client: str = ""  # whose own operators may be used: "opencv" (4)
    unroll: bool = False  # LSTM and RNN step by step, whatever they read
    varying: dict[str, set[int]] = field(default_factory=dict)  # axes that depend on the data
    own_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # not as the net has them
    _count: dict[str, int] = field(default_factory=dict)
    _shared: dict[str, str] = field(default_factory=dict)

    def reserve(self, name: str) -> None:
        """Let no value that is made later be called `name`."""
        self._count.setdefault(name, 1)

    def fresh(self, stem: str) -> str:
        """A name for a new value: `stem`, or that and a number."""
        while True:
            n = self._count.get(stem, 0)
            self._count[stem] = n + 1
            name = f"{stem}:{n}" if n else stem
            if not n or name not in self._count:
                self._count.setdefault(name, 1)
                return name

    def op(self, op_type: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Add operator `op_type`; returns the name of its output (a tuple of names if several).

        An empty input name leaves an optional input out; attributes of None are left out.
        """
        owner = self.layer.name if self.layer is not None else "net"
        names = [self.fresh(f"{owner}/{op_type}") for _ in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(OnnxNode(op_type, list(inputs), names, kept, owner))
        return names[0] if outputs == 1 else tuple(names)

    def const(self, value: Any, hint: str = "const", dtype: Any = None) -> str:
        """A constant array (float32 unless it holds integers or `dtype` says otherwise)."""
        array = np.asarray(value, dtype)
        if dtype is None:
            array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        owner = self.layer.name if self.layer is not None else "net"
        name = self.fresh(f"{owner}.{hint}")
        self.constants[name] = array
        self.shapes[name] = array.shape
        return name

    def ints(self, values: Iterable[int], hint: str = "shape") -> str:
        """A constant list of int64."""
        return self.const(np.asarray(list(values), np.int64), hint)

    def zeros(self, shape: str) -> str:
        """Zeros of the sizes in `shape`; their value is the default, but OpenCV 5 wants it told."""
        value = np.zeros(1, np.float32)
        return str(self.op("ConstantOfShape", [shape], value=value))

    def param(self, layer: OnnxLayer, index: int, *, shape: Sequence[int] | None = None) -> str:
        """Blob `index` of `layer`, as `shape` if given: an initializer "<layer>.<blob's name>".

        A blob that layers share is one initializer.
        """
        blob = layer.blobs[index].detach()
        blob = blob if shape is None else blob.reshape(tuple(shape))
        key = f"{blob.data_ptr()}:{tuple(blob.shape)}"
        name = self._shared.get(key)
        if name is None:
            name = self.fresh(f"{layer.name}.{layer.blob_specs[index].name}")
            self._shared[key] = name
            self.constants[name] = blob.cpu().contiguous().numpy()
            self.shapes[name] = tuple(blob.shape)
        return name

    def used_param(self, layer: OnnxLayer, index: int) -> str:
        """Blob `index` as it was written last, in whatever shape; as it is if it was not."""
        own = f"{layer.blobs[index].detach().data_ptr()}:"
        written = [name for key, name in self._shared.items() if key.startswith(own)]
        return written[-1] if written else self.param(layer, index)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a bottom, a constant or a param, as the net was built."""
        return self.shapes[name]

    def varies(self, name: str, axis: int, shape: tuple[int, ...] | None = None) -> None:
        """Note that the size of value `name` along `axis` depends on the data.

        `shape` is given where the net tells another number of axes before it runs.
        """
        if shape is not None:
            self.own_shapes[name] = shape
        self.varying.setdefault(name, set()).add(axis)

    def unsupported(self, reason: str) -> UnsupportedError:
        """The error for a layer, or a use of it, that ONNX cannot express."""
        if self.layer is None:
            return UnsupportedError(f"no ONNX form: {reason}")
        return UnsupportedError(
            f"layer {self.layer.name!r} (type {self.layer.type_name}) has no ONNX form: {reason}",
            where=self.layer.context.where or None,
        )

    # -- what many layers need -------------------------------------------------------------

    def reshape(self, x: str, *dims: int) -> str:
        """`x` in another shape; 0 copies the dimension at the same place, one -1 is inferred."""
        name: str = self.op("Reshape", [x, self.ints(dims)])
        return name

    def reduced(self, op_type: str, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
        """Reduce `x` over axes, two at a time: OpenCV 4.14 is wrong over three without a word."""
        left = list(axes)
        while left:
            now, left = left[-2:], left[:-2]
            if op_type == "ReduceSum":  # its axes are an input in opset 17
                x = self.op(op_type, [x, self.ints(now, "axes")], keepdims=keepdims)
            else:
                x = self.op(op_type, [x], axes=now, keepdims=keepdims)
            op_type = "ReduceSum" if op_type == "ReduceSumSquare" else op_type
        return x

    def scaled(self, x: str, factor: float, offset: float = 0.0) -> str:
        """x * factor + offset, without the operators that change nothing."""
        if factor != 1:
            x = self.op("Mul", [x, self.const(float(factor), "factor")])
        return self.op("Add", [x, self.const(float(offset), "offset")]) if offset else x

    def relu(self, x: str, slope: float = 0.0) -> str:
        """max(x, 0) + slope * min(x, 0)."""
        if slope:
            return str(self.op("LeakyRelu", [x], alpha=slope))
        return str(self.op("Relu", [x]))

    def to_float(self, x: str) -> str:
        """`x` as float32: blobs of the net are."""
        return str(self.op("Cast", [x], to=FLOAT))

    def to_int(self, x: str) -> str:
        """`x` as int64, truncated toward 0 like Caffe's casts."""
        return str(self.op("Cast", [x], to=INT64))
