"""Solver states (.solverstate, .solverstate.h5): read, written, and matched with their weights."""

from __future__ import annotations

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.errors import CaffeIOError, ParseError, SnapshotError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import Array, BlobInfo, scan_blob, view
from caffeio.proto.io.mapped import foreign, is_hdf5, map_file
from caffeio.proto.io.stream import Part, blob_parts, field_parts, size_of, write_parts
from caffeio.proto.io.wire import (
    BYTES,
    FIXED32,
    VARINT,
    Buffer,
    bytes_field,
    fail,
    iter_fields,
    signed,
    tag,
    varint_field,
)
from caffeio.proto.weights.hdf5 import (
    numbered,
    read_group,
    read_packed,
    values_of,
    write_numbers,
    write_string,
)
from caffeio.proto.weights.hdf5_file import stored_bytes, write_h5
from caffeio.proto.weights.hdf5_reader import Dataset, Hdf5Group
from caffeio.proto.weights.load import load_weights

# Field numbers of SolverState; 5 and 6 are of Intel's, NVIDIA's and SSD's forks.
_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP, _MINIMUM_LOSS, _LAST_EVENT = range(1, 7)
_WIRE_TYPES = {1: VARINT, 2: BYTES, 3: BYTES, 4: VARINT, 5: FIXED32, 6: VARINT}
MINIMUM_LOSS = float(np.finfo(np.float32).max)  # where a solver begins that watches its loss


@dataclass
class SolverState:
    """Where a training stands.

    `history` has the solver's tensors in Caffe's order (learnable parameters in net order; AdaDelta
    and Adam: all first moments, then all second ones), as read-only views if read from a file.
    `learned_net` is the path of the weights as the run that wrote it saw it; None if it was not
    given. `minimum_loss` and `iter_last_event` (the plateau policy) are None in BVLC's files; in
    Intel's the latter is random memory unless the policy is plateau.
    """

    iter: int
    learned_net: str | None = None
    current_step: int = 0
    history: list[Array] = field(default_factory=list)
    minimum_loss: float | None = None
    iter_last_event: int | None = None


def read_solverstate(path: str | os.PathLike[str]) -> SolverState:
    """Read a solver state, binary or HDF5 (told apart by content).

    Raises SnapshotError if it is missing, cut off, damaged, or something else.
    """
    buffer = map_file(path, SnapshotError, "a .solverstate")
    if is_hdf5(buffer):
        return _read_h5(path, buffer)
    if kind := foreign(buffer):
        raise SnapshotError(f"{kind}; a .solverstate was expected", where=str(path))
    try:
        state, blobs = _scan(buffer)
        for i, blob in enumerate(blobs):
            try:
                state.history.append(view(buffer, blob.shape, blob.data))
            except ParseError as error:
                raise ParseError(f"history blob {i}: {error.message}") from None
    except ParseError as error:
        place = f" ({error.where})" if error.where else ""
        message = f"is cut off or is no .solverstate: {error.message}{place}"
        if _is_weights(buffer):
            message = "is a .caffemodel, weights: give the .solverstate that belongs to it"
        raise SnapshotError(message, where=str(path)) from None
    return state


def _is_weights(buffer: Buffer) -> bool:
    from caffeio.proto.weights.scan import NetScanner

    scanner = NetScanner(buffer)
    try:
        scanner.scan()
    except (ParseError, IndexError):
        return False
    return bool(scanner.layers)


