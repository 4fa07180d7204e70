from __future__ import annotations

import gc
import os
import shutil
import struct
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffeio.errors import CaffeIOError, DialectError, SnapshotError, WeightsError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import decode
from caffeio.proto.io.varint import varint
from caffeio.proto.io.wire import bytes_field, varint_field
from caffeio.proto.weights.load import Weights, load_weights, write_caffemodel
from tests.paths import GOLDEN, NIGHT, SHARED, needs_shared
from tests.proto.huge import SHAPE, huge

MODELS = sorted(p for p in GOLDEN.glob("**/*.caffemodel") if "errors" not in p.parts)
CORPUS = SHARED / "corpus" / "caffemodels"


def by_protobuf(path: Path) -> list[tuple[str, list[np.ndarray]]]:
    """Layers of a V2 or V1 file by the slow and sure way."""
    net = pb.NetParameter.FromString(path.read_bytes())
    out = []
    for layer in net.layer or net.layers:
        blobs = list(layer.blobs or layer.layer.blobs) if not net.layer else list(layer.blobs)
        name = layer.name if net.layer else layer.name or layer.layer.name
        arrays = []
        for blob in blobs:
            legacy = blob.HasField("num")
            shape = (blob.num, blob.channels, blob.height, blob.width)
            data = blob.double_data or blob.data
            arrays.append(np.array(data).reshape(shape if legacy else tuple(blob.shape.dim)))
        out.append((name, arrays))
    return out


def save(path: Path, net: pb.NetParameter) -> Path:
    path.write_bytes(net.SerializeToString(deterministic=True))
    return path


def small_net() -> pb.NetParameter:
    net = pb.NetParameter(name="small")
    net.layer.add(name="data", type="Input", top=["data"])
    layer = net.layer.add(name="ip", type="InnerProduct", bottom=["data"], top=["ip"])
    layer.inner_product_param.num_output = 2
    layer.param.add(lr_mult=1)
    net.layer.add(name="prob", type="Softmax", bottom=["ip"], top=["prob"])
    return net


BLOBS = [[], [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)], []]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.caffemodel"
    write_caffemodel(path, small_net(), BLOBS)
    return path


# -- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda p: "/".join(p.parts[-2:]))
def test_reads_what_protobuf_reads(path: Path) -> None:
    weights = load_weights(path)
    wanted = by_protobuf(path)
    assert [entry.name for entry in weights.layers] == [name for name, _ in wanted]
    assert list(weights) == list(dict.fromkeys(name for name, arrays in wanted if arrays))
    for index, (_, arrays) in enumerate(wanted):
        got = weights.arrays(index)
        assert [a.shape for a in got] == [a.shape for a in arrays]
        assert all(np.array_equal(a, b) for a, b in zip(got, arrays, strict=True))


def test_there_are_models() -> None:
    assert len(MODELS) > 60


@needs_shared
@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.caffemodel")), ids=lambda p: p.parent.name)
def test_reads_the_corpus(path: Path) -> None:
    weights = load_weights(path)
    if any(blob.dtype == np.float16 for entry in weights.layers for blob in entry.blobs):
        pytest.skip("raw_data: see the test below")
    wanted = by_protobuf(path)
    assert [entry.name for entry in weights.layers] == [name for name, _ in wanted]
    for index, (_, arrays) in enumerate(wanted):
        got = weights.arrays(index)
        assert all(np.array_equal(a, b) for a, b in zip(got, arrays, strict=True))


@needs_shared
def test_half_precision_of_nvidia() -> None:
    half = load_weights(CORPUS / "hyperlpr_finemap_fp16" / "HorizonalFinemapping.caffemodel")
    full = load_weights(CORPUS / "hyperlpr_finemap" / "HorizonalFinemapping.caffemodel")
    assert list(half) == list(full)
    for name in half:
        for a, b in zip(half[name], full[name], strict=True):
            assert a.dtype == np.float16
            assert np.array_equal(a, b.astype(np.float16))


