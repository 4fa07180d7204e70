from __future__ import annotations

import builtins
import os
import re
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from caffeio.errors import ParseError, SnapshotError, WeightsError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.hdf5 import write_caffemodel_h5
from caffeio.proto.weights.hdf5_reader import Dataset, ExoticError, Hdf5Group, read_tree
from caffeio.proto.weights.load import load_weights
from tests.paths import GOLDEN, SHARED, needs_shared

MODELS = sorted(GOLDEN.glob("**/*.caffemodel.h5"))
FILES = sorted(p for p in GOLDEN.glob("**/*.h5") if p.name != "f1.h5")  # which is compressed
MODIFIED = re.compile(rb"(\x12\0\x08\0\0\0\0\0\x01\0\0\0)....", re.DOTALL)


def timeless(path: Path) -> bytes:
    """The file without the times of modification that HDF5 notes beside each data set."""
    return MODIFIED.sub(rb"\1", path.read_bytes())


def ids(path: Path) -> str:
    return "/".join(path.parts[-2:])


def net_of(names: list[str]) -> pb.NetParameter:
    net = pb.NetParameter()
    for name in names:
        net.layer.add(name=name)
    return net


def write(path: Path, content: dict[str, Any], **options: Any) -> Path:
    with h5py.File(path, "w", **options) as file:
        for name, value in content.items():
            file[name] = value
    return path


def test_there_are_files() -> None:
    assert len(MODELS) >= 7
    assert len(FILES) >= 14


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_our_reader_and_the_library_agree(path: Path) -> None:
    def compare(ours: Hdf5Group, theirs: h5py.Group) -> None:
        assert list(ours.members) == list(theirs)
        for name, member in ours.members.items():
            other = theirs[name]
            if isinstance(member, Hdf5Group):
                compare(member, other)
                continue
            assert member.shape == other.shape
            assert member.dtype == other.dtype
            assert member.name == other.name
            assert member.offset == other.id.get_offset()

    with h5py.File(path) as file:
        compare(read_tree(path.read_bytes()), file)


@pytest.mark.parametrize("path", MODELS, ids=ids)
def test_reads_what_the_library_reads(path: Path) -> None:
    weights = load_weights(path)
    assert weights.format == "hdf5"
    with h5py.File(path) as file:
        assert [entry.name for entry in weights.layers] == list(file["data"])
        for entry in weights.layers:
            group = file["data"][entry.name]
            assert len(entry.blobs) == len(group)
            for i, array in enumerate(weights.get(entry.name, [])):
                assert np.array_equal(array, group[str(i)][()])
                assert not array.flags.writeable
                assert not array.flags.owndata


@pytest.mark.parametrize("name", ["residual_inplace", "siamese_shared"])
def test_hdf5_holds_the_blobs_of_the_binary_file(name: str) -> None:
    path = GOLDEN / "nets" / name / "weights.caffemodel"
    binary, hdf5 = load_weights(path), load_weights(path.with_name("weights.caffemodel.h5"))
    assert {e.name for e in hdf5.layers} == {e.name for e in binary.layers}
    assert set(hdf5) <= set(binary)  # of shared parameters only the owner's
    for layer in hdf5:
        assert all(np.array_equal(a, b) for a, b in zip(hdf5[layer], binary[layer], strict=True))


@pytest.mark.parametrize("path", MODELS, ids=ids)
def test_writes_the_bytes_of_caffe(path: Path, tmp_path: Path) -> None:
    """A file that real Caffe wrote with the C library comes out the same, times apart."""
    weights = load_weights(path)
    binary = path.with_suffix("")
    if binary.exists():
        net = pb.NetParameter.FromString(binary.read_bytes())
        order = [layer.name for layer in net.layer]
    else:
        with h5py.File(path) as file:  # the heap of names keeps the order of the layers
            order = sorted(file["data"], key=lambda n: path.read_bytes().index(n.encode() + b"\0"))
    out = tmp_path / "x.h5"
    write_caffemodel_h5(out, net_of(order), {name: list(weights[name]) for name in weights})
    assert timeless(out) == timeless(path)


@needs_shared
def test_corpus() -> None:
    folder = SHARED / "corpus" / "caffemodels" / "arm_cifar10_m4_h5"
    weights = load_weights(folder / "cifar10_m4_iter_70000.caffemodel.h5")
    assert {name: [a.shape for a in weights[name]] for name in weights} == {
        "conv1": [(32, 3, 5, 5), (32,)],
        "conv2": [(16, 32, 5, 5), (16,)],
        "conv3": [(32, 16, 5, 5), (32,)],
        "ip1": [(10, 512), (10,)],
    }


