"""PyTorch state_dict files (.pt, .pth): "<layer>.<blob>" -> tensor, in Caffe's layout."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from caffeio.errors import SnapshotError, WeightsError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import Array
from caffeio.proto.io.mapped import map_file
from caffeio.proto.io.regular import open_regular
from caffeio.proto.weights.blob_names import blob_names, is_torch_named, rank
from caffeio.proto.weights.mapping import LayerEntry, Weights, info_of

if TYPE_CHECKING:
    import torch

_UNREADABLE = (  # what torch.load raises for files of other kinds
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")


def read(path: str | os.PathLike[str]) -> Weights:
    """Open a state_dict file (or a checkpoint that holds one) as weights.

    A tensor "a.b.weight" is a blob of layer "a.b". Blobs come by index, or as weight, bias (mean,
    variance, factor), others in the order of the file. Only tensors are loaded, no code is run.
    Raises WeightsError if the file is damaged, or holds something else than tensors.
    """
    import torch

    buffer = map_file(path, WeightsError, "a PyTorch file")
    tensors = _arrays(path, _tensors(path, _load_archive(torch, path)))
    groups: dict[str, list[tuple[tuple[int, int], str]]] = {}
    for place, name in enumerate(tensors):
        layer, _, last = name.rpartition(".")
        groups.setdefault(layer or name, []).append((rank(last, place), name))
    keys = {
        layer: [key for _, key in sorted(members, key=lambda pair: pair[0])]
        for layer, members in groups.items()
    }
    layers = [
        LayerEntry(
            layer, "", [info_of(tensors[key]) for key in own],
            names=tuple(key.rpartition(".")[2] for key in own),
        )
        for layer, own in keys.items()
    ]  # fmt: skip

    def fetch(layer: int, blob: int, diff: bool) -> Array:
        return tensors[keys[layers[layer].name][blob]]

    module = (lambda: tensors) if is_torch_named(tensors) else None
    return Weights(Path(path), "pytorch", "", layers, buffer, fetch, module)


def _load_archive(torch: Any, path: str | os.PathLike[str]) -> Any:
    problem: Exception
    name = os.fspath(path)
    by_suffix = name.lower().endswith(".safetensors")  # torch.load takes one for safetensors then
    for mmap in (False,) if by_suffix else (True, False):  # before PyTorch 1.6 none can be mapped
        try:
            with open_regular(path) as file:
                source = file if by_suffix else name
                return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except _UNREADABLE as error:
            problem = error
    if isinstance(problem, pickle.UnpicklingError):  # torch's own words advise to run the code
        text = "it holds other things than tensors, or is damaged (none of it has been run)"
    else:
        text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    raise WeightsError(f"is no PyTorch file of tensors: {text}", where=str(path)) from problem


def _tensors(path: str | os.PathLike[str], content: Any) -> dict[str, torch.Tensor]:
    """The state_dict in what a file holds."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        kind = type(content).__name__
        raise WeightsError(f"holds a {kind}, not a state_dict", where=str(path))
    for name, value in content.items():
        if not isinstance(name, str) or not hasattr(value, "detach"):
            message = f"entry {name!r} is a {type(value).__name__}, not a tensor"
            raise WeightsError(f"holds no plain state_dict: {message}", where=str(path))
    return dict(content)


def _arrays(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """The tensors as arrays; raises WeightsError for a kind that NumPy does not have."""
    out: dict[str, Array] = {}
    for name, tensor in tensors.items():
        try:
            out[name] = _numpy(tensor)
        except (TypeError, RuntimeError, ValueError) as error:
            text = str(error).splitlines()[0]
            kind = f"{tensor.dtype}, {tensor.layout}"
            message = f"tensor {name!r} ({kind}) is no plain tensor of numbers: {text}"
            raise WeightsError(message, where=str(path)) from None
    return out


def _numpy(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()  # numpy has no bfloat16
    array: Array = tensor.numpy()
    array.flags.writeable = False
    return array


def write(
    path: str | os.PathLike[str],
    weights: Mapping[str, Sequence[Array]],
    *,
    types: Mapping[str, str] | None = None,
    sync: bool = True,
) -> None:
    """Write weights (a `Weights`, or layer name -> arrays) as a state_dict that torch.load reads.

    Blobs are named weight, bias and so on where the layer's type is known (from the `Weights`, or
    `types`: layer name -> type), else by index. Values, shapes and types are unchanged: BatchNorm's
    mean and variance stay sums that factor divides. The file appears when it is whole; raises
    SnapshotError if it cannot be written.
    """
    import torch

    known = dict(types or {})
    if isinstance(weights, Weights):
        known = {entry.name: entry.type for entry in weights.layers if entry.blobs} | known
    tensors: dict[str, torch.Tensor] = {}
    for layer, arrays in weights.items():
        names = blob_names(known.get(layer, ""), len(arrays))
        for name, array in zip(names, arrays, strict=True):
            owned = np.array(array, array.dtype.newbyteorder("="), order="C")
            tensors[f"{layer}.{name}"] = torch.from_numpy(owned)
    _save(torch, path, tensors, sync)


class _Told:
    """A file that keeps why it could not be written: torch.save tells of its own places only."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Write what is in the buffer."""
        self.file.flush()


def _save(torch: Any, path: str | os.PathLike[str], tensors: dict[str, Any], sync: bool) -> None:
    with atomic_write(path, sync=sync) as file:
        told = _Told(file)
        try:
            torch.save(tensors, told)
        except (RuntimeError, OSError) as error:
            if told.error is not None:
                raise told.error from None
            raise SnapshotError(f"cannot be written: {error}", where=str(path)) from error


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of a state_dict file by their own names. Raises WeightsError as `read` does."""
    import torch

    map_file(path, WeightsError, "a PyTorch file")
    return _arrays(path, _tensors(path, _load_archive(torch, path)))


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Array]) -> None:
    """Write arrays by name as a state_dict that torch.load reads."""
    import torch

    owned = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    _save(torch, path, owned, True)