def test_ages_of_the_format() -> None:
    """V0 and V1 files as BVLC's upgrade tool read them, and the values that Caffe loaded."""
    folder = GOLDEN / "logs" / "upgrade"
    v0 = load_weights(folder / "old_v0.caffemodel")
    assert [(e.name, e.type, e.version) for e in v0.layers] == [
        ("c", "conv", "V0"),
        ("f", "innerproduct", "V0"),
    ]
    again = load_weights(folder / "old_v0.upgraded.caffemodel")
    assert all(np.array_equal(a, b) for n in v0 for a, b in zip(v0[n], again[n], strict=True))
    v1 = load_weights(folder / "old_v1.caffemodel")
    assert [(e.name, e.type, e.version) for e in v1.layers] == [
        ("conv1", "Convolution", "V1"),
        ("ip", "InnerProduct", "V1"),
    ]
    assert [b.shape for b in v1.layers[0].blobs] == [(4, 3, 2, 2), (1, 1, 1, 4)]
    assert all(b.legacy for e in v1.layers for b in e.blobs)
    loaded = np.load(folder / "load_old_v1.npz")
    for key in loaded:
        _, name, index = key.split("/")
        assert np.array_equal(v1[name][int(index)].ravel(), loaded[key].ravel())


def test_mapping(model: Path) -> None:
    weights = load_weights(model)
    assert isinstance(weights, Weights)
    assert list(weights) == ["ip"]
    assert len(weights) == 1
    assert "ip" in weights
    assert "data" not in weights
    assert weights.net_name == "small"
    assert [e.name for e in weights.layers] == ["data", "ip", "prob"]
    assert [e.type for e in weights.layers] == ["Input", "InnerProduct", "Softmax"]
    blob = weights.layers[1].blobs[0]
    assert (blob.shape, blob.legacy, blob.dtype, blob.count) == ((2, 3), False, np.float32, 6)
    assert model.read_bytes()[blob.offset : blob.offset + 24] == BLOBS[1][0].tobytes()
    assert repr(weights) == f"Weights({str(model)!r}, 1 layers with blobs, binary)"
    with pytest.raises(KeyError):
        weights["data"]


def test_views_and_copies(model: Path) -> None:
    weights = load_weights(model)
    view = weights["ip"][0]
    assert not view.flags.writeable
    assert not view.flags.owndata
    own = weights.array("ip", 0, writable=True)
    own += 1
    assert np.array_equal(weights.array("ip", 0), BLOBS[1][0])
    copies = weights.copy()
    assert copies["ip"][0].flags.writeable
    assert copies["ip"][0].flags.aligned
    assert np.array_equal(copies["ip"][1], BLOBS[1][1])


def test_views_outlive_the_weights_and_the_file(model: Path) -> None:
    weights = load_weights(model)
    seen = weakref.ref(weights)
    view = weights["ip"][0]
    del weights
    gc.collect()
    assert seen() is None
    model.unlink()
    assert np.array_equal(view, BLOBS[1][0])


def test_of_two_layers_with_one_name_the_last_counts(tmp_path: Path) -> None:
    """Net::CopyTrainedLayersFrom copies each source layer in turn into the first of its name."""
    net = small_net()
    net.layer.add(name="ip", type="InnerProduct")
    path = tmp_path / "twice.caffemodel"
    write_caffemodel(path, net, [*BLOBS, [BLOBS[1][0] + 1, BLOBS[1][1]]])
    weights = load_weights(path)
    assert list(weights) == ["ip"]
    assert np.array_equal(weights["ip"][0], BLOBS[1][0] + 1)
    assert np.array_equal(weights.arrays(1)[0], BLOBS[1][0])


def test_a_shape_without_values(tmp_path: Path) -> None:
    net = small_net()
    net.layer[1].blobs.add().shape.dim.extend([1 << 20, 1 << 20])
    weights = load_weights(save(tmp_path / "x.caffemodel", net))
    assert weights.layers[1].blobs[0].shape == (1 << 20, 1 << 20)
    with pytest.raises(WeightsError, match=r"x\.caffemodel: layer 'ip', blob 0: .*no values"):
        weights["ip"]


def test_unknown_fields_are_passed_over(model: Path) -> None:
    extra = bytes_field(20001, b"abc") + varint_field(3000, 7) + b"\xc5\x3e1234"
    model.write_bytes(extra + model.read_bytes() + extra)
    assert np.array_equal(load_weights(model)["ip"][0], BLOBS[1][0])


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    blob = bytes_field(5, struct.pack("<f", 3)) + bytes_field(7, bytes_field(1, b"\1"))
    layer = bytes_field(1, b"\xd6\xd0") + bytes_field(7, blob)
    path = tmp_path / "x.caffemodel"
    path.write_bytes(bytes_field(100, layer))
    assert list(load_weights(path)) == [r"\xd6\xd0"]


