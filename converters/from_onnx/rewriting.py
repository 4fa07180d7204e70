"""Layers that a target lacks, by the forms that `--to-dialect` has for them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from caffeio.converters.from_onnx.graph import Array, Dims
from caffeio.converters.from_onnx.targets import Target
from caffeio.converters.rewrites.forms import rewrite_of
from caffeio.converters.rewrites.piece import CannotRewriteError, Piece, Rewrite
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.proto import caffe_pb2 as pb


class LayerWriter(Protocol):
    """The net while it is written: what a form asks of it."""

    target: Target
    stem: str

    def shape(self, blob: str) -> Dims:
        """Return the shape of a blob."""

    def unique(self, stem: str) -> str:
        """Return a name that no blob has."""

    def silence(self, xs: Sequence[str]) -> None:
        """Read blobs that nothing reads."""

    def power(
        self, x: str, scale: float = 1.0, shift: float = 0.0, power: float = 1.0, hint: str = ""
    ) -> str:
        """Add (scale * x + shift) ** power."""

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
        """Add a layer; return its tops."""


def form_of(target: Target, param: Any) -> Rewrite | None:
    """How a layer is said that the target lacks; None if it has it, or there is no form."""
    return rewrite_of(param, target.layers, target.fields_of("PoolingParameter"))


def rewritten(
    w: LayerWriter,
    form: Rewrite,
    param: Any,
    blobs: Sequence[Array],
    shape: Dims,
    batch: int | None,
) -> str:
    """Add the layers of a form; returns the blob that equals the layer's top.

    Every blob gets a name of its own, though forms work in place. Raises CannotRewriteError.
    """
    bottoms = list(param.bottom)
    types: Any = SimpleNamespace(layer_types=frozenset(w.target.layers), messages={})
    piece = Piece(param, list(blobs), [w.shape(name) for name in bottoms], types, w.unique)
    form(piece)
    shapes = _shapes(w, bottoms, [layer for layer, _ in piece.new])
    shapes[param.top[0]] = shape
    if any(top not in shapes for layer, _ in piece.new for top in layer.top):
        raise CannotRewriteError("its form has no shape at these sizes")
    now = {name: name for name in bottoms}
    for layer, arrays in piece.new:
        sources = [now[name] for name in layer.bottom]
        w.stem, stem = layer.name, w.stem
        if layer.type == "Silence":
            w.silence(sources)
        elif layer.type == "Power":
            p = layer.power_param
            now[layer.top[0]] = w.power(sources[0], p.scale, p.shift, p.power)
        else:
            tops = w.layer(
                layer.type,
                sources,
                [shapes[top] for top in layer.top],
                blobs=arrays,
                batch=batch,
                **_fields(layer),
            )
            now.update(zip(layer.top, tops, strict=True))
        w.stem = stem
    return str(now[param.top[0]])


def _fields(layer: Any) -> dict[str, Any]:
    """The parameter message of a layer, by name."""
    return {f.name: value for f, value in layer.ListFields() if f.name.endswith("_param")}


def _shapes(w: LayerWriter, bottoms: Sequence[str], layers: Sequence[Any]) -> dict[str, Dims]:
    """Shapes of all blobs that the layers make."""
    net = pb.NetParameter()
    for name in bottoms:
        source = net.layer.add(name=name, type="Input", top=[name])
        source.input_param.shape.add().dim.extend(w.shape(name))
    net.layer.extend(layers)
    found = infer_net(build_graph(net, phase="TEST")).blobs
    return {name: tuple(map(int, shape)) for name, shape in found.items() if shape is not None}


__all__ = ["CannotRewriteError", "form_of", "rewritten"]