def test_diffs_and_doubles(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    data, diff = np.arange(3.0), np.arange(3, dtype=np.float32)
    write_caffemodel_h5(path, net_of(["a", "b"]), [[data], []], diffs=[[diff], []])
    weights = load_weights(path)
    assert weights["a"][0].dtype == np.float64
    assert list(weights.diffs) == ["a"]
    assert np.array_equal(weights.diffs["a"][0], diff)
    with h5py.File(path) as file:
        assert list(file) == ["data", "diff"]
        assert list(file["diff"]) == ["a", "b"]


def test_names_with_slashes_are_read(tmp_path: Path) -> None:
    content = {"data/inception_3a/1x1/0": np.ones(3), "data/inception_3a/0": np.zeros(2)}
    weights = load_weights(write(tmp_path / "x.h5", content))
    assert sorted(weights) == ["inception_3a", "inception_3a/1x1"]
    assert weights["inception_3a/1x1"][0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["inception_3a/1x1", "", "."])
def test_names_that_hdf5_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(SnapshotError, match=r"x\.h5: layer .* BINARYPROTO"):
        write_caffemodel_h5(tmp_path / "x.h5", net_of([name]), [[np.ones(1)]])
    with pytest.raises(SnapshotError, match="two layers are named 'a'"):
        write_caffemodel_h5(tmp_path / "x.h5", net_of(["a", "a"]), [[], []])
    assert os.listdir(tmp_path) == []


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of Caffe's kind are read without h5py; writing and rarer kinds say what is missing."""
    chunked = tmp_path / "chunked.h5"
    with h5py.File(chunked, "w") as file:
        file.create_dataset("data/a/0", data=np.ones((8, 8)), chunks=(4, 4))
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert len(load_weights(MODELS[0]))
    with pytest.raises(WeightsError, match=r"pip install 'caffeio\[hdf5\]'"):
        load_weights(chunked)
    with pytest.raises(SnapshotError, match=r"pip install 'caffeio\[hdf5\]'"):
        write_caffemodel_h5(tmp_path / "x.h5", net_of(["a"]), [[]])


@pytest.mark.parametrize(
    "options",
    [{"chunks": (4, 4)}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}],
)
def test_chunks_and_compression(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "x.h5"
    values = np.zeros((500, 500), np.float32)
    values[3, 4] = 5
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", data=values, **options)
    weights = load_weights(path)
    assert weights.layers[0].blobs[0].offset == -1
    assert np.array_equal(weights["a"][0], values)


@pytest.mark.parametrize("libver", ["earliest", "latest", "v108"])
@pytest.mark.parametrize("userblock", [0, 512, 1024])
def test_versions_of_the_format(tmp_path: Path, libver: str, userblock: int) -> None:
    values = {"data/a/0": np.arange(4.0), "data/b/0": np.ones((2, 2), ">f4"), "data/b/1": 3.5}
    path = write(tmp_path / "x.h5", values, libver=libver, userblock_size=userblock)
    weights = load_weights(path)
    assert weights["a"][0].tolist() == [0, 1, 2, 3]
    assert weights["b"][0].tolist() == [[1, 1], [1, 1]]
    assert weights["b"][1].tolist() == 3.5


def test_many_layers(tmp_path: Path) -> None:
    """Enough names for a B-tree of several levels."""
    path = tmp_path / "x.h5"
    names = [f"layer{i}" for i in range(3000)]
    write_caffemodel_h5(path, net_of(names), {n: [np.full(2, i)] for i, n in enumerate(names)})
    weights = load_weights(path)
    assert list(weights) == sorted(names)
    assert all(weights[n][0].tolist() == [i, i] for i, n in enumerate(names))


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"conv1/0": np.ones(3)}, "has no group 'data'.*conv1"),
        ({"iter": 3, "history/0": np.ones(3)}, "is a solver state"),
        ({"data/a/weight": np.ones(3)}, "layer 'a' has data sets named weight"),
        ({"data/a/0": "text"}, "not one of numbers"),
        ({"data/a/0": np.ones(3), "diff/a/0": np.ones(4)}, r"its diff has the shape \(4,\)"),
        ({"data/a/0": h5py.SoftLink("/data/b")}, "link to elsewhere"),
        ({"data/a/0": h5py.ExternalLink("/etc/passwd", "x")}, "link to elsewhere"),
    ],
)
def test_other_contents(tmp_path: Path, content: dict[str, Any], text: str) -> None:
    path = write(tmp_path / "x.h5", content)
    with pytest.raises(WeightsError, match=rf"x\.h5: .*{text}"):
        load_weights(path)


def test_blobs_that_another_layer_owns_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", {"data/a/1": np.full(3, 5.0), "data/a/3": np.ones(2)})
    weights = load_weights(path)
    [entry] = weights.layers
    assert [entry.number(k) for k in range(len(entry.blobs))] == [1, 3]
    assert [a.tolist() for a in weights["a"]] == [[5, 5, 5], [1, 1]]


def test_external_data_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        external = [("/etc/passwd", 0, 40)]
        file.create_dataset("data/a/0", (10,), np.float32, external=external)
    with pytest.raises(WeightsError, match="lies in another file"):
        load_weights(path)


