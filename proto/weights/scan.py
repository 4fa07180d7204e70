"""Find layers and blobs in a binary NetParameter of any age, without reading the numbers."""

from __future__ import annotations

import os
from typing import NamedTuple

from caffeio.errors import ParseError, WeightsError
from caffeio.proto.io.blobs import BlobInfo, scan_blob
from caffeio.proto.io.wire import BYTES, VARINT, Buffer, fail, iter_fields, read_field, read_varint
from caffeio.proto.weights.mapping import LayerEntry

# V1LayerParameter.LayerType -> type of today (UpgradeV1LayerType of util/upgrade_proto.cpp)
_V1_TYPES = (
    "",
    "Accuracy",
    "BNLL",
    "Concat",
    "Convolution",
    "Data",
    "Dropout",
    "EuclideanLoss",
    "Flatten",
    "HDF5Data",
    "HDF5Output",
    "Im2col",
    "ImageData",
    "InfogainLoss",
    "InnerProduct",
    "LRN",
    "MultinomialLogisticLoss",
    "Pooling",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxWithLoss",
    "Split",
    "TanH",
    "WindowData",
    "Eltwise",
    "Power",
    "SigmoidCrossEntropyLoss",
    "HingeLoss",
    "MemoryData",
    "ArgMax",
    "Threshold",
    "DummyData",
    "Slice",
    "MVN",
    "AbsVal",
    "Silence",
    "ContrastiveLoss",
    "Exp",
    "Deconvolution",
)


class _Version(NamedTuple):
    """Field numbers of a layer message: name, type, blobs, and a nested older layer."""

    label: str
    name: int
    type: int
    blobs: int
    older: int


_V2 = _Version("V2", 1, 2, 7, 0)
_V1 = _Version("V1", 4, 5, 6, 1)
_V0 = _Version("V0", 1, 2, 50, 0)
_LAYERS, _LAYER = 2, 100  # of NetParameter
_NOT_ONE = "is not a caffemodel"
_TEXTS = (1, 2, 3, 8, 100)  # its fields that are length-delimited in every dialect


