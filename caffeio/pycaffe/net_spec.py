"""Nets written as Python expressions: `L.Convolution(n.data, num_output=20, kernel_size=5)`.

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 224, 224]))
    n.conv1 = L.Convolution(n.data, num_output=20, kernel_size=5)
    text = str(n.to_proto())

Source of the behaviour: python/caffe/net_spec.py of BVLC, and of weiliu89/caffe (branch ssd) for
what NetSpec has beyond it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from caffeio.pycaffe.proto import caffe_pb2

Names = dict[Any, str]
LayerMap = dict["Function", Any]


@cache
def param_name_dict() -> dict[str, str]:
    """Layer type -> the name of its message in LayerParameter, without `_param`.

    The types follow from the names of the messages: pooling_param is a PoolingParameter. A message
    that serves two fields belongs to the first (relu_param, not relu6_param).
    """
    found: dict[str, str] = {}
    for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields:
        if field.name.endswith("_param") and field.message_type is not None:
            kind = field.message_type.name.removesuffix("Parameter")
            found.setdefault(kind, field.name.removesuffix("_param"))
    return found


def to_proto(*tops: Top | Function) -> Any:
    """The NetParameter of all layers that `tops` need; names are made of types and numbers."""
    return _net_of(tops, {})


def _net_of(tops: Any, names: Names) -> Any:
    layers: LayerMap = OrderedDict()
    autonames: Counter[str] = Counter()
    for top in tops:
        (top.fn if isinstance(top, Top) else top)._to_proto(layers, names, autonames)
    net = caffe_pb2.NetParameter()
    net.layer.extend(layers.values())
    return net


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Set the field `name` of a message: lists fill repeated fields, dicts fill messages.

    One value for a repeated field is a list of one. Raises AttributeError where there is no such
    field, TypeError or ValueError where the value does not fit.
    """
    field = getattr(proto, name)
    if hasattr(field, "extend"):
        values = val if isinstance(val, list) else [val]
        if not values or not isinstance(values[0], dict):
            field.extend(values)
            return
        for item in values:
            _assign_all(field.add(), item)
    elif isinstance(val, dict):
        _assign_all(field, val)
    else:
        setattr(proto, name, val)


def _assign_all(message: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        assign_proto(message, key, value)


class Top:
    """One output of a layer: the `n`th top of the Function `fn`."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """The NetParameter of all layers that this top needs."""
        return to_proto(self)

    def _update(self, params: Mapping[str, Any]) -> None:
        self.fn._update(params)

    def _to_proto(self, layers: LayerMap, names: Names, autonames: Counter[str]) -> None:
        self.fn._to_proto(layers, names, autonames)


class Function:
    """A layer: its type, the Tops that it reads, its fields.

    Of `params`, `ntop` is the number of tops and `in_place` gives the tops the bottoms' names.
    Raises TypeError if an input is not a Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]) -> None:
        self.type_name = type_name
        for index, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(bottom)})")
        self.inputs = inputs
        self.params = params
        self.ntop = params.pop("ntop", 1)
        self.in_place = params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_proto(self) -> Any:
        """The NetParameter of all layers that this one needs."""
        return to_proto(self)

    def _update(self, params: Mapping[str, Any]) -> None:
        self.params.update(params)

    def _get_name(self, names: Names, autonames: Counter[str]) -> str:
        if self not in names:
            if self.ntop > 0:
                names[self] = self._get_top_name(self.tops[0], names, autonames)
            else:
                names[self] = self._new_name(autonames)
        return names[self]

    def _get_top_name(self, top: Top, names: Names, autonames: Counter[str]) -> str:
        if top not in names:
            names[top] = top.fn._new_name(autonames)
        return names[top]

    def _new_name(self, autonames: Counter[str]) -> str:
        autonames[self.type_name] += 1
        return f"{self.type_name}{autonames[self.type_name]}"

    def _to_proto(self, layers: LayerMap, names: Names, autonames: Counter[str]) -> None:
        """Put the layers that this one reads, and then itself, into `layers`."""
        for fn in self._order(layers):
            layers[fn] = fn._layer(layers, names, autonames)

    def _order(self, done: LayerMap) -> list[Function]:
        """This layer behind all that it needs and that is not done; nets may be of any depth."""
        order: dict[Function, None] = {}
        stack: list[tuple[Function, int]] = [(self, 0)]
        while stack:
            fn, position = stack.pop()
            if fn in done or fn in order:
                continue
            if position < len(fn.inputs):
                stack += [(fn, position + 1), (fn.inputs[position].fn, 0)]
            else:
                order[fn] = None
        return list(order)

    def _layer(self, layers: LayerMap, names: Names, autonames: Counter[str]) -> Any:
        layer = caffe_pb2.LayerParameter(type=self.type_name)
        layer.bottom.extend(layers[top.fn].top[top.n] for top in self.inputs)
        if self.in_place:
            layer.top.extend(layer.bottom)
        else:
            layer.top.extend(self._get_top_name(top, names, autonames) for top in self.tops)
        layer.name = self._get_name(names, autonames)
        for key, value in self.params.items():
            self._assign(layer, key, value)
        return layer

    def _assign(self, layer: Any, key: str, value: Any) -> None:
        """A field of the type's own message, or, for want of one, of the layer itself."""
        own = param_name_dict().get(self.type_name)
        if own is not None and not key.endswith("param"):
            try:
                assign_proto(getattr(layer, f"{own}_param"), key, value)
                return
            except AttributeError:
                pass
        assign_proto(layer, key, value)


class NetSpec:
    """Tops under names of your choice, in the order in which they were assigned.

    `n.conv1 = ...` and `n["conv1"] = ...` are the same. `to_proto()` gives the net. What SSD's
    Caffe adds is there too, unless a top has that name: `keys()` and `vals()`, which are lists,
    `update(name, fields)`, which adds fields to a layer, and `del n["conv1"]`.
    """

    tops: OrderedDict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name == "tops" or name.startswith("__"):  # while it is copied or unpickled
            raise AttributeError(name)
        if name not in self.tops and name in _SSD:
            return _SSD[name].__get__(self)
        return self.tops[name]

    def __setitem__(self, key: str, value: Any) -> None:
        self.tops[key] = value

    def __getitem__(self, item: str) -> Any:
        return self.tops[item]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def to_proto(self) -> Any:
        """The NetParameter of all layers that the assigned tops need."""
        return _net_of(self.tops.values(), {top: name for name, top in self.tops.items()})


def _keys(self: NetSpec) -> list[str]:
    """The names, in order."""
    return list(self.tops)


def _vals(self: NetSpec) -> list[Any]:
    """The tops, in order."""
    return list(self.tops.values())


def _update(self: NetSpec, name: str, params: Mapping[str, Any]) -> None:
    """Add fields to the layer of the top `name`."""
    self.tops[name]._update(params)


_SSD: dict[str, Any] = {"keys": _keys, "vals": _vals, "update": _update}


class Layers:
    """Makes layers: `layers.Type(*bottoms, **fields)` returns the layer's top.

    It is a tuple of tops if `ntop` is 2 or more, and the Function itself if `ntop` is 0.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer_fn(*args: Any, **kwargs: Any) -> Any:
            fn = Function(name, args, kwargs)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer_fn


class Parameters:
    """`params.Pooling.MAX` is the value MAX of PoolingParameter's enum."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Constants(f"{name}Parameter")


class _Constants:
    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(caffe_pb2, self._message), name)


layers = Layers()
params = Parameters()