# -- errors ---------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"is empty \(0 bytes\); a caffemodel was expected"),
        (LFS, "Git LFS pointer"),
        (b"<!DOCTYPE html><html>\n<p>404</p>", "web page"),
        (b'name: "x"\nlayer { name: "a" }\n', r"is text \(a prototxt\?\)"),
        ("# 网络\nname: 'x'".encode(), r"is text \(a prototxt\?\)"),
        ("# 网络\nname: 'x'".encode("gbk"), r"is text \(a prototxt\?\)"),
        (b"hello world", "is text, not a binary file; it begins 'hello world'"),
        (b"PK\x03\x04" + b"\0" * 50, "is no PyTorch file of tensors"),
        (b"\x80\x02}q\x00.", "is no PyTorch file of tensors"),
        (b"\x1f\x8b\x08" + b"\0" * 50, "gzip"),
        (b"\x18\0\0\0\0\0\0\0" + b'{"a":1}' + b" " * 17, "safetensors"),
        (b"\x0a\x01x", "has no layer"),
        (b"\x08\x07\x12\x03abc\x1a\x02\x0a\x00", "looks like a solver state"),
        ((GOLDEN / "data/mean/float.binaryproto").read_bytes(), "a mean file"),
        (b"\x00" * 100, "field number 0"),
        (b"\xff" * 100, "10 bytes"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"w\.caffemodel: .*{text}"):
        load_weights(path)


def test_golden_errors() -> None:
    folder = GOLDEN / "errors"
    with pytest.raises(WeightsError, match="is not a caffemodel"):
        load_weights(folder / "weights_garbage" / "w.caffemodel")
    with pytest.raises(WeightsError, match=r"\('ip'\), which begins at byte 45, needs 58 bytes"):
        load_weights(folder / "weights_truncated" / "w.caffemodel")


def test_state_given_as_weights() -> None:
    states = sorted(GOLDEN.glob("solvers/*/*.solverstate"))
    assert states
    for path in states:
        with pytest.raises(WeightsError, match="looks like a solver state"):
            load_weights(path)


def test_missing_file(model: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file.*there is small\.caffemodel"):
        load_weights(model.with_name("other.caffemodel"))
    with pytest.raises(WeightsError, match="no folder"):
        load_weights(model.parent / "none" / "other.caffemodel")
    with pytest.raises(WeightsError, match="is a folder"):
        load_weights(model.parent)


def test_every_truncation_is_noticed(model: Path) -> None:
    """Cut anywhere but between two fields of the net, a file is refused, and nothing hangs."""
    data = model.read_bytes()
    path = model.with_name("cut.caffemodel")
    whole = {e.name for e in load_weights(model).layers}
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        try:
            names = {e.name for e in load_weights(path).layers}
        except WeightsError as error:
            assert str(error).startswith(str(path))
        else:
            assert names < whole


def test_truncation_in_the_middle(model: Path) -> None:
    data = model.read_bytes()
    at = data.index(BLOBS[1][0].tobytes()) + 7
    model.write_bytes(data[:at])
    with pytest.raises(WeightsError, match=r"cut off: layer 1 of the file \('ip'\), .* bytes more"):
        load_weights(model)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda b: b.shape.dim.append(7), "shape 2 x 3 x 7 has 42 values, but 6 are stored"),
        (lambda b: b.shape.dim.__setitem__(0, -2), "shape -2 x 3: a negative dimension"),
        (lambda b: b.shape.dim.extend([1] * 31), "33 axes"),
        (lambda b: b.data.pop(), "has 6 values, but 5 are stored"),
        (lambda b: b.diff.append(1), "6 values, but its diff has 1"),
        (lambda b: b.ClearField("shape"), "none given"),
    ],
)
def test_shapes_that_do_not_fit(model: Path, edit: object, text: str) -> None:
    net = pb.NetParameter.FromString(model.read_bytes())
    edit(net.layer[1].blobs[0])  # type: ignore[operator]
    with pytest.raises(WeightsError, match=rf"small\.caffemodel: .*layer 'ip', blob 0: .*{text}"):
        load_weights(save(model, net))


