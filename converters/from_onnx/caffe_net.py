"""The Caffe net while it is written: layers, their blobs, and the shape of every blob."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.graph import Array, Dims, Graph, Node
from caffeio.converters.from_onnx.rewriting import CannotRewriteError, form_of, rewritten
from caffeio.converters.from_onnx.rules import complaints
from caffeio.converters.from_onnx.targets import Target
from caffeio.proto import caffe_pb2 as pb


class Refused(Exception):  # noqa: N818  (no error of the user's: it is collected)
    """An operator that the target cannot do: why, and what could be done."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why, self.remedy = why, remedy


@dataclass(eq=False)
class CaffeLayer:
    """One layer: its message without weights, its weights, and the operator that it was made of."""

    param: pb.LayerParameter
    blobs: list[Array] = field(default_factory=list)
    operator: str = ""

    @property
    def type_name(self) -> str:
        """The layer's type."""
        return self.param.type

    @property
    def bottoms(self) -> list[str]:
        """Names of the bottoms."""
        return list(self.param.bottom)

    @property
    def tops(self) -> list[str]:
        """Names of the tops."""
        return list(self.param.top)


class Writer:
    """Collects layers; converters call `layer` and ask for shapes and constants.

    `values` maps an ONNX value to the blob that holds it. Names are unique; a layer's first top is
    called as the layer.
    """

    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph, self.target = graph, target
        self.layers: list[CaffeLayer] = []
        self.shapes: dict[str, Dims] = {}
        self.batch: dict[str, int | None] = {}  # blob -> the axis that grows with the batch
        self.values: dict[str, str] = {}
        self.node: Node | None = None
        self.stem = ""
        self.notes: list[str] = []
        self.one_batch: list[str] = []  # nodes whose layers fit one batch only
        self.wires: Any = None  # of wiring.py: readers and makers of all blobs
        self._count: dict[str, int] = {}
        self._constants: dict[bytes, str] = {}

    # -- names

    def unique(self, stem: str) -> str:
        """`stem`, or `stem_2`, `stem_3` ... if it is taken."""
        stem = stem or "x"
        n = self._count.get(stem, 0) + 1
        self._count[stem] = n
        if n == 1:
            return stem
        name = f"{stem}_{n}"
        while name in self._count:
            n += 1
            name = f"{stem}_{n}"
        self._count[stem] = n
        self._count[name] = 1
        return name

    # -- layers

    def layer(
        self,
        type_name: str,
        bottoms: Sequence[str],
        shape: Dims | Sequence[Dims],
        *,
        blobs: Sequence[Array] = (),
        hint: str = "",
        batch: int | None = -1,
        **params: Any,
    ) -> Any:
        """Add a layer; returns its top, or a list of tops if `shape` is a list of shapes.

        `params` are parameter messages as dicts: `power_param={"scale": 2}`; `batch` is the axis of
        the tops that grows with the batch (default: that of the bottom). A layer that the target
        lacks is said by others where there is an exact form. Raises Refused if there is none.
        """
        param = pb.LayerParameter(name=self.unique(self.stem + (f"_{hint}" if hint else "")))
        param.type = type_name
        param.bottom.extend(bottoms)
        for name, fields in params.items():
            if isinstance(fields, dict):
                fill_message(getattr(param, name), fields)
            else:
                getattr(param, name).CopyFrom(fields)
        several = isinstance(shape, list)
        given: Any = shape
        shapes: list[Dims] = list(given) if several else [tuple(given)]
        many = len(shapes) > 1
        tops = [f"{param.name}_{i}" if many else param.name for i in range(len(shapes))]
        tops = [self.unique(top) if many else top for top in tops]
        param.top.extend(tops)
        if batch == -1:
            batch = self.batch.get(bottoms[0]) if bottoms else None
        form = form_of(self.target, param)
        if form is not None:
            try:
                return rewritten(self, form, param, blobs, shapes[0], batch)
            except CannotRewriteError as error:
                raise Refused(f"{self.target.name} has no such {type_name}, and {error}") from None
        bottom_shapes = [self.shape(name) for name in bottoms]
        for complaint in complaints(self.target, param, bottom_shapes, shapes):
            raise Refused(complaint)
        self.shapes.update(zip(tops, shapes, strict=True))
        self.batch.update(dict.fromkeys(tops, batch))
        arrays = [np.asarray(blob, np.float32, order="C") for blob in blobs]
        made_of = self.node.op if self.node is not None else ""
        self.layers.append(CaffeLayer(param, arrays, made_of))
        return tops if several else tops[0]

    def tried(self, make: Callable[[], str]) -> str | None:
        """What `make` writes; None, and nothing is written, if the target does not take it."""
        before = len(self.layers)
        try:
            return make()
        except Refused:
            del self.layers[before:]
            return None

    def silence(self, xs: Sequence[str]) -> None:
        """Give blobs that nothing reads a reader, so that they are no outputs of the net."""
        if not xs:
            return
        if not self.target.has("Silence"):
            rest = ", ".join(xs)
            self.notes.append(
                f"{rest}: no layer Silence in {self.target.name}, so they are outputs"
            )
            return
        stem, self.stem = self.stem, f"{self.stem}_rest"
        self.layer("Silence", list(xs), [])
        self.stem = stem

    def shape(self, blob: str) -> Dims:
        """The shape of a blob."""
        return self.shapes[blob]

    def fix_batch(self) -> None:
        """Note that the layers of the node at hand are for this batch only."""
        if self.node is not None:
            name = f"{self.node.op} {self.node.name}".strip()
            if name not in self.one_batch:
                self.one_batch.append(name)

    def constant(self, array: Array, hint: str = "constant") -> str:
        """A blob that holds numbers of the model: a Parameter layer. Raises Refused."""
        array = np.ascontiguousarray(array, np.float32)
        key = repr(array.shape).encode() + hashlib.sha256(array.data).digest()
        if key not in self._constants:
            shape = {"shape": {"dim": list(array.shape)}}
            self._constants[key] = self.layer(
                "Parameter", [], array.shape, blobs=[array], hint=hint, parameter_param=shape
            )
        return self._constants[key]

    def blob(self, value: str) -> str:
        """The blob of an ONNX value; a constant becomes a Parameter layer."""
        if value in self.values:
            return self.values[value]
        array = self.graph.constant(value)
        if array is None:
            raise Refused(f"its input {value!r} is not computed")
        return self.constant(array)

    # -- what every converter needs

    def power(
        self, x: str, scale: float = 1.0, shift: float = 0.0, power: float = 1.0, hint: str = ""
    ) -> str:
        """(scale * x + shift) ** power."""
        if (power, scale, shift) == (1.0, 1.0, 0.0):
            return x
        if not self.target.has("Power"):
            return self._without_power(x, scale, shift, power, hint)
        fields = {"power": power, "scale": scale, "shift": shift}
        default = {"power": 1.0, "scale": 1.0, "shift": 0.0}
        fields = {key: value for key, value in fields.items() if value != default[key]}
        top: str = self.layer("Power", [x], self.shape(x), hint=hint, power_param=fields)
        return top

    def _without_power(self, x: str, scale: float, shift: float, power: float, hint: str) -> str:
        """Power as a Scale with one pair of numbers for all channels, and a product for squares."""
        if power not in (1, 2) or len(self.shape(x)) < 2:
            raise Refused(f"{self.target.name} has no layer Power")
        if (scale, shift) != (1.0, 0.0):
            channels = self.shape(x)[1]
            blobs = [np.full(channels, scale), np.full(channels, shift)]
            x = self.scale(x, blobs, {"bias_term": True}, hint)
        return x if power == 1 else self.eltwise("PROD", [x, x], hint=hint)

    def scale(
        self, x: str, by: Sequence[Array] | str, fields: dict[str, Any], hint: str = ""
    ) -> str:
        """A Scale by constants or a blob; of maps of one column where it takes no three axes."""
        shape, batch, row = self.shape(x), self.batch.get(x), self.target.rule("scale_axes")
        thin = row is not None and len(shape) == 3 and "3" not in row.value.split(",")
        if thin:
            x = self.reshape(x, (*shape, 1), hint="as_map", batch=batch)
        bottoms = [x, by] if isinstance(by, str) else [x]
        blobs = () if isinstance(by, str) else by
        top: str = self.layer(
            "Scale", bottoms, self.shape(x), blobs=blobs, hint=hint, scale_param=fields
        )
        return self.reshape(top, shape, hint="as_lines", batch=batch) if thin else top

    def unary(self, type_name: str, x: str, hint: str = "", **params: Any) -> str:
        """A layer whose top has its bottom's shape."""
        top: str = self.layer(type_name, [x], self.shape(x), hint=hint, **params)
        return top

    def eltwise(
        self, operation: str, xs: Sequence[str], coeff: Sequence[float] = (), hint: str = ""
    ) -> str:
        """SUM (with coefficients), PROD or MAX of blobs of one shape."""
        fields: dict[str, Any] = {"operation": operation}
        if any(c != 1 for c in coeff):
            fields["coeff"] = list(coeff)
        top: str = self.layer("Eltwise", xs, self.shape(xs[0]), hint=hint, eltwise_param=fields)
        return top

    def reshape(self, x: str, shape: Dims, hint: str = "reshape", batch: int | None = -1) -> str:
        """`x` in another shape: nothing, a Flatten, or a Reshape that leaves the batch free.

        `batch` is the axis of `shape` that grows with the batch, None if none does (default: axis 0
        if it is that of `x`).
        """
        old, before = self.shape(x), self.batch.get(x)
        if batch == -1:
            batch = 0 if before == 0 and shape else None
        if old == shape and batch == before:
            return x
        kept = before == 0 == batch and shape[0] == old[0]
        rows = before == batch and batch in (0, None)
        if len(shape) == 2 and len(old) > 2 and shape[0] == old[0] and rows:
            top: str = self.layer("Flatten", [x], shape, hint=hint, batch=batch)
            return top
        dims = list(shape)
        if kept:
            dims[0] = 0
        elif batch is not None and 0 not in shape:
            dims[batch] = -1
        fields = {"shape": {"dim": dims}}
        return str(self.layer("Reshape", [x], shape, hint=hint, batch=batch, reshape_param=fields))


def fill_message(message: Any, fields: dict[str, Any]) -> None:
    """Set fields of a protobuf message from a dict; enums by name."""
    for name, value in fields.items():
        entry = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, dict):
            getattr(message, name).SetInParent()
            fill_message(getattr(message, name), value)
        elif isinstance(value, list | tuple):
            getattr(message, name).extend(value)
        elif entry.enum_type is not None and isinstance(value, str):
            setattr(message, name, entry.enum_type.values_by_name[value].number)
        else:
            setattr(message, name, value)
