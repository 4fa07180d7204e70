"""Blobs of a net on its own data, batch by batch, into databases: Caffe's extract_features.

Source: tools/extract_features.cpp. Each image becomes a Datum of float_data with the legacy sizes
of the blob; keys are ten digits.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caffeio.data import Options
from caffeio.data.db.database import write_db
from caffeio.data.records.datum import encode_datum
from caffeio.errors import CaffeIOError, NetError
from caffeio.log.glog import NULL_LOG, Log
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.proto.files import read_net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.weights.load import load_weights

Features = NDArray[np.float32]


def extract_features(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    targets: Mapping[str, str | os.PathLike[str]],
    batches: int,
    *,
    backend: str = "LMDB",
    phase: str = "TEST",
    profile: str | None = None,
    device: torch.device | str = "cpu",
    allow_python: bool = False,
    log: Log = NULL_LOG,
) -> dict[str, int]:
    """Run `batches` batches of the net's own data and write what the blobs of `targets` hold.

    `targets` maps blob names to what is written: a new database of `backend` (LMDB or LEVELDB),
    or one `.npz` or `.h5` file, in which an array (N, ...) of float32 stands under the blob's
    name. Several blobs may go into one such file. Returns the number of images of each blob.
    Raises CaffeIOError for an unknown blob, a blob without a batch axis, a target that is there.
    """
    recipe = NetRecipe.of_file(
        read_net(model), phase=phase, profile=profile, title=f"net file: {model}",
        allow_python=allow_python,
    )  # fmt: skip
    _check_targets(targets)
    net = recipe.build(device=device, data=Options())
    try:
        for ignored in net.copy_trained_layers_from(load_weights(weights)):
            log.info("net.cpp:744", f"Ignoring source layer {ignored}")
        missing = [name for name in targets if name not in net.blob_shapes]
        if missing:
            raise NetError(f"Unknown feature blob name {missing[0]} in the network {model}")
        for target in targets.values():
            if not _is_file(target):
                log.info("extract_features.cpp:125", f"Opening dataset {os.fspath(target)}")
        log.error("extract_features.cpp:133", "Extracting Features")
        found = _forward_batches(net, list(targets), batches)
    finally:
        net.close()
    _write_features(found, targets, backend)
    counts = {}
    for name, values in found.items():
        counts[name] = len(values)
        text = f"Extracted features of {len(values)} query images for feature blob {name}"
        log.error("extract_features.cpp:176", text)
    log.error("extract_features.cpp:181", "Successfully extracted the features!")
    return counts


def _is_file(target: str | os.PathLike[str]) -> bool:
    return Path(target).suffix.lower() in (".npz", ".h5", ".hdf5")


def _check_targets(targets: Mapping[str, str | os.PathLike[str]]) -> None:
    """Refuse what cannot be written before anything is computed."""
    seen: set[str] = set()
    for target in [os.fspath(path) for path in targets.values()]:
        if _is_file(target):
            continue
        if target in seen:
            raise CaffeIOError(f"{target}: a database holds the features of one blob, not of two")
        if os.path.exists(target):
            raise CaffeIOError(f"{target}: is there already; a new database is written")
        seen.add(target)


def _forward_batches(net: Net, names: Sequence[str], batches: int) -> dict[str, Features]:
    """All values of the blobs, the batches one behind the other."""
    parts: dict[str, list[Features]] = {name: [] for name in names}
    for _ in range(batches):
        with torch.no_grad():
            net(net.read_inputs())
        for name in names:
            value = net.blobs[name]
            if not value.dim():
                raise NetError(f"blob {name!r} is a single number: it has no batch axis")
            parts[name].append(value.float().cpu().numpy())
    return {name: np.concatenate(rows) for name, rows in parts.items()}


def _records(values: Features) -> Iterator[tuple[bytes, bytes]]:
    """Key and Datum of each image; the shape is the legacy one, of four axes."""
    shape = (*values.shape[1:], 1, 1, 1)[:3]
    for i, row in enumerate(values):
        yield b"%010d" % i, encode_datum(shape=shape, float_data=row.reshape(-1))


def _write_features(
    found: Mapping[str, Features],
    targets: Mapping[str, str | os.PathLike[str]],
    backend: str,
) -> None:
    files: dict[str, dict[str, Features]] = {}
    for name, target in targets.items():
        if _is_file(target):
            files.setdefault(os.fspath(target), {})[name] = found[name]
            continue
        if found[name].ndim > 4:
            raise NetError(
                f"blob {name!r} has {found[name].ndim} axes, a Datum has room for four: "
                "write it to a .npz or .h5 file"
            )
        write_db(target, _records(found[name]), backend)
    for path, arrays in files.items():
        if path.lower().endswith(".npz"):
            with atomic_write(path) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        else:
            _write_hdf5(path, arrays)


def _write_hdf5(path: str, arrays: Mapping[str, Features]) -> None:
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise CaffeIOError(
            f"{path}: .h5 needs the package h5py: pip install 'caffeio[hdf5]'"
        ) from None
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    with atomic_write(path) as out:
        out.write(buffer.getbuffer())