def test_deep_nesting_is_harmless(tmp_path: Path) -> None:
    data = b""
    for _ in range(500):
        data = bytes_field(2, bytes_field(1, data))
    (tmp_path / "x.caffemodel").write_bytes(data)
    load_weights(tmp_path / "x.caffemodel")


# -- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda p: "/".join(p.parts[-2:]))
@pytest.mark.parametrize("raw", [False, True])
def test_writes_the_bytes_of_caffe(path: Path, raw: bool, tmp_path: Path) -> None:
    """Files written by real Caffe, read and written again, are the same bytes."""
    weights = load_weights(path)
    if weights.layers[0].version == "V0":
        pytest.skip("nested V0 layers are read only")
    if not raw and any(blob.legacy for entry in weights.layers for blob in entry.blobs):
        pytest.skip("legacy shapes become today's")
    dialect = "sara" if {"chain", "fork_only"} & set(path.parts) else "bvlc"
    net = decode(path.read_bytes(), "NetParameter", dialect)
    indices = range(len(weights.layers))
    out = tmp_path / "again"
    blobs = [weights.raw_blobs(i) if raw else weights.arrays(i) for i in indices]
    write_caffemodel(out, net.message, blobs, dialect=dialect, unknown=net.unknown)
    assert out.read_bytes() == path.read_bytes()


def test_equals_protobuf(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    net = small_net()
    net.state.phase = pb.TEST  # fields before and behind the layers and the blobs
    net.layer[1].include.add(phase=pb.TRAIN)
    blobs = [[], [rng.random((2, 3)), rng.random(2)], []]
    diffs = [[], [rng.random((2, 3)), rng.random(2)], []]
    wanted = pb.NetParameter()
    wanted.CopyFrom(net)
    for array, diff in zip(blobs[1], diffs[1], strict=True):
        blob = wanted.layer[1].blobs.add()
        blob.shape.dim.extend(array.shape)
        blob.double_data.extend(array.ravel())
        blob.double_diff.extend(diff.ravel())
    write_caffemodel(tmp_path / "x", net, blobs, diffs=diffs)
    assert (tmp_path / "x").read_bytes() == wanted.SerializeToString(deterministic=True)
    weights = load_weights(tmp_path / "x")
    assert weights["ip"][0].dtype == np.float64
    assert list(weights.diffs) == ["ip"]
    assert np.array_equal(weights.diffs["ip"][1], diffs[1][1])


def test_v1_nets_are_written(tmp_path: Path) -> None:
    path = GOLDEN / "logs" / "upgrade" / "old_v1.caffemodel"
    weights = load_weights(path)
    net = pb.NetParameter.FromString(path.read_bytes())  # its blobs are to be ignored
    write_caffemodel(tmp_path / "x", net, [weights.raw_blobs(i) for i in range(2)])
    assert (tmp_path / "x").read_bytes() == path.read_bytes()


def test_blobs_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    write_caffemodel(path, small_net(), {"ip": BLOBS[1]})
    assert np.array_equal(load_weights(path)["ip"][0], BLOBS[1][0])
    with pytest.raises(WeightsError, match="blobs of 'other', which is no layer of the net"):
        write_caffemodel(path, small_net(), {"other": []})


def test_raw_data_keeps_types(tmp_path: Path) -> None:
    half = BLOBS[1][0].astype(np.float16)
    path = tmp_path / "x.caffemodel"
    write_caffemodel(path, small_net(), {"ip": [half]}, raw_data=True, dialect="nvidia")
    assert load_weights(path)["ip"][0].dtype == np.float16
    write_caffemodel(path, small_net(), {"ip": [half]})
    assert load_weights(path)["ip"][0].dtype == np.float32


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    with pytest.raises(WeightsError, match="blobs of 1 layers, but the net has 3"):
        write_caffemodel(path, small_net(), [[]])
    with pytest.raises(WeightsError, match="'ip' has 1 blobs, but 2 diffs"):
        write_caffemodel(path, small_net(), {"ip": BLOBS[1][:1]}, diffs={"ip": BLOBS[1]})
    with pytest.raises(WeightsError, match="layer 'ip', blob 0 cannot be written: its shape"):
        write_caffemodel(path, small_net(), {"ip": BLOBS[1][:1]}, diffs={"ip": BLOBS[1][1:]})
    with pytest.raises(WeightsError, match="its type complex64"):
        write_caffemodel(path, small_net(), {"ip": [np.zeros(3, np.complex64)]})
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # before, no array had more than 32 axes
        with pytest.raises(WeightsError, match="33 axes"):
            write_caffemodel(path, small_net(), {"ip": [np.zeros([1] * 33, np.float32)]})
    with pytest.raises(DialectError, match="nonsense"):
        write_caffemodel(path, small_net(), {}, dialect="nonsense")
    assert os.listdir(tmp_path) == []


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be written"):
        write_caffemodel(tmp_path / "none" / "x.caffemodel", small_net(), BLOBS)


arrays = st.builds(
    lambda dims, kind, order, seed: (
        np.asarray(np.random.default_rng(seed).standard_normal(dims).astype(kind), order=order)[
            ..., :: -1 if order == "F" and dims else 1
        ]
        if dims
        else np.asarray(seed, kind)
    ),
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from(["<f4", "<f8", ">f4", "<f2"]),
    st.sampled_from("CF"),
    st.integers(0, 9),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(arrays, max_size=3), max_size=4))