def _scan(buffer: Buffer) -> tuple[SolverState, list[BlobInfo]]:
    numbers: dict[int, int] = {}
    learned_net = minimum_loss = None
    blobs: list[BlobInfo] = []
    for number, wire_type, value in iter_fields(buffer):
        if _WIRE_TYPES.get(number, wire_type) != wire_type:
            fail(f"field {number} is not that of a solver state", 0)
        if isinstance(value, int):
            numbers[number] = signed(value)
        elif number == _LEARNED_NET:
            learned_net = bytes(buffer[slice(*value)]).decode("utf-8", "surrogateescape")
        elif number == _HISTORY:
            try:
                blobs.append(scan_blob(buffer, *value))
            except ParseError as error:
                message = f"history blob {len(blobs)}: {error.message}"
                raise ParseError(message, where=error.where) from None
        elif number == _MINIMUM_LOSS:
            minimum_loss = struct.unpack("<f", buffer[slice(*value)])[0]
    if _ITER not in numbers:
        fail("it has no `iter`", 0)
    state = SolverState(
        numbers[_ITER],
        learned_net,
        numbers.get(_CURRENT_STEP, 0),
        [],
        minimum_loss,
        numbers.get(_LAST_EVENT),
    )
    return state, blobs


def _read_h5(path: str | os.PathLike[str], buffer: Buffer) -> SolverState:
    root = read_group(path, buffer, SnapshotError)
    history = root.members.get("history")
    if "iter" not in root.members or not isinstance(history, Hdf5Group):
        found = ", ".join(sorted(root.members)) or "nothing"
        message = f"is no .solverstate.h5: no 'iter' and 'history' in it, but {found}"
        raise SnapshotError(message, where=str(path))

    def array(dataset: Dataset) -> Array:
        values = values_of(dataset)
        if dataset.packed:
            return read_packed(path, dataset.name, dataset.shape, SnapshotError)
        return view(buffer, dataset.shape, values)

    def scalar(name: str) -> Any:
        dataset = root.members.get(name)
        if not isinstance(dataset, Dataset):
            return None
        if math.prod(dataset.shape) != 1:
            raise ParseError(f"{name} has the shape {dataset.shape}, not one value")
        return array(dataset).reshape(-1)[0].item()

    try:
        step, loss, event, net = (
            scalar(n) for n in ("current_step", "minimum_loss", "iter_last_event", "learned_net")
        )
        arrays = [array(dataset) for dataset in numbered(history, "history")]
        name = net.decode("utf-8", "surrogateescape") if isinstance(net, bytes) else net
        return SolverState(int(scalar("iter")), name, int(step or 0), arrays, loss, event)
    except (ParseError, TypeError, ValueError) as error:
        raise SnapshotError(f"is damaged: {error}", where=str(path)) from None


def write_solverstate(
    path: str | os.PathLike[str],
    state: SolverState,
    *,
    profile_extras: bool = False,
    sync: bool = True,
) -> None:
    """Write a solver state: HDF5 if `path` ends in .h5, else binary, byte for byte as Caffe does.

    `profile_extras` adds minimum_loss and iter_last_event, as Intel's fork and its relatives
    always do (their HDF5 reader demands them). Write the weights first, as Caffe does: then a
    state never refers to weights that are not there. The file appears when it is whole; raises
    SnapshotError if it cannot be written, naming the space needed and free.
    """
    loss = MINIMUM_LOSS if state.minimum_loss is None else state.minimum_loss
    event = state.iter_last_event or 0
    if str(path).endswith(".h5"):
        _write_h5(path, state, (loss, event) if profile_extras else None, sync)
        return
    parts: list[Part] = [varint_field(_ITER, state.iter)]
    if state.learned_net is not None:
        parts.append(
            bytes_field(_LEARNED_NET, state.learned_net.encode("utf-8", "surrogateescape"))
        )
    for i, array in enumerate(state.history):
        try:
            parts += field_parts(_HISTORY, blob_parts(array))
        except ValueError as problem:
            message = f"history blob {i} cannot be written: {problem}"
            raise SnapshotError(message, where=str(path)) from None
    parts.append(varint_field(_CURRENT_STEP, state.current_step))
    if profile_extras:
        parts.append(tag(_MINIMUM_LOSS, FIXED32) + struct.pack("<f", loss))
        parts.append(varint_field(_LAST_EVENT, event))
    with atomic_write(path, sync=sync, needed=size_of(parts)) as file:
        write_parts(file, parts, sync=sync)


