"""The upper rows of a JPEG are those of the whole JPEG, also of a damaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.boost_random import CaffeRng
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.data.transform.image import COLOR, NATIVE, Encoded, decode
from caffeio.data.transform.jpeg_top import decode_top, plain_frame
from caffeio.errors import DataError
from caffeio.profiles import INTEL
from tests.data.helpers import data_layer, layer, make_source, photo

SAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]
PROGRESSIVE, RESTARTS = cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL


def jpeg(seed: int, height: int, width: int, sampling: str, quality: int = 90) -> bytes:
    image = photo(seed, height, width)
    if sampling == "Gray":
        plane = np.ascontiguousarray(image[:, :, :1])
        return bytes(simplejpeg.encode_jpeg(plane, quality, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(image, quality, "BGR", sampling))


@settings(deadline=None)
@given(
    seed=st.integers(0, 9), height=st.integers(40, 130), width=st.integers(1, 90),
    quality=st.integers(20, 98), rows=st.integers(1, 90),
)  # fmt: skip
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rows_of_the_whole(
    sampling: str, seed: int, height: int, width: int, quality: int, rows: int
) -> None:
    data = jpeg(seed, height, width, sampling, quality)
    frame = plain_frame(data)
    assert frame is not None
    assert (frame.height, frame.width) == (height, width)
    whole = decode(data)
    found = decode_top(data, frame, rows, "GRAY" if whole.ndim == 2 else "BGR")
    if found is None:
        assert height - rows < 24 + frame.unit + 1
        return
    assert rows <= len(found) < height
    assert np.array_equal(found.reshape(-1, *whole.shape[1:])[:rows], whole[:rows])


def as_rgb(data: bytes) -> bytes:
    """The same file with components that are called R, G and B."""
    file = bytearray(data)
    for marker, first in ((b"\xff\xc0", 10), (b"\xff\xda", 5)):
        at, step = file.index(marker) + first, 3 if first == 10 else 2
        file[at : at + 3 * step : step] = b"RGB"
    return bytes(file)


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_colours_are_known_where_the_head_tells(sampling: str) -> None:
    data = jpeg(3, 60, 40, sampling)
    end = 4 + int.from_bytes(data[4:6], "big")
    assert data[2:4] == b"\xff\xe0"  # JFIF
    bare = data[:2] + data[end:]
    files = [data, bare, data[:end] + adobe(0) + data[end:], data[:2] + adobe(0) + data[end:]]
    files.append(data.replace(b"JFIF", b"JFIX"))
    if sampling != "Gray":
        files += [as_rgb(file) for file in files]
    known = []
    for file in files:
        frame = plain_frame(file)
        assert frame is not None
        found = simplejpeg.decode_jpeg_header(file)[2]
        known.append(frame.colours != "")
        assert frame.colours in ("", found)
        assert np.array_equal(Encoded(file).top(60), decode(file))
    assert known[0]
    assert all(known) == (sampling == "Gray")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_files_give_the_same_rows_or_are_left_to_the_full_decoder(
    data: st.DataObject,
) -> None:
    good = jpeg(1, 120, 61, data.draw(st.sampled_from(SAMPLINGS)))
    file = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(2, len(file) - 3))
        kind = data.draw(st.sampled_from(["byte", "marker", "gap", "more"]))
        if kind == "byte":
            file[at] = data.draw(st.integers(0, 255))
        elif kind == "marker":
            file[at : at + 2] = bytes([0xFF, data.draw(st.integers(0xC0, 0xFF))])
        elif kind == "gap":
            del file[at : min(at + 20, len(file) - 2)]
        else:
            file[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    try:
        whole = decode(bytes(file))
    except DataError:
        whole = None
    try:
        encoded = Encoded(bytes(file))
        rows = data.draw(st.integers(1, encoded.height))
        top = encoded.top(rows)
    except DataError:
        assert whole is None
        return
    assert whole is not None
    assert (encoded.height, encoded.width) == whole.shape[:2]
    assert np.array_equal(top[:rows], whole[:rows])


def test_what_is_left_to_the_full_decoder() -> None:
    pixels = photo(2, 90, 70)
    kinds = {
        "progressive": cv2.imencode(".jpg", pixels, [PROGRESSIVE, 1])[1].tobytes(),
        "restarts": cv2.imencode(".jpg", pixels, [RESTARTS, 2])[1].tobytes(),
        "png": cv2.imencode(".png", pixels)[1].tobytes(),
    }
    for kind, data in kinds.items():
        assert plain_frame(data) is None, kind
        assert np.array_equal(Encoded(data).top(5), decode(data)), kind
    plain = jpeg(2, 90, 70, "420")
    image = Encoded(plain)
    assert len(image.top(5)) < 90
    assert np.array_equal(image.top(90), decode(plain))  # more than before
    with pytest.raises(DataError, match="cannot decode"):
        Encoded(plain[:-40])
    turned = plain[:2] + b"\xff\xe1\x00\x08Exif\0\0" + plain[2:]
    assert len(Encoded(turned, NATIVE).top(5)) < 90
    assert len(Encoded(turned, COLOR).top(5)) == 90


WINDOW = "random_aspect_ratio_param { min_area_ratio: 0.05 max_area_ratio: 0.5 "
SIDE = "random_resize_param { min_size: 30 max_size: 60 "
CUBIC = "resize_param { interp_mode: CUBIC } "


@pytest.mark.parametrize(
    "transform",
    ["mirror: true", WINDOW + CUBIC + "}", WINDOW + "}", SIDE + CUBIC + "}", SIDE + "}"],
    ids=["crop", "window, cubic", "window", "shorter side, cubic", "shorter side"],
)
def test_batches_are_those_of_whole_images(
    tmp_path: Path, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [jpeg(i, 140 + 9 * i, 150 - 7 * i, SAMPLINGS[i % 5]) for i in range(6)]
    write_lmdb(
        tmp_path / "db",
        ((f"{i}", encode_datum(data=f, label=i, encoded=True)) for i, f in enumerate(files)),
    )
    batches = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr("caffeio.data.transform.image.plain_frame", lambda data: None)
        param = data_layer(tmp_path / "db", f"crop_size: 24 {transform}", 12)
        with make_source(param, seed=4, profile=INTEL, threads=2) as source:
            batches.append([source.next()[0].clone() for _ in range(3)])
    for one, other in zip(*batches, strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("size", ["", "min_height: 160 min_width: 150"])
def test_images_of_a_list(tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i, 140 + 9 * i, 150 - 7 * i, SAMPLINGS[i]))
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg {i}\n" for i in range(5)))
    param = layer(
        'name: "d" type: "ImageData" top: "data" top: "label" '
        "transform_param { crop_size: 24 mirror: true } image_data_param { batch_size: 10 "
        f'source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" {size} }}'
    )
    batches = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr("caffeio.data.transform.image.plain_frame", lambda data: None)
        with make_source(param, seed=4, threads=2) as source:
            batches.append([source.next()[0].clone().numpy() for _ in range(3)])
    assert np.array_equal(*map(np.stack, batches))


@pytest.mark.parametrize("kind", ["Data", "ImageData"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_head_that_the_decoder_refuses(tmp_path: Path, kind: str, skip: bool) -> None:
    """Its size can be read, its image cannot: an error that names it, also where words are drawn
    beforehand."""
    files = [jpeg(i, 120, 140, "420") for i in range(3)]
    broken = bytearray(files[1])
    frame = plain_frame(broken)
    assert frame is not None
    broken[frame.at + 3] += 3  # a longer head of the frame than its channels take
    broken[frame.at + 19 : frame.at + 19] = bytes(3)
    files[1] = bytes(broken)
    assert plain_frame(files[1]) is not None
    transform = f"crop_size: 24 mirror: true {WINDOW}{CUBIC}}}"
    if kind == "Data":
        write_lmdb(
            tmp_path / "db",
            ((f"{i}", encode_datum(data=f, label=i, encoded=True)) for i, f in enumerate(files)),
        )
        param = data_layer(tmp_path / "db", transform, 3)
    else:
        for i, file in enumerate(files):
            (tmp_path / f"{i}.jpg").write_bytes(file)
        (tmp_path / "list.txt").write_text("".join(f"{i}.jpg {i}\n" for i in range(3)))
        param = layer(
            f'name: "d" type: "ImageData" top: "data" top: "label" transform_param {{ {transform} '
            f'}} image_data_param {{ batch_size: 3 source: "{tmp_path}/list.txt" '
            f'root_folder: "{tmp_path}/" }}'
        )
    told: list[str] = []
    options: dict[str, Any] = {"on_bad_record": "skip", "note": told.append} if skip else {}
    with make_source(param, profile=INTEL, threads=2, **options) as source:
        source.draw_setup(CaffeRng(3))
        if skip:
            assert source.next()[1].tolist() == [0, 2, 2]
            assert len(told) == 1 and "cannot" in told[0]
            return
        with pytest.raises(DataError, match=r"could not load|cannot decode"):
            source.next()