def test_round_trip(tmp_path: Path, blobs: list[list[np.ndarray]]) -> None:
    net = pb.NetParameter()
    for i in range(len(blobs) + 1):
        net.layer.add(name=f"layer{i}", type="Any")
    path = tmp_path / "x.caffemodel"
    write_caffemodel(path, net, [*blobs, []], sync=False)
    weights = load_weights(path)
    for i, wanted in enumerate(blobs):
        for a, b in zip(weights.arrays(i), wanted, strict=True):
            assert a.shape == b.shape
            assert a.dtype == (np.float64 if b.dtype.itemsize == 8 and b.size else np.float32)
            assert np.array_equal(a, b)


# -- size -----------------------------------------------------------------------------------


def test_memory_is_not_multiplied(tmp_path: Path) -> None:
    """An array that is no memory of its own is written a slab at a time."""
    path = tmp_path / "x.caffemodel"
    wide = np.broadcast_to(np.arange(5, dtype=np.float32)[:, None], (5, 3_000_000))
    write_caffemodel(path, small_net(), {"ip": [wide]}, sync=False)
    weights = load_weights(path)
    assert weights["ip"][0].shape == (5, 3_000_000)
    assert weights["ip"][0][3, 2_999_999] == 3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["written", "sparse"])
def test_files_over_four_gigabytes(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4_320_000_000
    if NIGHT and shutil.disk_usage(tmp_path).free < size + (2 << 30):
        pytest.skip(f"needs {size / 1e9:.0f} GB of disk")
    path = tmp_path / "large.caffemodel"
    rows, columns = SHAPE
    tail = np.arange(3, dtype=np.float32)
    if how == "written":
        large = huge(tmp_path, monkeypatch)
        write_caffemodel(path, small_net(), {"ip": [large, tail]}, sync=False)
    else:
        shape = bytes_field(7, bytes_field(1, varint(rows) + varint(columns)))
        numbers = b"\x2a" + varint(4 * rows * columns)
        blob = b"\x3a" + varint(len(numbers) + 4 * rows * columns + len(shape)) + numbers
        end = shape + bytes_field(7, bytes_field(5, tail.tobytes()) + bytes_field(7, b"\x0a\1\3"))
        head = bytes_field(1, b"ip") + blob
        layer = len(head) + 4 * rows * columns + len(end)
        with open(path, "wb") as file:
            file.write(b"\xa2\x06" + varint(layer) + head)
            file.seek(4 * rows * columns, os.SEEK_CUR)
            file.write(end)
    assert path.stat().st_size > 1 << 32
    weights = load_weights(path)
    array = weights["ip"][0]
    assert array.shape == (rows, columns)
    assert array[rows - 1, -1] == (rows - 1 if how == "written" else 0)
    assert np.array_equal(weights["ip"][1], tail)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(WeightsError, match="needs 1 bytes more"):
        load_weights(path)


def test_errors_are_of_one_family() -> None:
    assert issubclass(WeightsError, CaffeIOError)