class NetScanner:
    """One walk over a NetParameter."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer, self.end = buffer, len(buffer)
        self.name = ""
        self.layers: list[LayerEntry] = []
        self.missing = 0  # bytes that the field at hand needs beyond the end of the file
        self.begin = self.field = 0  # place and number of the field at hand

    def scan(self) -> None:
        """Find name and layers; raises ParseError or IndexError where the file is wrong."""
        buf, end, pos = self.buffer, self.end, 0
        while pos < end:
            self.begin = pos
            key, pos = read_varint(buf, pos, end)
            number, wire_type = key >> 3, key & 7
            self.field = number
            if wire_type != BYTES:
                if number in _TEXTS:
                    fail(f"field {number} is not that of a net", self.begin)
                pos = read_field(buf, self.begin, end)[3]
                continue
            size, pos = read_varint(buf, pos, end)
            self.missing = max(0, pos + size - end)
            if self.missing:
                fail(f"field {number} needs {size} bytes", self.begin)
            if number == _LAYER:
                self.layers.append(self._layer(pos, pos + size, _V2))
            elif number == _LAYERS:
                self.layers.append(self._layer(pos, pos + size, _V1))
            elif number == 1:
                self.name = _decode(buf, pos, pos + size)
            elif not number:
                fail("field number 0", self.begin)
            pos += size

    def _layer(self, pos: int, end: int, version: _Version) -> LayerEntry:
        """The layer message in buffer[pos:end]; the hot path of loading."""
        buf = self.buffer
        label, name_number, type_number, blobs_number, older = version
        enum = type_number if version is _V1 else 0
        name = kind = ""
        blobs: list[BlobInfo] = []
        while pos < end:
            key = buf[pos]
            small = key & 0x87 == VARINT and 0 < key >> 3 != enum
            if small and pos + 1 < end and buf[pos + 1] < 0x80:  # a number of no interest
                pos += 2
                continue
            if key & 7 != BYTES or key > 0x7F:
                number, wire_type, value, pos = read_field(buf, pos, end)
                if isinstance(value, int):
                    if number == enum:
                        kind = _V1_TYPES[value] if value < len(_V1_TYPES) else str(value)
                    continue
                if wire_type != BYTES:
                    continue
                first, pos = value
            else:
                number = key >> 3
                size = buf[pos + 1]
                first = pos + 2
                if size > 0x7F:
                    size, first = read_varint(buf, pos + 1, end)
                pos = first + size
                if pos > end:
                    fail(f"field {number} of a layer has {size} bytes, more than the layer", first)
            if number == name_number:
                name = _decode(buf, first, pos)
            elif number == blobs_number:
                blobs.append(self._blob(first, pos, name, len(blobs)))
            elif number == type_number and version is not _V1:
                kind = _decode(buf, first, pos)
            elif older and number == older:
                nested = self._layer(first, pos, _V0)
                name, kind, label = nested.name or name, nested.type or kind, "V0"
                blobs += nested.blobs
        return LayerEntry(name, kind, blobs, label)

    def _blob(self, start: int, end: int, layer: str, index: int) -> BlobInfo:
        try:
            return scan_blob(self.buffer, start, end)
        except ParseError as error:
            named = f"layer {layer!r}" if layer else f"layer {len(self.layers)} of the file"
            raise ParseError(f"{named}, blob {index}: {error.message}", where=error.where) from None

    def explain(self, path: str | os.PathLike[str], error: Exception) -> WeightsError:
        """What the user reads: cut off (how many bytes are missing) or damaged, and where."""
        number = self.field if self.missing < 1 << 40 else 0
        other = "" if self.layers else other_kind(self.buffer)
        if self.missing and number in (1, _LAYERS, _LAYER) and not other:
            part = "the net's name" if number == 1 else f"layer {self._name_of_cut()}"
            text = (
                f"is cut off: {part}, which begins at byte {self.begin}, needs "
                f"{self.missing} bytes more than the file's {self.end}"
            )
            return WeightsError(text, where=str(path))
        if isinstance(error, ParseError):
            text = error.message + (f" ({error.where})" if error.where else "")
        else:
            text = f"it ends within a field, at byte {self.end}"
        kind = f"is damaged behind layer {self.layers[-1].name!r}" if self.layers else _NOT_ONE
        return WeightsError(f"{kind}: {text}{other}", where=str(path))

    def _name_of_cut(self) -> str:
        """The name of the layer that the end of the file cuts, if that is still there."""
        place = f"{len(self.layers)} of the file"
        try:
            _, start = read_varint(self.buffer, self.begin, self.end)
            _, start = read_varint(self.buffer, start, self.end)
            wanted = _V2.name if self.field == _LAYER else _V1.name
            for number, _, value in iter_fields(self.buffer, start, self.end):
                if number == wanted and not isinstance(value, int):
                    return f"{place} ({_decode(self.buffer, *value)!r})"
        except ParseError:
            pass
        return place


def _decode(buf: Buffer, start: int, end: int) -> str:
    return str(buf[start:end], "utf-8", "backslashreplace")


def other_kind(buf: Buffer) -> str:
    """Say which other file of Caffe's this is, judged by its first fields."""
    first: dict[int, int | tuple[int, int]] = {}
    try:
        for number, _, value in iter_fields(buf):
            first.setdefault(number, value)
            if len(first) == 4:
                break
    except ParseError:
        pass
    if isinstance(first.get(1), int) and isinstance(first.get(2), tuple):
        return "; it looks like a solver state: give the .caffemodel that belongs to it"
    if all(isinstance(first.get(n), int) for n in (1, 2, 3)):
        return "; it looks like a single blob (a mean file?)"
    return ""