def _write_h5(
    path: str | os.PathLike[str],
    state: SolverState,
    extras: tuple[float, int] | None,
    sync: bool,
) -> None:
    def fill(file: Any) -> None:
        def number(name: str, value: float, dtype: str) -> None:
            file.create_dataset(name, data=np.array([value], dtype), track_times=True)

        number("iter", state.iter, "<i4")
        write_string(file, "learned_net", state.learned_net or "")
        number("current_step", state.current_step, "<i4")
        if extras is not None:
            number("iter_last_event", extras[1], "<i4")
            number("minimum_loss", extras[0], "<f4")
        history = file.create_group("history")
        for i, array in enumerate(state.history):
            write_numbers(history, str(i), array)

    write_h5(path, fill, sync=sync, size=sum(map(stored_bytes, state.history)))


def snapshot_names(prefix: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """The solver states `<prefix>_iter_<N>.solverstate[.h5]` that there are, newest first."""
    prefix = Path(prefix)
    pattern = re.compile(re.escape(prefix.name) + r"_iter_(\d{1,10})\.solverstate(\.h5)?")
    found = []
    try:
        for entry in os.scandir(prefix.parent):
            if (match := pattern.fullmatch(entry.name)) and entry.is_file():
                found.append((int(match[1]), entry.stat().st_mtime_ns, Path(entry.path)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(number, path) for number, _, path in sorted(found, reverse=True)]


def newest_whole_pair(prefix: str | os.PathLike[str]) -> tuple[Path, Path, int] | None:
    """The newest snapshot of `prefix` of which state and weights are whole: (state, weights, iter).

    A pair counts if both files can be read to their end, the state's iter is that of its name, and
    its history has the shapes of the weights' blobs in their order. A file that was cut off, a
    state without weights, or weights without a state are passed over. None if there is no pair.
    """
    for number, path in snapshot_names(prefix):
        try:
            state = read_solverstate(path)
            weights = find_weights(path, state)
            if state.iter == number and weights is not None and _belong(state, weights):
                return path, weights, number
        except CaffeIOError:
            continue
    return None


def find_weights(state_path: str | os.PathLike[str], state: SolverState) -> Path | None:
    """The weights that a state refers to: where it says, else beside the state; None if gone.

    Caffe opens `learned_net` relative to the working directory. A snapshot that has been moved or
    is resumed from elsewhere has its weights beside it.
    """
    if not state.learned_net:
        return None
    named = Path(state.learned_net)
    beside = Path(state_path).parent / named.name
    return next((path for path in (named, beside) if path.is_file()), None)


def _belong(state: SolverState, path: Path) -> bool:
    """Whether the weights hold a blob for each history entry.

    Blobs that share another's memory have no history, so the history's shapes are a subsequence
    of the blobs'; HDF5 files order layers by name, so there they are a subset.
    """
    weights = load_weights(path)
    blobs = [blob for entry in weights.layers for blob in entry.blobs]
    if any(blob.count != math.prod(blob.shape) for blob in blobs):
        return False
    shapes = [array.shape for array in state.history]
    half = len(shapes) // 2
    halves = shapes[:half] if shapes[:half] == shapes[half:] else shapes
    stored = [blob.shape for blob in blobs]
    if weights.format == "hdf5":
        return any(not Counter(want) - Counter(stored) for want in (shapes, halves))
    return _subsequence(shapes, stored) or _subsequence(halves, stored)


def _subsequence(short: Sequence[tuple[int, ...]], long: Sequence[tuple[int, ...]]) -> bool:
    rest = iter(long)
    return all(any(shape == other for other in rest) for shape in short)


__all__ = [
    "SolverState",
    "find_weights",
    "newest_whole_pair",
    "read_solverstate",
    "snapshot_names",
    "write_solverstate",
]
