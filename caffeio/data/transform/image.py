"""Encoded images -> pixels as real Caffe's OpenCV makes them; resizing, exact or fast.

Sources: src/caffe/util/io.cpp (DecodeDatumToCVMat*, ReadImageToCVMat). JPEGs go through simplejpeg,
whose pixels are the same bits; everything else, and whatever it refuses, through OpenCV.
"""

from __future__ import annotations

import os
from typing import Any

from caffeio.data.transform import image_header
from caffeio.data.transform.image_header import check_pixels, within_limit
from caffeio.data.transform.jpeg_top import Frame, decode_top, plain_frame, simplejpeg
from caffeio.errors import DataError
from caffeio.proto.io.regular import read_regular

# For the formats whose headers are not looked at here. It is read when OpenCV is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(image_header.MAX_PIXELS))

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W) or (H, W, C), BGR
Buffer = bytes | bytearray | memoryview

NATIVE, GRAY, COLOR = cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE, cv2.IMREAD_COLOR
INTERPOLATION = {
    "LINEAR": cv2.INTER_LINEAR,
    "AREA": cv2.INTER_AREA,
    "NEAREST": cv2.INTER_NEAREST,
    "CUBIC": cv2.INTER_CUBIC,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}

cv2.setNumThreads(0)  # images are worked on in parallel, not parts of one


def set_ipp(on: bool) -> bool:
    """Let OpenCV use Intel IPP in this thread or not; returns what was set before.

    With IPP, INTER_CUBIC is about four times faster and differs by 1 in about 2 % of the pixels
    from the OpenCV that real Caffe is built with; nothing else that is used here differs.
    """
    if not hasattr(cv2, "ipp"):
        return False  # an OpenCV without IPP (not x86)
    before = bool(cv2.ipp.useIPP())
    if before != on:
        cv2.ipp.setUseIPP(on)
    return before


def uses_ipp() -> bool:
    """Whether OpenCV uses Intel IPP in this thread."""
    return hasattr(cv2, "ipp") and bool(cv2.ipp.useIPP())


def decode(data: Buffer, flag: int = NATIVE) -> Pixels:
    """Decode an image file to uint8 (H, W) or (H, W, C), BGR(A).

    NATIVE keeps the file's channels and ignores EXIF rotation; COLOR and GRAY convert and obey it.
    Raises DataError for broken files and for more than 8 bits a channel.
    """
    check_pixels(data)
    image: Any = _decode_jpeg(data, flag) if bytes(data[:2]) == b"\xff\xd8" else None
    if image is None:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if len(data) else None
        except cv2.error as error:
            raise DataError(f"cannot decode the image ({len(data)} bytes): {error.err}") from None
    if image is None:
        head = bytes(data[:8]).hex(" ")
        raise DataError(f"cannot decode the image ({len(data)} bytes, beginning {head})")
    if image.dtype != np.uint8:
        raise DataError(f"image data type must be unsigned byte, this image has {image.dtype}")
    return np.asarray(image)


def encoded_size(data: Buffer, flag: int = NATIVE) -> tuple[int, int]:
    """Height and width of an `Encoded` image, from the header where that tells."""
    frame = _upright_frame(data, flag)
    if frame is not None:
        return frame.height, frame.width
    head = bytes(data[:26])
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26:
        return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
    if head[:2] == b"\xff\xd8" and simplejpeg is not None and not _turned(data, flag):
        try:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            return int(height), int(width)
        except ValueError:
            pass
    image = decode(data, flag)
    return image.shape[0], image.shape[1]


def _turned(data: Buffer, flag: int) -> bool:
    """Whether EXIF may tell that a JPEG is to be turned."""
    return flag != NATIVE and b"Exif" in bytes(data[:65536])


