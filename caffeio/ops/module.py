"""Layer types as torch modules: the blobs become parameters, `compute` becomes `forward`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from caffeio.layers.base import BlobSpec, LayerContext, LayerType, Shape
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import FillerParameter, LayerParameter


def meta(shape: Sequence[int]) -> Tensor:
    """Make a tensor without memory."""
    return torch.empty(tuple(shape), device="meta")


class Blobs(Sequence[Any]):
    """The blobs of a layer in Caffe's order, each in the shape that its layer declares.

    They are the parameters of the layer's module, under the names that `names` lists. A blob that
    belongs to a layer of another shape (share_mode PERMISSIVE) is a view of that one's tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self.names: list[str] = []
        self.shapes: list[Shape] = []
        self._parameters = module._parameters
        self._foreign = False  # does a blob belong to a layer of another shape?

    def append(self, name: str, shape: Shape, blob: nn.Parameter) -> None:
        """Add a blob; a name that is taken gets its index in its place."""
        if not name or "." in name or name in self.names:
            name = str(len(self.names))
        self.names.append(name)
        self.shapes.append(shape)
        self._parameters[name] = blob

    def raw(self, index: int) -> nn.Parameter:
        """Return blob `index` as the tensor that holds the memory: an owner's own, if shared."""
        blob = self._parameters[self.names[index]]
        assert blob is not None
        return blob

    @property
    def places(self) -> dict[str, nn.Parameter | None]:
        """Where the tensors that `raw` returns lie, by name."""
        return self._parameters

    @property
    def has_views(self) -> bool:
        """Whether a blob is a view of an owner's tensor, which needs that one's plain layout."""
        return self._foreign

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self.names)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self.names))[index]]
        blob = self._parameters[self.names[index]]
        if self._foreign and blob is not None and blob.shape != self.shapes[index]:
            return blob.view(self.shapes[index])
        return blob

    def __setitem__(self, index: int, blob: nn.Parameter) -> None:
        self._parameters[self.names[index]] = blob
        if tuple(blob.shape) != self.shapes[index]:
            self._foreign = True


# never registered; a tuple: torch.compile of torch 2.6 looks into no set
_PLAIN = (bool, int, float, str, tuple, list, dict, frozenset)


class LayerModule(nn.Module):
    """What a layer type gets when a net runs: memory for its blobs, and its arithmetic.

    A class made by `module_class` is the layer type as well: a net's layers know all that their
    types know. Parameters are called as the blobs are, so that `net.state_dict()` has the keys
    `<layer>.<blob>`.
    """

    param: LayerParameter
    context: LayerContext
    name: str
    type_name: str
    blob_specs: list[BlobSpec]
    blob_names: ClassVar[tuple[str, ...]]
    if TYPE_CHECKING:
        check_blob: Callable[[str, Sequence[int]], None]

    def __init__(self, param: LayerParameter, context: LayerContext | None = None) -> None:
        nn.Module.__init__(self)
        super(nn.Module, self).__init__(param, context)  # type: ignore[call-arg]
        self.blobs = Blobs(self)

    def __setattr__(self, name: str, value: Any) -> None:
        # torch's own looks through all its registers; most of what `setup` sets is a number
        known = self.__dict__
        if type(value) in _PLAIN and not (
            name in known.get("_parameters", ()) or name in known.get("_buffers", ())
        ):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def add_blob(
        self,
        name: str,
        shape: Sequence[int],
        filler: FillerParameter | None = None,
        *,
        default: float = 0.0,
        statistic: bool = False,
    ) -> nn.Parameter:
        """Declare the next blob: float32, on the meta device until the net is initialized."""
        self.check_blob(name, shape)
        spec = BlobSpec(name, tuple(int(n) for n in shape), filler, default, statistic)
        parameter = nn.Parameter(meta(spec.shape), requires_grad=not statistic)
        self.blob_specs.append(spec)
        number = len(self.blobs)
        key = self.blob_names[number] if number < len(self.blob_names) else name
        self.blobs.append(key, spec.shape, parameter)
        return parameter

    def add_buffer(self, name: str, values: Any) -> None:
        """Keep an array (or None) as a buffer that is not saved."""
        tensor = None if values is None else torch.from_numpy(values)
        self.register_buffer(name, tensor, persistent=False)

    def extra_repr(self) -> str:
        """Show name and type."""
        return f"{self.name!r}, {self.type_name}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for i, name in enumerate(self.blobs.names):
            blob = self.blobs[i]  # in this layer's shape, also where another one owns it
            destination[prefix + name] = blob if keep_vars else blob.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for i, name in enumerate(self.blobs.names):
            key = prefix + name
            if key not in state_dict and f"{prefix}{i}" in state_dict:  # a file without types
                state_dict[key] = state_dict.pop(f"{prefix}{i}")
            blob = self.blobs.raw(i)
            if key in state_dict and tuple(state_dict[key].shape) == self.blobs.shapes[i]:
                state_dict[key] = state_dict[key].reshape(blob.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the layer type: the class that `module_class` made has no name."""
        types = [cls for cls in type(self).__mro__ if issubclass(cls, LayerType)]
        known = next(cls for cls in types if "_made_here" not in cls.__dict__)
        return _remade, (known,), self.__dict__


class Layer(LayerModule, LayerType):
    """A layer type that is a torch module itself: it computes in `forward`.

    The shapes of its tops are found by running `forward` on the meta device, so `forward` must work
    there: no `.item()`, no data-dependent branches (guard those with `x.is_meta`).
    """

    if TYPE_CHECKING:
        forward: Callable[..., Tensor | tuple[Tensor, ...]]

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the tops that `forward` makes on the meta device."""
        with torch.no_grad():
            try:
                result = self(*map(meta, bottoms))
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                listed = ", ".join(map(caffe_shape, bottoms))
                raise self.error(f"does not fit bottoms of shape {listed}: {error}") from error
        tops = result if isinstance(result, tuple) else (result,)
        return tuple(tuple(top.shape) for top in tops)


_MODULES: dict[type[LayerType], type[Layer]] = {}


def module_class(cls: type[LayerType]) -> type[Layer]:
    """Make the torch module of a layer type: `cls` with its blobs and its arithmetic.

    A class that is a module already is returned as it is.
    """
    made = _MODULES.get(cls)
    if made is None:
        made = _MODULES[cls] = _make_class(cls)
    return made


def _make_class(cls: type[LayerType]) -> Any:
    if issubclass(cls, nn.Module):
        return cls
    module, _, name = cls.compute.partition(":")
    given: Any = cls
    body = {
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "_made_here": True,
        "forward": getattr(import_module(module), name) if name else given.forward,
    }
    return type(cls.__name__, (LayerModule, cls), body)


def _remade(cls: type[LayerType]) -> LayerModule:
    """Make the empty module that copy and pickle fill."""
    made = module_class(cls)
    return made.__new__(made)


def make_module(
    cls: type[LayerType], param: LayerParameter, context: LayerContext | None = None
) -> Layer:
    """Make the module of the layer that `param` describes; `configure` sets it up."""
    return module_class(cls)(param, context)
