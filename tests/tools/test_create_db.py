"""`db create`: every kind of data set becomes the records that Caffe's own tools would write."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.data.records.datum import scan_datum
from caffeio.errors import CaffeIOError, DataError
from caffeio.tools.create_db import create_db, format_of
from caffeio.tools.imageset import convert_imageset
from caffeio.tools.picture_arrays import read_cifar, read_hdf5, read_idx, read_npz
from tests.data.helpers import photo
from tests.tools.test_imageset import records

RNG = np.random.default_rng(5)
DIGITS = RNG.integers(0, 256, (12, 5, 4), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    kinds = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    kind = kinds[array.dtype.str[1:]]
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim)
    return (
        head
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def mnist(folder: Path, *, zipped: bool = False) -> Path:
    pack = gzip.compress if zipped else bytes
    ending = ".gz" if zipped else ""
    (folder / f"t10k-labels-idx1-ubyte{ending}").write_bytes(pack(idx(LABELS)))
    path = folder / f"t10k-images-idx3-ubyte{ending}"
    path.write_bytes(pack(idx(DIGITS)))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path: Path, zipped: bool) -> None:
    made = create_db([mnist(tmp_path, zipped=zipped)], tmp_path / "db")
    assert (made.records, made.format) == (12, "idx")
    found = records(tmp_path / "db")
    assert [key for key, _ in found] == [b"%08d" % i for i in range(12)]
    for i, (_, value) in enumerate(found):
        # convert_mnist_data.cpp: channels, height, width, data, label, and no word on encoding
        wanted = (
            b"\x08\x01\x10\x05\x18\x04\x22\x14" + DIGITS[i].tobytes() + b"\x28" + bytes([LABELS[i]])
        )
        assert value == wanted


def test_what_is_wrong_with_an_idx_file_is_said(tmp_path: Path) -> None:
    path = mnist(tmp_path)
    whole = path.read_bytes()
    for data, message in (
        (whole[:-1], "cut off: 1 of 240 bytes"), (whole + b"x", "longer than its head says"),
        (b"\1" + whole[1:], "is no IDX file"), (whole[:9], "cut off"),
        (idx(LABELS), "holds labels"),
        (idx(DIGITS[:3]), "has 3 images"), (gzip.compress(whole)[:60], "damaged|Compressed"),
        (gzip.compress(whole)[:-6] + b"\0" * 6, "CRC|damaged"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "memory|free"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(CaffeIOError, match=message):
            read_idx(path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"no labels beside .*t10k-labels-idx1-ubyte"):
        read_idx(path)
    other = tmp_path / "names"
    other.write_bytes(idx(LABELS.astype(np.int32)))
    assert read_idx(path, other).labels.tolist() == LABELS.tolist()


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_as_idx(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("idx")
    path = folder / "images-idx3"
    path.write_bytes(b"\0\0" + data)
    (folder / "labels-idx1").write_bytes(b"\0\0\x08\1\0\0\0\0")
    with pytest.raises(CaffeIOError):
        read_idx(path)


def cifar(path: Path, rows: int, labels: int) -> np.ndarray:
    data = RNG.integers(0, 256, (rows, labels + 3072), np.uint8)
    data[:, :labels] = np.arange(rows)[:, None] % 10
    if labels == 2:
        data[:, 1] = np.arange(rows) + 50
    path.write_bytes(data.tobytes())
    return data


def test_cifar(tmp_path: Path) -> None:
    batches = [tmp_path / f"data_batch_{i}.bin" for i in (1, 2)]
    data = np.concatenate([cifar(path, 3, 1) for path in batches])
    create_db(batches, tmp_path / "db")
    found = records(tmp_path / "db")
    assert [key for key, _ in found] == [b"%05d" % i for i in range(6)]  # convert_cifar_data.cpp
    for row, (_, value) in zip(data, found, strict=True):
        datum = scan_datum(value)
        assert datum.label == row[0] and bytes(datum.data) == row[1:].tobytes()
        assert datum[:3] == (3, 32, 32)
    create_db(batches, tmp_path / "bgr", swap_colors=True)
    datum = scan_datum(records(tmp_path / "bgr")[4][1])
    assert (datum.pixels()[::-1] == data[4, 1:].reshape(3, 32, 32)).all()


def test_cifar_100(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    cifar(path, 4, 2)
    assert read_cifar([path]).labels.tolist() == [50, 51, 52, 53]
    assert read_cifar([path], "coarse").labels.tolist() == [0, 1, 2, 3]
    path.write_bytes(b"\x80" * 3073)
    with pytest.raises(DataError, match="no binary batch of CIFAR-10"):
        read_cifar([path])


IMAGES = RNG.integers(0, 256, (4, 6, 7, 3), np.uint8)


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_arrays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"

    def write(**arrays: Any) -> None:
        if kind == "npz":
            np.savez(path, **arrays)
            return
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array

    read = read_npz if kind == "npz" else read_hdf5
    write(images=IMAGES, labels=np.arange(4))
    create_db([path], tmp_path / "nhwc", swap_colors=True)
    for i, (_, value) in enumerate(records(tmp_path / "nhwc")):
        assert scan_datum(value).label == i
        assert (scan_datum(value).pixels() == IMAGES[i].transpose(2, 0, 1)[::-1]).all()
    floats = RNG.normal(size=(4, 3, 6, 7))
    write(data=floats, label=np.array([[1.0], [2.0], [0.0], [3.0]], np.float32))
    create_db([path], tmp_path / "floats")
    datum = scan_datum(records(tmp_path / "floats")[3][1])
    assert datum.label == 3 and (datum.pixels() == floats[3].astype(np.float32)).all()
    write(x_train=DIGITS, y_train=LABELS, x_test=DIGITS[:2], y_test=LABELS[:2])
    assert len(read(path).images) == 12
    assert read(path, images="x_test", labels="y_test").images.shape == (2, 1, 5, 4)
    for arrays, choice, message in (
        ({"x_test": DIGITS}, {}, "which array are the images"),
        ({"x": DIGITS, "data": DIGITS}, {}, "which are the images"),
        ({"x": DIGITS}, {"images": "z"}, "has no array 'z'"),
        ({"x": IMAGES[..., :2], "y": LABELS[:4]}, {}, "NCHW or NHWC"),
        ({"x": DIGITS, "y": LABELS[:4]}, {}, "12 rows, y 4"),
        ({"x": DIGITS, "y": np.full(12, 0.5)}, {}, "no labels"),
        ({"x": DIGITS.astype(np.int32) * 2, "y": LABELS}, {}, "have no Datum"),
        ({"x": DIGITS}, {"layout": "NCHW"}, "3 axes, and NCHW has 4"),
    ):  # fmt: skip
        write(**arrays)
        with pytest.raises(DataError, match=message):
            read(path, **choice)
    write(x=DIGITS)
    create_db([path], tmp_path / "bare")
    assert not scan_datum(records(tmp_path / "bare")[0][1]).has_label
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(DataError, match="damaged or no"):
        read(path)


def test_arrays_are_resized_and_encoded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, data=IMAGES, label=np.arange(4))
    create_db([path], tmp_path / "db", size=(3, 5), encode_type="png")
    for i, (_, value) in enumerate(records(tmp_path / "db")):
        datum = scan_datum(value)
        pixels = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert datum.encoded and (pixels == cv2.resize(IMAGES[i], (5, 3))).all()


def folders(root: Path) -> Path:
    for name, count in (("dog", 3), ("cat", 2)):
        (root / name / "more").mkdir(parents=True)
        for i in range(count):
            place = root / name / ("more" if i else "") / f"{i}.png"
            cv2.imwrite(str(place), photo(i, 8, 9))
    (root / "cat" / "notes.txt").write_text("no picture")
    return root


def test_folders(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    made = create_db([root], tmp_path / "db", seed=1)
    assert made.classes == ["cat", "dog"] and made.records == 5
    found = records(tmp_path / "db")
    names = [key.split(b"_", 1)[1].decode() for key, _ in found]
    assert sorted(names) == [
        "cat/0.png",
        "cat/more/1.png",
        "dog/0.png",
        "dog/more/1.png",
        "dog/more/2.png",
    ]
    assert names != sorted(names)  # shuffled
    for name, (_, value) in zip(names, found, strict=True):
        datum = scan_datum(value)
        assert datum.label == name.startswith("dog")
        assert (datum.pixels().transpose(1, 2, 0) == cv2.imread(str(root / name))).all()
    create_db([root], tmp_path / "again", seed=1)
    assert records(tmp_path / "again") == found
    create_db([root], tmp_path / "sorted", shuffle=False)
    assert [k.split(b"_", 1)[1].decode() for k, _ in records(tmp_path / "sorted")] == sorted(names)


def test_classes_keep_their_labels(tmp_path: Path) -> None:
    """A validation folder in which a class is missing must not move the labels of the others."""
    root = folders(tmp_path / "train")
    names = tmp_path / "classes.txt"
    create_db([root], tmp_path / "train_db", classes=names)
    assert names.read_text() == "cat\ndog\n"
    val = tmp_path / "val"
    (val / "dog").mkdir(parents=True)
    cv2.imwrite(str(val / "dog" / "x.png"), photo(7, 8, 9))
    create_db([val], tmp_path / "val_db", classes=names)
    assert [scan_datum(value).label for _, value in records(tmp_path / "val_db")] == [1]
    (val / "dog").rename(val / "wolf")
    with pytest.raises(DataError, match="lacks: \\['wolf'\\]"):
        create_db([val], tmp_path / "no_db", classes=names)
    assert not (tmp_path / "no_db").exists()
    (val / "wolf" / "x.png").unlink()
    with pytest.raises(DataError, match="one folder a class"):
        create_db([val], tmp_path / "no_db")


def test_a_list_is_convert_imageset(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    (tmp_path / "photos" / "list.txt").write_text("dog/0.png 7\ncat/0.png 300\ngone.png 1\n")
    warned: list[str] = []
    made = create_db([root / "list.txt"], tmp_path / "a", skipped=warned.append)
    assert (made.records, made.format, len(warned)) == (2, "list", 1)
    convert_imageset(f"{root}/", root / "list.txt", tmp_path / "b")
    assert records(tmp_path / "a") == records(tmp_path / "b")


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    for options, message in (
        ({"labels": "x"}, "--labels means nothing"), ({"swap_colors": True}, "--swap-colors means"),
        ({"root": "x"}, "--root means nothing"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            create_db([root], tmp_path / "db", **options)
    with pytest.raises(DataError, match="only for CIFAR"):
        create_db([root, root], tmp_path / "db")
    (tmp_path / "batch").write_bytes(b"\x80\x02}q")
    with pytest.raises(DataError, match="no data set that is known"):
        format_of(tmp_path / "batch")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 1\nb.png\n", r"list.txt:2: 'b.png': there is no label"),
        ("a.png\t1\n", r"list.txt:1: .*a tab stands before the label"),
        ("a.png cat\n", "there is no label"),
        ("\n\n", "names no image"),
        ("a.png 1\n", "none of 1 pictures can be read"),
        ("train.h5\n", "there is no label"),  # a list of HDF5Data's
    ],
)
def test_lists_that_would_go_wrong_in_silence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(CaffeIOError) as error:
        create_db([tmp_path / "list.txt"], tmp_path / "db")
    assert re.search(message, str(error.value)), error.value
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_names_with_blanks_and_windows_line_ends(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a b.png"), photo(1, 4, 4))
    (tmp_path / "list.txt").write_bytes(b"a b.png 7\r\na b.png -1\r\n\r\n")
    made = create_db([tmp_path / "list.txt"], tmp_path / "db", backend="LMDB")
    assert made.records == 2
    labels = [scan_datum(value).label for _, value in records(tmp_path / "db")]
    assert labels == [7, -1]
