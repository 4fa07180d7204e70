"""A new database of whatever data set a person has; the source's kind is told by its content."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.boost_random import CaffeRng
from caffeio.data.db.database import write_db
from caffeio.data.records.datum import encode_datum
from caffeio.data.transform.image import encode, planar, resize
from caffeio.errors import DataError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.regular import open_regular, read_regular
from caffeio.tools.imageset import Skipped, convert_lines, read_lines
from caffeio.tools.picture_arrays import (
    Pictures,
    read_cifar,
    read_hdf5,
    read_idx,
    read_npz,
)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ARRAY_OPTIONS = {"images", "labels", "layout"}
_LABEL = re.compile(rb"\S +[+-]?\d+\s*$")


@dataclass
class Made:
    """What was written: how many records, of which source, and the classes of folders."""

    records: int
    format: str
    shuffled: bool
    classes: list[str] = field(default_factory=list)
    left_out: int = 0  # pictures that could not be read


def format_of(path: Path) -> str:
    """Which of SOURCE_FORMATS a file or folder is. Raises DataError."""
    if path.is_dir():
        return "folders"
    try:
        with open_regular(path) as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    if (head[:2] == b"\0\0" and head[3:4] in (b"\1", b"\3", b"\4")) or (
        head[:2] == b"\x1f\x8b" and "idx" in path.name
    ):
        return "idx"
    if path.suffix == ".bin":
        return "cifar"
    if b"\0" in head or head[:2] == b"\x1f\x8b" or head[:1] == b"\x80":
        raise DataError(
            f"{str(path)!r} is no data set that is known here: a list of images (a path and a "
            "label a line), a folder of classes, MNIST's IDX, CIFAR's binary batches, .npz, HDF5"
        )
    return "list"


def create_db(
    sources: Sequence[str | os.PathLike[str]],
    database: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str = "LMDB",
    root: str | None = None,
    classes: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    images: str | None = None,
    layout: str | None = None,
    swap_colors: bool = False,
    gray: bool = False,
    shuffle: bool | None = None,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
    encode_type: str = "",
    skipped: Skipped | None = None,
) -> Made:
    """Write the pictures of a data set into a new database; returns what was made.

    sources: one list, folder or file; of CIFAR all batches. format: one of SOURCE_FORMATS, by
    default told by the content. root: put before the paths of a list (default: the list's folder
    and a slash). classes: of folders, a file of class names in the order of their labels; it is
    written if it is not there. labels, images, layout: of arrays; of IDX, `labels` is a file, of
    CIFAR-100 fine or coarse. swap_colors: of arrays, store BGR for RGB, as Caffe's nets for
    photographs expect. shuffle: by default only folders are, whose records would else stand class
    after class. size: (height, width) to resize to. encode_type: store image files (png, jpg) and
    no pixels. skipped: called with a message for each picture that cannot be read. Raises
    DataError.
    """
    paths = [Path(source) for source in sources]
    kind = format or format_of(paths[0])
    if len(paths) > 1 and kind != "cifar":
        raise DataError(
            f"several sources are only for CIFAR's batches; {str(paths[0])!r} is {kind}"
        )
    allowed = {"list": {"root", "gray"}, "folders": {"classes", "gray"}, "cifar": {"labels"},
               "idx": {"labels"}}.get(kind, _ARRAY_OPTIONS)  # fmt: skip
    if kind not in ("list", "folders"):
        allowed = allowed | {"swap_colors"}
    given = {"root": root, "classes": classes, "labels": labels, "images": images,
             "layout": layout, "gray": gray, "swap_colors": swap_colors}  # fmt: skip
    for name, value in given.items():
        if value and name not in allowed:
            raise DataError(f"--{name.replace('_', '-')} means nothing for a source of kind {kind}")
    rng = CaffeRng(int.from_bytes(os.urandom(4), "little") if seed is None else seed)
    shuffle = kind == "folders" if shuffle is None else shuffle
    if kind in ("list", "folders"):
        lines, names = _lines(kind, paths[0], classes)
        if shuffle:
            rng.shuffle(lines)
        height, width = size or (0, 0)
        left_out: list[str] = []
        count = convert_lines(
            _root(paths[0], root, kind), lines, database, gray=gray, resize_height=height,
            resize_width=width, encode_type=encode_type, backend=backend,
            skipped=_both(skipped, left_out), may_be_empty=False,
        )  # fmt: skip
        return Made(count, kind, shuffle, names, len(left_out))
    pictures = _pictures(kind, paths, labels, {"images": images, "layout": layout})
    order = list(range(len(pictures.images)))
    if shuffle:
        rng.shuffle(order)
    make = _maker(pictures, swap_colors, size, encode_type)
    return Made(write_db(database, _records(pictures, order, make), backend), kind, shuffle)


def _both(skipped: Skipped | None, left_out: list[str]) -> Skipped:
    """Count what is skipped, and tell the caller."""

    def note(message: str) -> None:
        left_out.append(message)
        if skipped is not None:
            skipped(message)

    return note


def _root(path: Path, root: str | None, kind: str) -> str:
    if root is not None:
        return root
    folder = path if kind == "folders" else path.parent
    return f"{folder}{os.sep}"


def _lines(
    kind: str, path: Path, classes: str | os.PathLike[str] | None
) -> tuple[list[tuple[str, int]], list[str]]:
    if kind == "list":
        return _labelled(path), []
    found = _class_folders(path)
    names = sorted(found)
    if classes is not None:
        file = Path(classes)
        if file.exists():
            names = [name for name in read_regular(file).decode().splitlines() if name.strip()]
            if unknown := sorted(found.keys() - set(names)):
                raise DataError(f"{str(path)!r} has classes that {str(file)!r} lacks: {unknown}")
        else:
            with atomic_write(file, error=DataError) as out:
                out.write("".join(f"{name}\n" for name in names).encode())
    lines = [(f"{name}/{p}", i) for i, name in enumerate(names) for p in found.get(name, ())]
    return lines, names


def _labelled(path: Path) -> list[tuple[str, int]]:
    """The lines of a list; one without a label is an error here, where Caffe takes 0."""
    for number, line in enumerate(read_regular(path).split(b"\n"), 1):
        if line.strip() and not _LABEL.search(line):
            shown = line.decode("utf-8", "backslashreplace")
            why = "a tab stands before the label" if b"\t" in line else "there is no label"
            raise DataError(f"{shown!r}: {why}; a line is a path, a blank and a number",
                            where=f"{path}:{number}")  # fmt: skip
    lines = [(name, label) for name, label in read_lines(path) if name.strip()]
    if not lines:
        raise DataError(f"{str(path)!r} names no image")
    return lines


def _class_folders(path: Path) -> dict[str, list[str]]:
    """Class -> its pictures, at any depth below, sorted."""
    found = {
        folder.name: sorted(
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if p.suffix.lower() in SUFFIXES and p.is_file()
        )
        for folder in path.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }
    empty = sorted(name for name, files in found.items() if not files)
    if not found or len(empty) == len(found):
        raise DataError(f"{str(path)!r} has no folders with pictures: one folder a class is wanted")
    if empty:
        raise DataError(f"{str(path)!r}: no pictures in {', '.join(empty)}")
    return found


def _pictures(kind: str, paths: list[Path], labels: str | None, choice: dict[str, Any]) -> Pictures:
    if kind == "idx":
        return read_idx(paths[0], Path(labels) if labels else None)
    if kind == "cifar":
        if labels not in (None, "fine", "coarse"):
            raise DataError(f"--labels of CIFAR-100 are fine or coarse, not {labels!r}")
        return read_cifar(paths, labels or "fine")
    reader: Callable[..., Pictures] = read_npz if kind == "npz" else read_hdf5
    return reader(paths[0], labels=labels, **choice)


def _maker(
    pictures: Pictures, swap_colors: bool, size: tuple[int, int] | None, encode_type: str
) -> Callable[[int], bytes]:
    """What makes the Datum of picture i."""
    images, labels = pictures.images, pictures.labels
    channels = images.shape[1]
    if swap_colors and channels not in (3, 4):
        raise DataError(f"--swap-colors is for pictures of 3 channels, these have {channels}")
    if images.dtype != np.uint8 and (size or encode_type):
        raise DataError("pictures of floating point numbers are neither resized nor encoded")
    if encode_type and channels not in (1, 3, 4):
        raise DataError(f"pictures of {channels} channels have no image files (--encode-type)")
    planes = [2, 1, 0, *range(3, channels)] if swap_colors else slice(None)

    def make(i: int) -> bytes:
        label = None if labels is None else int(labels[i])
        image = np.ascontiguousarray(images[i][planes])
        if images.dtype != np.uint8:
            return encode_datum(label=label, shape=image.shape, float_data=image.reshape(-1))
        if not (size or encode_type):
            return encode_datum(data=image, label=label)
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        if size:
            pixels = resize(pixels, size[1], size[0])
        if encode_type:
            return encode_datum(data=encode(pixels, encode_type), label=label, encoded=True)
        return encode_datum(data=planar(pixels), label=label)

    return make


def _records(
    pictures: Pictures, order: list[int], make: Callable[[int], bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Keys as Caffe's own tools give them: eight digits, of CIFAR five."""
    for place, i in enumerate(order):
        yield b"%0*d" % (pictures.digits, place), make(i)
