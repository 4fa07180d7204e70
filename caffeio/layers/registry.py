"""The registry of layer types: those of this package, and those of third parties."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import TYPE_CHECKING, TypeVar

from caffeio.errors import CaffeIOError, UnknownLayerError

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType

L = TypeVar("L", bound="type[LayerType]")
REGISTRY: dict[str, type[LayerType]] = {}
ENTRY_POINTS = "caffeio.layers"  # third parties name a module or a layer class here


def layer(*type_names: str) -> Callable[[L], L]:
    """Register the class that defines the Caffe layer types `type_names`.

    Raises ValueError for a type that is there.
    """

    def add(cls: L) -> L:
        if not cls.__module__.startswith("caffeio.layers."):
            load_own()  # so that a name that one of them has is refused here
        for type_name in type_names:
            if type_name in REGISTRY:
                raise ValueError(
                    f"layer type {type_name!r} is already defined by {REGISTRY[type_name]}"
                )
            REGISTRY[type_name] = cls
        return cls

    return add


class _Loaded:
    own = False
    plugins = False


def load_own() -> None:
    """Import all modules of this package once; none of them needs torch."""
    if _Loaded.own:
        return
    package = import_module("caffeio.layers")
    for module in walk_packages(package.__path__, "caffeio.layers."):
        if not module.name.startswith("caffeio.layers.onnx"):
            import_module(module.name)
    _Loaded.own = True


def load_plugins() -> None:
    """Import what the packages of third parties name in the entry-point group, once.

    Raises CaffeIOError, each time it is asked, for a package that cannot be imported.
    """
    if _Loaded.plugins:
        return
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else "?"
            raise CaffeIOError(
                f"the layer types of package {package!r} (entry point {entry.name!r} = "
                f"{entry.value!r}) cannot be imported: {type(error).__name__}: {error}"
            ) from error
    _Loaded.plugins = True


def find(type_name: str) -> type[LayerType] | None:
    """Return the class of a layer type, None if there is none.

    For a type that is not built in, the packages of third parties are imported, as when a net is
    built: raises CaffeIOError for one that cannot be imported.
    """
    if type_name not in REGISTRY:
        load_own()
    if type_name not in REGISTRY:
        load_plugins()
    return REGISTRY.get(type_name)


def types_without_torch() -> list[str]:
    """Return the types that can be asked without torch, sorted."""
    load_own()
    return sorted(REGISTRY)


def reads_data(type_name: str) -> bool:
    """Whether layers of this type make the blobs that they read from a file or a database."""
    cls = find(type_name)
    return cls is not None and cls.reads_data


def batch_message(type_name: str) -> str:
    """Return the message of a data layer that has its batch_size (`data_param`); "" for others."""
    return getattr(find(type_name), "batch_message", "")


def is_loss_type(type_name: str) -> bool:
    """Whether layers of this type are losses; the name of an unknown type decides."""
    cls = find(type_name)
    return cls.is_loss if cls is not None else type_name.endswith(("Loss", "LossOHEM"))


def is_data_type(type_name: str) -> bool:
    """Whether layers of this type make data; the name of an unknown type decides."""
    cls = find(type_name)
    return cls.is_data if cls is not None else type_name.endswith("Data")


def is_metric_type(type_name: str) -> bool:
    """Whether a deployed net leaves such layers out; the name of an unknown type decides."""
    cls = find(type_name)
    return cls.is_metric if cls is not None else type_name.endswith(("Accuracy", "Evaluate"))


def may_end_type(type_name: str) -> bool:
    """Whether tops of this type may stay unread; the name of an unknown type decides."""
    cls = find(type_name)
    return is_metric_type(type_name) or (
        cls.may_end if cls is not None else type_name.endswith("Write")
    )


def reads_shape_only_last(type_name: str) -> bool:
    """Whether layers of this type read the shape alone of their last bottom."""
    cls = find(type_name)
    return cls is not None and cls.shape_only_last


def family_of(type_name: str) -> str:
    """Return the group of layer types that drawings colour alike: data, loss, or a class's own."""
    cls = find(type_name)
    if cls is not None and cls.is_source:
        return "data"
    if is_loss_type(type_name) or is_metric_type(type_name):
        return "loss"
    return cls.family if cls is not None else "other"


def owners_of(message: str) -> frozenset[str]:
    """Return the types that read `message` of LayerParameter (`pooling_param`)."""
    load_own()
    return _owners_of(message, len(REGISTRY))


@cache
def _owners_of(message: str, known: int) -> frozenset[str]:
    return frozenset(type_name for type_name, cls in REGISTRY.items() if message in cls.fields)


def lookup(type_name: str, name: str, where: str | None = None) -> type[LayerType]:
    """Return the class of layer `name`, whose type is `type_name`.

    Raises UnknownLayerError with the types whose names are close and how to register one.
    """
    cls = find(type_name)
    if cls is not None:
        return cls
    folded = {known.lower(): known for known in REGISTRY}
    close = [folded[name] for name in get_close_matches(type_name.lower(), folded, 3)]
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    raise UnknownLayerError(
        f"layer {name!r}: unknown layer type {type_name!r}{hint}; known are {len(REGISTRY)} "
        f"types. Define it with @caffeio.layers.layer({type_name!r}) in a package that names "
        f"it in the entry-point group {ENTRY_POINTS!r} (see CONTRIBUTING.md)",
        where=where,
    )


def known_types() -> list[str]:
    """Return all registered layer types, sorted."""
    load_own()
    load_plugins()
    return sorted(REGISTRY)
