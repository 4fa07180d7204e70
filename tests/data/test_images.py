"""ImageData: the list, sizes, shuffling, skipping, and files that are not there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.data.records.image_list import parse_list
from caffeio.data.sources.image_data import resize_listed
from caffeio.data.transform.image import read_image
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb
from tests.data.helpers import labels_of, layer, make_source, photo


def test_list_lines() -> None:
    lines = b"a b/c 1.png 7\nx.jpg\t 12 \r\nnoblank\n\ny.png -3\nz.png 4x5\nq.png abc\nlast.png +2"
    assert parse_list(lines) == [
        ("a b/c 1.png", 7), ("x.jpg\t 12", 0), ("noblank", 0), ("", 0), ("y.png", -3),
        ("z.png", 4), ("q.png", 0), ("last.png", 2),
    ]  # fmt: skip


@given(st.binary(max_size=80))
def test_any_bytes_are_a_list(data: bytes) -> None:
    assert len(parse_list(data)) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def test_min_height_and_min_width() -> None:
    p = pb.ImageDataParameter(min_height=30, min_width=30)
    assert resize_listed(photo(0, 40, 40), p).shape[:2] == (40, 40)
    assert resize_listed(photo(0, 20, 40), p).shape[:2] == (30, 60)
    assert resize_listed(photo(0, 25, 10), p).shape[:2] == (75, 30)


def images(folder: Path, count: int = 6) -> Path:
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), photo(i, 12, 14))
    (folder / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(count)))
    return folder / "list.txt"


def image_layer(
    folder: Path, more: str = "batch_size: 4", transform: str = ""
) -> pb.LayerParameter:
    return layer(
        f'name: "d" type: "ImageData" top: "data" top: "label" transform_param {{ {transform} }} '
        f'image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" {more} }}'
    )


def test_pixels_and_wrap(tmp_path: Path) -> None:
    images(tmp_path)
    with make_source(image_layer(tmp_path)) as source:
        data, _ = source.next()
        assert np.array_equal(
            data[2].numpy(), photo(2, 12, 14).transpose(2, 0, 1).astype(np.float32)
        )
        assert labels_of(source, 2) == [4, 5, 0, 1, 2, 3, 4, 5]
        assert source.epoch_size == 6


def test_shuffled_passes_and_ranks(tmp_path: Path) -> None:
    images(tmp_path)
    seen = []
    for rank in range(2):
        with make_source(image_layer(tmp_path, "batch_size: 3 shuffle: true"), rank=rank, world=2,
                         shared_seed=1) as source:  # fmt: skip
            labels = labels_of(source, 6)
        assert all(sorted(labels[i : i + 6]) == list(range(6)) for i in (0, 6, 12))
        seen.append(tuple(labels))
    assert len(set(seen)) == 2  # each rank reads the whole list in an order of its own


def test_rand_skip(tmp_path: Path) -> None:
    images(tmp_path)
    first = set()
    for seed in range(30):
        with make_source(image_layer(tmp_path, "rand_skip: 3"), shared_seed=seed) as source:
            first.add(labels_of(source, 1)[0])
    assert first == {0, 1, 2}
    with pytest.raises(DataError, match="not enough images to skip"):
        for seed in range(30):
            make_source(image_layer(tmp_path, "rand_skip: 99"), shared_seed=seed)


def test_missing_image(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "4.png").unlink()
    (tmp_path / "5.png").write_bytes(b"nothing")
    with make_source(image_layer(tmp_path, "batch_size: 2")) as source:
        labels_of(source, 2)
        with pytest.raises(DataError, match=r"image '4\.png': could not load .*No such file"):
            source.next()
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match="could not load"):
        make_source(image_layer(tmp_path))
    with pytest.raises(DataError, match="cannot decode"):
        read_image(str(tmp_path / "5.png"), color=True)


@pytest.mark.parametrize(
    ("more", "message"),
    [("new_height: 3", "same time"), ("min_width: 3", "same time"), ("batch_size: 0", "positive")],
)
def test_refusals(tmp_path: Path, more: str, message: str) -> None:
    images(tmp_path)
    with pytest.raises(DataError, match=message):
        make_source(image_layer(tmp_path, more))


def test_empty_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(DataError, match="is empty"):
        make_source(image_layer(tmp_path))


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 4), np.uint16))
    from caffeio.data.transform.image import decode

    with pytest.raises(DataError, match="unsigned byte"):
        decode((tmp_path / "deep.png").read_bytes())
    assert read_image(str(tmp_path / "deep.png"), color=False).dtype == np.uint8


def test_alpha_is_kept_by_native_decoding(tmp_path: Path) -> None:
    from caffeio.data.transform.image import COLOR, decode

    image = np.dstack([photo(0, 5, 6), np.full((5, 6), 9, np.uint8)])
    data = cv2.imencode(".png", image)[1].tobytes()
    assert np.array_equal(decode(data), image)
    assert decode(data, COLOR).shape == (5, 6, 3)