@pytest.mark.parametrize("chunks", [None, (1 << 16,)])
def test_a_shape_alone_is_not_memory(tmp_path: Path, chunks: tuple[int] | None) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", (1 << 40,), np.float32, chunks=chunks)
    assert path.stat().st_size < 4096
    weights = load_weights(path)
    assert weights.layers[0].blobs[0].shape == (1 << 40,)
    with pytest.raises(WeightsError, match=r"layer 'a', blob 0: .*no values"):
        weights["a"]


def test_groups_that_contain_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data/a/0"] = np.ones(3)
        file["data/a/again"] = file["data"]
    with pytest.raises(WeightsError, match="contain each other"):
        load_weights(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = (GOLDEN / "nets/siamese_shared/weights.caffemodel.h5").read_bytes()
    path = tmp_path / "cut.h5"
    for size in range(8, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError):
            load_weights(path)


def test_no_byte_can_break_the_reader() -> None:
    """Change bytes of a small file: an error or a tree, nothing else (tests/fuzz tries more)."""
    data = bytearray((GOLDEN / "nets/siamese_shared/weights.caffemodel.h5").read_bytes())

    def datasets(group: Hdf5Group) -> list[Dataset]:
        members = group.members.values()
        inner = [d for m in members if isinstance(m, Hdf5Group) for d in datasets(m)]
        return inner + [m for m in members if isinstance(m, Dataset)]

    for at in range(0, len(data), 3):
        old = data[at]
        for new in {0xFF, (old + 8) & 255}:
            data[at] = new
            try:
                tree = read_tree(bytes(data))
            except (ParseError, ExoticError):
                continue
            for dataset in datasets(tree):
                size = int(np.prod(dataset.shape)) * dataset.dtype.itemsize
                assert dataset.offset == -1 or dataset.offset + size <= len(data)
        data[at] = old


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"old")

    def full(*args: Any, **options: Any) -> None:
        raise OSError("Unable to write (file write failed: errno = 28, error message = 'full')")

    monkeypatch.setattr("caffeio.proto.weights.hdf5_file._IN_MEMORY", -1)  # as if it were large
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", full)
        wanted = r"x\.h5: cannot be written: No space left on device \(.* are free [^\n]*\)$"
        with pytest.raises(SnapshotError, match=wanted):
            write_caffemodel_h5(path, net_of(["a"]), [[np.ones(3)]])
    assert path.read_bytes() == b"old"
    no_room = SimpleNamespace(free=10)
    monkeypatch.setattr("caffeio.proto.weights.hdf5_file.shutil.disk_usage", lambda _: no_room)
    with pytest.raises(SnapshotError, match=r"\(24 bytes are needed, 10 bytes are free"):
        write_caffemodel_h5(path, net_of(["a"]), [[np.ones(3)]])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.h5"]


def test_files_are_the_same_whether_made_in_memory_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [[np.ones((3, 4), np.float32), np.arange(7.0)]]
    write_caffemodel_h5(tmp_path / "a.h5", net_of(["a"]), blobs)
    monkeypatch.setattr("caffeio.proto.weights.hdf5_file._IN_MEMORY", -1)
    write_caffemodel_h5(tmp_path / "b.h5", net_of(["a"]), blobs)
    sizes = {path.stat().st_size for path in tmp_path.iterdir()}
    assert len(sizes) == 1
    both = [load_weights(tmp_path / name)["a"] for name in ("a.h5", "b.h5")]
    assert all(np.array_equal(x, y) for x, y in zip(*both, strict=True))


def test_signature_behind_garbage() -> None:
    with pytest.raises(ParseError, match="signature is missing"):
        read_tree(struct.pack("<8Q", *range(8)))


def test_a_named_type_is_no_blob(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["data/a/0"] = np.dtype("f4")
    with pytest.raises(WeightsError, match="neither group nor data set"):
        load_weights(path)


def test_data_sets_that_lie_upon_each_other_are_refused(tmp_path: Path) -> None:
    """Many data sets of the same bytes would make a small file a large net."""
    content = {f"data/{name}/0": np.ones(10_000, np.float32) for name in "abc"}
    path = write(tmp_path / "x.h5", content)
    with h5py.File(path) as file:
        offsets = [file[name].id.get_offset() for name in content]
    data = path.read_bytes()
    first = struct.pack("<QQ", min(offsets), 40_000)
    for offset in sorted(offsets)[1:]:
        layout = struct.pack("<QQ", offset, 40_000)  # address and size
        assert data.count(layout) == 1
        data = data.replace(layout, first)
    path.write_bytes(data)
    assert len(load_weights(path)) == 3  # there is room for them all: it may even be meant
    assert max(offsets) + 40_000 == len(data)
    end = struct.pack("<Q", len(data) - 40_000)  # of the file, as its superblock has it
    path.write_bytes(data[:40] + end + data[48:-40_000])
    with pytest.raises(WeightsError, match="data sets overlap"):
        load_weights(path)
