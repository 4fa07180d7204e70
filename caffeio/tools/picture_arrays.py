"""Data sets that are arrays of pictures: MNIST's IDX files, CIFAR's binary ones, .npz, HDF5.

Sources: http://yann.lecun.com/exdb/mnist (IDX), https://www.cs.toronto.edu/~kriz/cifar.html;
examples/mnist/convert_mnist_data.cpp and examples/cifar10/convert_cifar_data.cpp of BVLC Caffe.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import DataError
from caffeio.memory import check_room
from caffeio.proto.io.broken import BROKEN_HDF5
from caffeio.proto.io.regular import check_regular, open_regular
from caffeio.proto.weights.npz import BROKEN_ARCHIVE, check_array
from caffeio.shape_text import format_shape

Array = NDArray[Any]
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IMAGE_NAMES = ("data", "images", "image", "x", "X", "x_train", "arr_0")
LABEL_NAMES = ("label", "labels", "y", "Y", "target", "targets", "y_train", "arr_1")


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size: uint8 or float32 (N, C, H, W), int32 labels (N), or None."""

    images: Array
    labels: Array | None
    digits: int = 8  # of the keys of their records


def read_idx(path: Path, labels: Path | None = None) -> Pictures:
    """Read MNIST's pair of files, gzipped or not; the labels' file is found by its name.

    Raises DataError for what is no such file, is cut off, or does not fit together.
    """
    images = _idx(path)
    if images.ndim not in (3, 4):
        what = "labels: give the file of the images" if images.ndim == 1 else f"{images.ndim} axes"
        raise DataError(f"{str(path)!r} holds {what}")
    labels = labels or _labels_beside(path)
    numbers = _idx(labels)
    if numbers.shape != images.shape[:1]:
        raise DataError(
            f"{str(path)!r} has {len(images)} images, {str(labels)!r} has labels of shape "
            f"{format_shape(numbers.shape)}"
        )
    return Pictures(_values(images.reshape(len(images), -1, *images.shape[-2:]), path),
                    _numbers(numbers, labels))  # fmt: skip


def _labels_beside(path: Path) -> Path:
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    bare = name.removesuffix(".gz")
    for candidate in (name, bare, f"{bare}.gz"):
        if candidate != path.name and (path.parent / candidate).exists():
            return path.parent / candidate
    raise DataError(f"no labels beside {str(path)!r} ({bare!r}, .gz or not): give them (--labels)")


def _idx(path: Path) -> Array:
    """The array of an IDX file; its size must be what its head says."""
    try:
        with open_regular(path) as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=raw) if zipped else raw as file:
                head = file.read(4)
                if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or not head[3]:
                    raise DataError(f"{str(path)!r} is no IDX file: it begins with {head.hex(' ')}")
                dims = np.frombuffer(_exactly(file, 4 * head[3], path), ">u4").tolist()
                dtype = np.dtype(IDX_TYPES[head[2]])
                size = math.prod(dims) * dtype.itemsize
                check_room(size, str(path))
                data = _exactly(file, size, path)
                if file.read(1):
                    raise DataError(f"{str(path)!r} is longer than its head says ({size} bytes)")
    except OSError as error:  # gzip's errors are among them
        raise DataError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}") from None
    return np.frombuffer(data, dtype).reshape(dims)


def _exactly(file: Any, size: int, path: Path) -> bytes:
    parts, left = [], size
    while left and (piece := file.read(min(left, 1 << 24))):
        parts.append(piece)
        left -= len(piece)
    if left:
        raise DataError(f"{str(path)!r} is cut off: {left} of {size} bytes are missing")
    return b"".join(parts)


def read_cifar(paths: Sequence[Path], label: str = "fine") -> Pictures:
    """Read CIFAR's binary batches: of CIFAR-10 (a label, 3072 pixels) or CIFAR-100 (two labels).

    The pixels stay as they are: planes of red, green and blue, as Caffe's own tool keeps them.
    `label` is fine or coarse, of CIFAR-100. Raises DataError.
    """
    batches = [_cifar(path, label) for path in paths]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return Pictures(images, labels.astype(np.int32), digits=max(5, len(str(len(images) - 1))))


def _cifar(path: Path, label: str) -> tuple[Array, Array]:
    size = path.stat().st_size
    check_room(2 * size, str(path))
    with open_regular(path) as file:
        data = np.frombuffer(file.read(), np.uint8)
    for width, highest in ((1, (9,)), (2, (19, 99))):
        if not size or size % (3072 + width):
            continue
        rows = data.reshape(-1, 3072 + width)
        if (rows[:, :width] <= highest).all():
            chosen = 0 if width == 1 or label == "coarse" else 1
            return rows[:, width:].reshape(-1, 3, 32, 32), rows[:, chosen]
    raise DataError(
        f"{str(path)!r} is no binary batch of CIFAR-10 (rows of 3073 bytes) or CIFAR-100 (3074): "
        "take the site's 'binary version'"
    )