def _upright_frame(data: Buffer, flag: int) -> Frame | None:
    """The frame of a JPEG whose upper rows can be decoded alone; None for all other files."""
    frame = plain_frame(data)
    if frame is None or not within_limit(frame.height, frame.width):
        return None  # `decode` says what is wrong
    return None if _turned(data, flag) else frame


def _decode_jpeg(
    data: Buffer, flag: int, frame: Frame | None = None, rows: int = 0
) -> Pixels | None:
    """A plain JPEG by simplejpeg, all of it or `rows` of it; None where OpenCV has to do it."""
    if simplejpeg is None:
        return None
    try:
        components = frame.colours if frame is not None else ""
        components = components or simplejpeg.decode_jpeg_header(data)[2]
        if components not in ("Gray", "YCbCr", "RGB"):
            return None
        gray = flag == GRAY or (flag == NATIVE and components == "Gray")
        if components == "RGB" and gray:
            return None
        if _turned(data, flag):
            return None
        space = "GRAY" if gray else "BGR"
        image: Pixels | None = None
        if frame is not None:
            image = decode_top(data, frame, rows, space)
        if image is None:
            image = simplejpeg.decode_jpeg(data, colorspace=space)
    except ValueError:
        return None  # OpenCV is more forgiving, and its messages are Caffe's
    return image[:, :, 0] if gray else image


class Encoded:
    """An image file in memory, decoded as far down as it is needed.

    `height` and `width` are those of what `decode` gives, from the header where that tells: then
    nothing is decoded yet, and damage below the rows that are needed stays unnoticed.
    """

    def __init__(self, data: Buffer, flag: int = NATIVE, path: str = "") -> None:
        self._data, self._flag, self._path = data, flag, path
        self._pixels: Pixels | None = None
        self._frame = _upright_frame(data, flag)
        if self._frame is None:
            self._pixels = self._whole()
            self.height, self.width = self._pixels.shape[:2]
        else:
            self.height, self.width = self._frame.height, self._frame.width

    def _whole(self) -> Pixels:
        try:
            return decode(self._data, self._flag)
        except DataError as error:
            if not self._path:
                raise
            raise DataError(f"could not load {self._path!r}: {error.message}") from None

    def top(self, rows: int) -> Pixels:
        """At least the first `rows` rows."""
        if self._pixels is None or len(self._pixels) < rows:
            assert self._frame is not None
            found = _decode_jpeg(self._data, self._flag, self._frame, rows)
            self._pixels = self._whole() if found is None else found
        return self._pixels


def open_image(path: str, *, color: bool) -> Encoded:
    """Open an image file as Caffe's ReadImageToCVMat does: BGR or gray, EXIF rotation obeyed."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise DataError(f"could not load {path!r}: {error.strerror}") from None
    return Encoded(data, COLOR if color else GRAY, path)


def read_image(path: str, *, color: bool) -> Pixels:
    """Read all of an image file: `open_image`, decoded."""
    image = open_image(path, color=color)
    return image.top(image.height)


def check_size(width: int, height: int) -> None:
    """Raise DataError for a size that no image can have."""
    if width <= 0 or height <= 0:
        raise DataError(f"cannot resize an image to width {width}, height {height}")


def resize(image: Pixels, width: int, height: int, interpolation: int = cv2.INTER_LINEAR) -> Pixels:
    """OpenCV's resize, as Caffe calls it."""
    check_size(width, height)
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))


def encode(image: Pixels, kind: str) -> bytes:
    """Encode as OpenCV does with its default quality (JPEG: 95); `kind` is "jpg", "png" ..."""
    try:
        ok, out = cv2.imencode(f".{kind}", image)
    except cv2.error as error:
        raise DataError(f"cannot encode an image as {kind!r}: {error.err}") from None
    if not ok:
        raise DataError(f"cannot encode an image as {kind!r}")
    return bytes(out)


def planar(image: Pixels) -> Pixels:
    """(H, W) or (H, W, C) -> contiguous (C, H, W), the order of a Datum."""
    return np.ascontiguousarray(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
