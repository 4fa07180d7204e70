"""What a full disk says: the file's own name, the space, one line; and the old file stays."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from caffeio.net import load_net
from caffeio.proto.weights.load import load_weights
from tests.reliability.forked import one_error, run
from tests.reliability.large import work

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 300 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 300 weight_filler { type: "xavier" } } }
"""


def small_disk() -> None:
    """No file may become larger than 50 kB, in this process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("full")
    (place / "net.prototxt").write_text(NET)
    load_net(NET).save(place / "w.caffemodel")
    return place


@pytest.mark.parametrize("kind", ["pt", "h5", "safetensors", "npz", "caffemodel", "onnx"])
def test_conversions(kind: str, files: Path) -> None:
    target = f"out.{kind}"
    (files / target).write_bytes(b"old")
    sources = ["net.prototxt", "w.caffemodel"] if kind == "onnx" else ["w.caffemodel"]
    more = ["--to-dialect", "intel"] if kind == "caffemodel" else []
    before = {path.name for path in files.iterdir()}
    ended = run("convert", *sources, target, *more, "--force", cwd=files, before=small_disk)
    message = one_error(ended, target)
    assert "cannot be written" in message and "caffeio-" not in message, message
    assert (files / target).read_bytes() == b"old"
    assert {path.name for path in files.iterdir()} == before


def test_databases(files: Path) -> None:
    """An LMDB that does not fit is no LMDB, and has its name in the message."""
    import cv2

    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    cv2.imwrite(str(files / "a.png"), picture)
    (files / "list.txt").write_text("a.png 0\n" * 20)
    ended = run("convert-imageset", "./", "list.txt", "new_lmdb", cwd=files, before=small_disk)
    message = one_error(ended, "new_lmdb")
    assert "mdb_txn" not in message, message
    assert not (files / "new_lmdb").exists()


def test_a_prefix_with_a_nul(files: Path) -> None:
    solver = 'train_net: "data.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1 '
    (files / "data.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 1 } } }'
        'layer { name: "p" type: "InnerProduct" bottom: "d" top: "l" loss_weight: 1 '
        "inner_product_param { num_output: 1 axis: 0 } }"
    )
    (files / "nul.prototxt").write_text(solver + 'solver_mode: CPU snapshot_prefix: "a\\000b"')
    one_error(run("train", "nul.prototxt", cwd=files), "snapshot prefix", "NUL")


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(count: int, *, odd: bool = False) -> bytes:
    """A BlobProto of `count` floats; `odd`: one by one, packed and unpacked in turn."""
    shape = field(7, field(1, varint(count)))
    if not odd:
        return shape + field(5, bytes(4 * count))
    return shape + b"".join(
        field(5, bytes(4)) if i % 2 else varint(5 << 3 | 5) + bytes(4) for i in range(count)
    )


def layer(name: str, blobs: list[bytes]) -> bytes:
    parts = field(1, name.encode()) + field(2, b"InnerProduct")
    return field(100, parts + b"".join(field(7, one) for one in blobs))


ODD = {
    "unpacked floats": lambda n: layer("a", [blob(n, odd=True)]),
    "blobs": lambda n: layer("a", [blob(1)] * n),
    "layers": lambda n: b"".join(layer(f"l{i}", [blob(2)]) for i in range(n)),
    "layers of one name": lambda n: b"".join(layer("l", [blob(2)]) for _ in range(n)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_weights_take_linear_work(name: str, tmp_path: Path) -> None:
    def used(count: int) -> dict[object, int]:
        path = tmp_path / f"{count}.caffemodel"
        path.write_bytes(ODD[name](count))

        def read() -> None:
            weights = load_weights(path)
            for index in range(len(weights.layers)):
                weights.arrays(index)

        return dict(work(read))

    used(50)
    small, large = used(200), used(800)
    for code, count in large.items():
        assert count < 2000 or count < 5 * small.get(code, 1), code


def test_weights_of_four_gigabytes(tmp_path: Path) -> None:
    """A legal file that is nearly all hole is opened at once, and its blob is a view of it."""
    count = (1 << 30) - 1000
    head = field(7, field(1, varint(count))) + varint(5 << 3 | 2) + varint(4 * count)
    name = field(1, b"a") + field(2, b"InnerProduct")
    inner = name + varint(7 << 3 | 2) + varint(len(head) + 4 * count) + head
    start = varint(100 << 3 | 2) + varint(len(inner) + 4 * count) + inner
    with (tmp_path / "big.caffemodel").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * count)
    weights = load_weights(tmp_path / "big.caffemodel")
    [values] = weights.arrays(0)
    assert values.shape == (count,) and not values.flags.owndata
    assert values[0] == values[-1] == 0
