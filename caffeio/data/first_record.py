"""The first record of a data layer, where it can be reached: what shapes it has. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.data.transform.image_header import header_shape
from caffeio.errors import CaffeIOError
from caffeio.layers.sources import Record
from caffeio.proto.io.broken import BROKEN_HDF5
from caffeio.proto.io.regular import check_regular, open_regular, read_text_file

if TYPE_CHECKING:
    from caffeio.data.records.annotated_datum import AnnotatedDatum
    from caffeio.data.records.datum import Datum
    from caffeio.proto import caffe_pb2 as pb
    from caffeio.proto.caffe_pb2 import LayerParameter

Shape = tuple[int, ...]
Opener = Callable[[str], Path | None]
_LINE, _TAIL, _PICTURE = 1 << 16, 1 << 20, 1 << 26  # bytes


def opener(search_path: Sequence[str | os.PathLike[str]]) -> Opener:
    """Make a function that finds a file from the working directory, then from `search_path`."""

    def find(name: str) -> Path | None:
        if not name:
            return None
        for folder in ("", *search_path):
            path = Path(folder, name)
            if path.exists():
                return path
        return None

    return find


def first_record(param: LayerParameter, find: Opener) -> Record | None:
    """Look at what data layer `param` reads first; None where it cannot be reached."""
    look = _LOOK.get(param.type)
    if look is None or param.input_param.shape:
        return None
    try:
        return look(param, find)
    except (CaffeIOError, LookupError, *BROKEN_HDF5):
        return None


def _data(param: LayerParameter, find: Opener) -> Record | None:
    path = find(param.data_param.source)
    annotated = first_datum(path, annotated=param.type == "AnnotatedData") if path else None
    if annotated is None:
        return None
    typed = annotated.has_type or param.annotated_data_param.HasField("anno_type")
    return Record(
        (_loaded(annotated.datum, param),),
        f"first record of {path}",
        max(1, len(annotated.boxes)) if typed else None,
    )


def first_datum(path: Path, *, annotated: bool = False) -> AnnotatedDatum | None:
    """Read the first record of an LMDB or LevelDB (by key); None if it is no database."""
    from caffeio.data.db.database import open_db
    from caffeio.data.records.annotated_datum import AnnotatedDatum, scan_annotated
    from caffeio.data.records.datum import scan_datum

    backend = "LMDB" if (path / "data.mdb").is_file() else "LEVELDB"
    if backend == "LEVELDB" and not (path / "CURRENT").is_file():
        return None
    db = open_db(str(path), backend)
    try:
        value = bytes(db.cursor().item()[1])
        return scan_annotated(value) if annotated else AnnotatedDatum(scan_datum(value), [])
    finally:
        db.close()


def _loaded(datum: Datum, param: LayerParameter) -> Shape:
    """(C, H, W) of a record's image as the transformer gets it."""
    t = param.transform_param
    return datum_shape(datum, color=True if t.force_color else False if t.force_gray else None)


def datum_shape(datum: Datum | pb.Datum, color: bool | None = None) -> Shape:
    """(C, H, W) of a Datum; an encoded one as it is decoded: in colour, in gray, or as it is."""
    if datum.encoded:
        return picture_shape(bytes(datum.data), color)
    return (datum.channels, datum.height, datum.width)


def picture_shape(data: bytes, color: bool | None = None) -> Shape:
    """(C, H, W) of an image file as OpenCV decodes it; by its header where that tells.

    Raises DataError for what is no image.
    """
    found = header_shape(data, color)
    if found is not None:
        return found
    from caffeio.data.transform.image import COLOR, GRAY, NATIVE, decode

    image = decode(data, NATIVE if color is None else COLOR if color else GRAY)
    return (1 if image.ndim == 2 else image.shape[2], *image.shape[:2])


def _image_data(param: LayerParameter, find: Opener) -> Record | None:
    """Look at the first image of the list; a shuffled list begins anywhere."""
    from caffeio.data.records.image_list import parse_list

    p = param.image_data_param
    listing = find(p.source)
    if listing is None or p.shuffle or p.rand_skip:
        return None
    with open_regular(listing) as lines:
        [(name, _)] = parse_list(lines.readline(_LINE))
    image = find(p.root_folder + name)
    if image is None:
        return None
    with open_regular(image) as file:
        return Record(
            (picture_shape(file.read(_PICTURE), p.is_color),), f"first image of {listing}"
        )


def _window_data(param: LayerParameter, find: Opener) -> Record | None:
    """Read the last block's number of channels, which counts for all."""
    path = find(param.window_data_param.source)
    if path is None:
        return None
    with open_regular(path) as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        words = file.read(_TAIL).rpartition(b"#")[2].split()
    return Record(((int(words[2]), int(words[3]), int(words[4])),), f"last image of {path}")


def _hdf5_data(param: LayerParameter, find: Opener) -> Record | None:
    """Read the shapes of the first file's datasets, which are named as the tops."""
    listing = find(param.hdf5_data_param.source)
    if listing is None:
        return None
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        return None
    first = find(read_text_file(listing).split()[0])
    if first is None:
        return None
    check_regular(first)
    with h5py.File(first, "r") as file:
        shapes = tuple(tuple(map(int, file[name].shape[1:])) for name in param.top)
    return Record(shapes, f"datasets of {first}")


_LOOK: dict[str, Callable[[LayerParameter, Opener], Record | None]] = {
    "AnnotatedData": _data,
    "Data": _data,
    "HDF5Data": _hdf5_data,
    "ImageData": _image_data,
    "WindowData": _window_data,
}
