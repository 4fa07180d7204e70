"""Data layers from text, and small databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from google.protobuf import text_format

from caffeio.data import DataSource, make_source
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.proto import caffe_pb2 as pb


def layer(text: str) -> pb.LayerParameter:
    return text_format.Parse(text, pb.LayerParameter())


def net(path: Path) -> pb.NetParameter:
    return text_format.Parse(path.read_text(), pb.NetParameter())


def data_layer(source: Path | str, transform: str = "", batch: int = 4, more: str = "") -> Any:
    return layer(
        f'name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} '
        f'data_param {{ source: "{source}" batch_size: {batch} backend: LMDB {more} }}'
    )


def pixels(index: int, height: int = 8, width: int = 9, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(index)
    return rng.integers(0, 256, (channels, height, width), np.uint8)


def raw_lmdb(path: Path, count: int, **size: int) -> Path:
    """Records of random pixels; record i has label i."""
    write_lmdb(path, ((f"{i:08d}", encode_datum(data=pixels(i, **size), label=i, encoded=False))
                      for i in range(count)))  # fmt: skip
    return path


def photo(index: int, height: int, width: int) -> np.ndarray:
    """A smooth BGR image, different for each index."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / (7 + c) + index) + np.cos(y / (5 + index % 7) - c) for c in range(3)]
    return np.clip(np.stack(waves, -1) * 50 + 128, 0, 255).astype(np.uint8)


def jpeg_lmdb(path: Path, count: int, height: int = 70, width: int = 90) -> Path:
    def records() -> Iterator[tuple[str, bytes]]:
        for i in range(count):
            image = photo(i, height + i % 5, width - i % 3)
            data = cv2.imencode(".jpg", image)[1].tobytes()
            yield f"{i:08d}", encode_datum(data=data, label=i, encoded=True)

    write_lmdb(path, records())
    return path


def labels_of(source: DataSource, batches: int) -> list[int]:
    return [int(v) for _ in range(batches) for v in source.next()[1]]


__all__ = ["data_layer", "jpeg_lmdb", "labels_of", "layer", "make_source", "net", "photo", "pixels",
           "raw_lmdb"]  # fmt: skip