def read_npz(path: Path, **choice: Any) -> Pictures:
    """Read pictures and labels of a NumPy archive; see `choose`. Raises DataError."""
    try:
        with open_regular(path) as raw, np.load(raw, allow_pickle=False) as archive:
            for name in archive.files:
                check_array(archive.zip, f"{name}.npy", path)
            reads = {name: partial(archive.__getitem__, name) for name in archive.files}
            return choose(reads, str(path), **choice)
    except FileNotFoundError:
        raise DataError(f"{str(path)!r} does not exist") from None
    except BROKEN_ARCHIVE as error:
        raise DataError(f"{str(path)!r} is damaged or no .npz: {error}") from None


def read_hdf5(path: Path, **choice: Any) -> Pictures:
    """Read pictures and labels of an HDF5 file; see `choose`. Raises DataError."""
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise DataError(
            f"{str(path)!r}: HDF5 needs the package h5py: pip install 'caffeio[hdf5]'"
        ) from None
    try:
        check_regular(path)
        with h5py.File(path, "r") as file:
            sets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
            for name, item in sets.items():
                check_room(int(item.nbytes), f"{path}: dataset {name!r}")
            reads = {name: partial(_whole, item) for name, item in sets.items()}
            return choose(reads, str(path), **choice)
    except FileNotFoundError:
        raise DataError(f"{str(path)!r} does not exist") from None
    except BROKEN_HDF5 as error:
        raise DataError(f"{str(path)!r} is damaged or no HDF5 file: {error}") from None


def _whole(dataset: Any) -> Array:
    return np.asarray(dataset[()])


def choose(
    arrays: Mapping[str, Callable[[], Array]],
    where: str,
    *,
    images: str | None = None,
    labels: str | None = None,
    layout: str | None = None,
) -> Pictures:
    """Take the pictures and the labels out of named arrays.

    images, labels: their names; by default data/images/x and label/labels/y. layout: NCHW, NHWC or
    NHW; by default NHW for three axes, else where 1, 3 or 4 stands. Raises DataError where that is
    not clear.
    """
    chosen = images or _named(arrays, IMAGE_NAMES, where, "images")
    names = {"--images": chosen, "--labels": labels or _named(arrays, LABEL_NAMES, where, None)}
    for option, name in names.items():
        if name is not None and name not in arrays:
            raise DataError(f"{where!r} has no array {name!r} ({option}): {_list(arrays)}")
    assert chosen is not None
    pixels = _as_nchw(arrays[chosen](), layout, f"{where}: {chosen}")
    numbers = None
    if names["--labels"] is not None:
        name = names["--labels"]
        numbers = _numbers(arrays[name](), f"{where}: {name}")
        if len(numbers) != len(pixels):
            raise DataError(f"{where!r}: {chosen} has {len(pixels)} rows, {name} {len(numbers)}")
    return Pictures(_values(pixels, f"{where}: {chosen}"), numbers)


def _named(
    arrays: Mapping[str, Any], usual: Sequence[str], where: str, needed: str | None
) -> str | None:
    found = [name for name in usual if name in arrays]
    if len(found) == 1 or (found and not needed):
        return found[0]
    if needed is None:
        return None
    if found:
        raise DataError(f"{where!r} has {', '.join(found)}: which are the {needed}? (--{needed})")
    raise DataError(f"{where!r}: which array are the {needed}? {_list(arrays)} (--{needed})")


def _list(arrays: Mapping[str, Any]) -> str:
    return "it has " + (", ".join(arrays) or "none")


def _as_nchw(array: Array, layout: str | None, where: str) -> Array:
    if layout is None and array.ndim == 4:
        first, last = array.shape[1] in (1, 3, 4), array.shape[3] in (1, 3, 4)
        if first == last:
            shape = format_shape(array.shape)
            raise DataError(f"{where} of shape {shape}: is it NCHW or NHWC? (--layout)")
        layout = "NCHW" if first else "NHWC"
    layout = layout or "NHW"
    if array.ndim != len(layout):
        raise DataError(f"{where} has {array.ndim} axes, and {layout} has {len(layout)}")
    if layout == "NHW":
        return array[:, None]
    return array if layout == "NCHW" else np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _values(array: Array, where: str | os.PathLike[str]) -> Array:
    """uint8 where all values are such, float32 of floats; others have no Datum."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind in "iub" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    raise DataError(f"{where}: values of type {array.dtype} beyond 0 to 255 have no Datum")


def _numbers(array: Array, where: str | os.PathLike[str]) -> Array:
    """Labels as int32: of integers, or of floats that are whole (HDF5Data has these)."""
    if array.size and array.size == len(array):
        array = array.reshape(-1)
        whole = array.astype(np.int32) if array.dtype.kind in "iubf" else None
        if whole is not None and (whole == array).all():
            return whole
    shape = format_shape(array.shape)
    raise DataError(f"{where} of {array.dtype} {shape} are no labels: one whole number a picture")
