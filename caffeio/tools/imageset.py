"""What Caffe's tools do with databases: convert_imageset and compute_image_mean.

Sources: tools/convert_imageset.cpp, tools/compute_image_mean.cpp, src/caffe/util/io.cpp; of
encoded images also those of Intel's fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.boost_random import CaffeRng
from caffeio.data.db.database import open_db, write_db
from caffeio.data.records.datum import Datum, encode_datum, scan_datum
from caffeio.data.records.image_list import parse_list
from caffeio.data.transform.image import NATIVE, Pixels, decode, encode, planar, read_image, resize
from caffeio.errors import DataError
from caffeio.log.glog import NULL_LOG, Log
from caffeio.proto.io.regular import read_regular

Skipped = Callable[[str], None]


def convert_imageset(
    root: str,
    listing: str | os.PathLike[str],
    database: str | os.PathLike[str],
    *,
    gray: bool = False,
    shuffle: bool = False,
    seed: int | None = None,
    resize_height: int = 0,
    resize_width: int = 0,
    check_size: bool = False,
    encoded: bool = False,
    encode_type: str = "",
    intel: bool = False,
    backend: str = "LMDB",
    skipped: Skipped | None = None,
    log: Log = NULL_LOG,
) -> int:
    """Write the images of a list into a new database (`backend` LMDB or LEVELDB); returns how many.

    root: put before each path as it is. Lines are `path label`. Keys are the line's number (after
    shuffling), eight digits, `_` and the path. Images are resized (bilinear) only if both sizes are
    given. encoded: keep image files, as they are where their extension is encode_type (their own
    type if that is empty) and nothing is resized. intel: that fork's encoded records (sizes are
    told, more images are encoded again). skipped: called with a message for each unreadable image;
    its number is used up. check_size: DataError where the bytes of a record are not those of the
    first one's size. seed: of the shuffling generator. log: gets the lines of Caffe's tool.
    """
    lines = read_lines(listing)
    if shuffle:
        log.info("convert_imageset.cpp:86", "Shuffling data")
        rng = CaffeRng(int.from_bytes(os.urandom(4), "little") if seed is None else seed)
        rng.shuffle(lines)
    return convert_lines(
        root, lines, database, gray=gray, resize_height=resize_height, resize_width=resize_width,
        check_size=check_size, encoded=encoded, encode_type=encode_type, intel=intel,
        backend=backend, skipped=skipped, log=log,
    )  # fmt: skip


def read_lines(listing: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """The (path, label) pairs of a list of images."""
    return parse_list(read_regular(listing))


def convert_lines(
    root: str,
    lines: list[tuple[str, int]],
    database: str | os.PathLike[str],
    *,
    gray: bool = False,
    resize_height: int = 0,
    resize_width: int = 0,
    check_size: bool = False,
    encoded: bool = False,
    encode_type: str = "",
    intel: bool = False,
    backend: str = "LMDB",
    skipped: Skipped | None = None,
    may_be_empty: bool = True,
    log: Log = NULL_LOG,
) -> int:
    """As `convert_imageset`, of (path, label) pairs in the order that they are to have.

    may_be_empty: Caffe's tool writes an empty database where no picture can be read; without it,
    that is a DataError.
    """
    log.info("convert_imageset.cpp:89", f"A total of {len(lines)} images.")
    if encode_type:
        log.info("convert_imageset.cpp:92", "encode_type specified, assuming encoded=true.")
    size = (resize_width, resize_height) if resize_width > 0 and resize_height > 0 else None
    touched = resize_width > 0 or resize_height > 0
    read = _encoded_intel if intel else _encoded_bvlc

    def records() -> Iterator[tuple[bytes, bytes]]:
        first, count = -1, 0
        for number, (name, label) in enumerate(lines):
            kind = encode_type or (_extension(name, dot=intel) if encoded else "")
            try:
                if kind:
                    datum = read(root + name, label, kind, not gray, size, touched)
                else:
                    pixels = _sized(read_image(root + name, color=not gray), size)
                    datum = encode_datum(data=planar(pixels), label=label, encoded=False)
            except DataError as error:
                if skipped is not None:
                    skipped(error.message)
                continue
            if check_size:
                first = _check_size(datum, first, name)
            yield b"%08d_" % number + os.fsencode(name), datum
            count += 1
            if count % 1000 == 0:
                log.info("convert_imageset.cpp:147", f"Processed {count} files.")
        if not (count or may_be_empty):
            raise DataError(
                f"none of {len(lines)} pictures can be read: {str(database)!r} is not made"
            )

    place = {"LMDB": "db_lmdb.cpp:35", "LEVELDB": "db_leveldb.cpp:18"}.get(backend, "db.cpp:1")
    log.info(place, f"Opened {backend.lower()} {os.fspath(database)}")
    count = write_db(database, records(), backend)
    if count % 1000:
        log.info("convert_imageset.cpp:153", f"Processed {count} files.")
    return count


def _sized(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    return resize(pixels, *size) if size else pixels


def _extension(name: str, *, dot: bool) -> str:
    """The lower-case extension; Intel's guess keeps its dot, so that it never matches."""
    _, point, ending = name.rpartition(".")
    return ("." if dot and point else "") + ending.lower()


