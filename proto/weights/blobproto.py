"""Single blobs in a file: the mean images that compute_image_mean writes (.binaryproto)."""

from __future__ import annotations

import os

from caffeio.errors import CaffeIOError, DataError, ParseError, SnapshotError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import Array, scan_blob, view
from caffeio.proto.io.mapped import foreign, map_file
from caffeio.proto.io.stream import blob_parts, size_of, write_parts


def read_blobproto(path: str | os.PathLike[str], *, error: type[CaffeIOError] = DataError) -> Array:
    """Read a BlobProto file as a read-only array that is a view of the mapped file.

    Its shape is (num, channels, height, width) if the file gives these, as mean files do. Raises
    `error` if the file is missing, cut off, not a blob, or its shape and its values do not agree.
    """
    buffer = map_file(path, error, "a .binaryproto")
    if kind := foreign(buffer):
        raise error(f"{kind}; a .binaryproto was expected", where=str(path))
    try:
        blob = scan_blob(buffer, 0, len(buffer))
        return view(buffer, blob.shape, blob.data)
    except ParseError as problem:
        place = f" ({problem.where})" if problem.where else ""
        message = f"is cut off or is no BlobProto: {problem.message}{place}"
        raise error(message, where=str(path)) from None


def write_blobproto(
    path: str | os.PathLike[str], array: Array, *, legacy: bool = True, sync: bool = True
) -> None:
    """Write one array as a BlobProto file.

    `legacy` gives up to 4 axes as num, channels, height, width (missing leading ones are 1), as
    compute_image_mean does and every Caffe reads; else, and for more axes, as `shape`.
    Raises SnapshotError if it cannot be written, or if Caffe has no such blob.
    """
    try:
        parts = blob_parts(array, legacy=legacy and array.ndim <= 4)
    except ValueError as problem:
        raise SnapshotError(f"cannot be written: {problem}", where=str(path)) from None
    with atomic_write(path, sync=sync, needed=size_of(parts)) as file:
        write_parts(file, parts, sync=sync)