def _same_type(name: str, kind: str) -> bool:
    ending = _extension(name, dot=False)
    return ending == kind.lower() or (kind.lower() == "jpg" and ending == "jpeg")


def _verbatim(path: str, label: int, shape: tuple[int, ...] | None = None) -> bytes:
    return encode_datum(data=read_regular(path), label=label, encoded=True, shape=shape)


def _encoded_bvlc(
    path: str, label: int, kind: str, color: bool, size: tuple[int, int] | None, touched: bool
) -> bytes:
    pixels = read_image(path, color=color)
    if not touched and _same_type(path, kind):
        return _verbatim(path, label)
    return encode_datum(data=encode(_sized(pixels, size), kind), label=label, encoded=True)


def _encoded_intel(
    path: str, label: int, kind: str, color: bool, size: tuple[int, int] | None, touched: bool
) -> bytes:
    try:
        pixels = decode(read_regular(path), NATIVE)
    except OSError as error:
        raise DataError(f"could not load {path!r}: {error.strerror}") from None
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    convert = channels == 4 or (channels == 1) == color
    if not convert and not size and _same_type(path, kind):
        return _verbatim(path, label, (channels, *pixels.shape[:2]))
    pixels = _sized(pixels, size)
    codes = {
        (1, True): cv2.COLOR_GRAY2BGR, (3, False): cv2.COLOR_BGR2GRAY,
        (4, True): cv2.COLOR_BGRA2BGR, (4, False): cv2.COLOR_BGRA2GRAY,
    }  # fmt: skip
    if convert:
        pixels = np.asarray(cv2.cvtColor(pixels, codes[channels, color]), np.uint8)
    return encode_datum(data=encode(pixels, kind.lstrip(".")), label=label, encoded=True)


def _check_size(record: bytes, first: int, name: str) -> int:
    """The number of values that the first record's sizes tell; DataError for another number."""
    datum = scan_datum(record)
    if first < 0:
        return datum.channels * datum.height * datum.width
    if len(datum.data) != first:
        raise DataError(f"{name!r}: incorrect data field size {len(datum.data)}, expected {first}")
    return first


def compute_image_mean(
    database: str, backend: str = "LMDB", log: Log = NULL_LOG
) -> NDArray[np.float32]:
    """The mean of all records of a database, (C, H, W) float32, summed in key order in float32.

    `caffeio.proto.weights.blobproto.write_blobproto` writes it as the tool does.

    Raises DataError where a record has another number of values than the first one.
    """
    db = open_db(database, backend)
    place = {"LMDB": "db_lmdb.cpp:35", "LEVELDB": "db_leveldb.cpp:18"}[backend]
    log.info(place, f"Opened {backend.lower()} {database}")
    try:
        cursor = db.cursor()
        total: NDArray[np.float32] | None = None
        count = 0
        log.info("compute_image_mean.cpp:70", "Starting iteration")
        while True:
            key, value = cursor.item()
            try:
                values = _values(scan_datum(value))
            except DataError as error:
                message = f"{database!r}, key {bytes(key)!r}: {error.message}"
                raise DataError(message) from None
            if total is None:
                total = np.zeros(values.shape, np.float32)
            if values.size != total.size:
                raise DataError(
                    f"{database!r}, key {bytes(key)!r}: incorrect data field size {values.size}, "
                    f"expected {total.size}"
                )
            total += values.reshape(total.shape)
            count += 1
            going = cursor.advance()
            if count % 10000 == 0:
                log.info("compute_image_mean.cpp:96", f"Processed {count} files.")
            if not going:
                if count % 10000:
                    log.info("compute_image_mean.cpp:101", f"Processed {count} files.")
                return total / np.float32(count)
    finally:
        db.close()


def _values(datum: Datum) -> NDArray[np.uint8] | NDArray[np.float32]:
    return planar(decode(datum.data)) if datum.encoded else datum.pixels()


def mean_values(mean: NDArray[np.float32]) -> list[float]:
    """The mean of each channel, summed in float32 as compute_image_mean logs it."""
    flat = mean.reshape(len(mean), -1)
    sums = np.add.accumulate(flat, axis=1, dtype=np.float32)[:, -1]
    return [float(s / np.float32(flat.shape[1])) for s in sums]
