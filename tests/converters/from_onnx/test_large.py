"""Models of gigabytes, by small ones: nothing copies large weights, and no file is too large."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import caffeio
from caffeio.converters.from_onnx import model as models
from caffeio.converters.from_onnx import torch_export, write
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.load import load_model
from caffeio.converters.from_onnx.model import mapped
from caffeio.converters.from_onnx.verify import build_net, verify
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import load_net
from tests.converters.from_onnx.helpers import NEAR, graph_of, onnx
from tests.paths import EXPORTS_PROGRAMS

pytest.importorskip("onnxruntime")
WIDTH = 1536  # a matrix of 9.4 MB
BYTES = 2 * 4 * WIDTH**2


def net_of(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).eval()


def model_file(folder: Path, width: int = WIDTH) -> Path:
    """Two products by matrices in a file beside the model."""
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        for name in ("w1", "w2")
    }
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w1"], ["a"], transB=1),
        onnx.helper.make_node("Relu", ["a"], ["b"]),
        onnx.helper.make_node("Gemm", ["b", "w2"], ["y"], transB=1),
    ]
    model = graph_of(nodes, {"x": ["N", width]}, ["y"], weights)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["N", width]))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data")
    return folder / "m.onnx"


def arrays_of(net: Compiled) -> list[np.ndarray]:
    return [blob for layer in net.layers for blob in layer.blobs]


def test_weights_in_a_file_are_mapped_and_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "READ", 1000)
    verify(compile_model(load_model(model_file(tmp_path, 8))))  # modules take memory, too
    path = model_file(tmp_path)
    tracemalloc.start()
    try:
        model = load_model(path)
        net = compile_model(model)
        assert verify(net).worst <= NEAR
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < BYTES / 8  # no copy of either matrix, in numpy or as bytes
    assert model.proto.ByteSize() < 5000  # nor in a message
    places = [array.ctypes.data for array in model.weights.values()]
    assert [array.ctypes.data for array in arrays_of(net)] == places
    built = build_net(net)
    assert [blob.data_ptr() for step in built.steps for blob in step.layer.blobs] == places


def test_weights_of_a_module_are_its_own_until_the_net_is_handed_out() -> None:
    pytest.importorskip("onnxscript")
    module: Any = net_of(WIDTH)
    x = torch.randn(1, WIDTH)
    model = torch_export.model_of_module(module, x)
    own = {module[0].weight.data_ptr(), module[2].weight.data_ptr()}
    shared = {array.ctypes.data for array in model.weights.values()}
    assert shared == own if EXPORTS_PROGRAMS else not shared & own  # TorchScript's are copies
    assert shared <= {array.ctypes.data for array in arrays_of(compile_model(model))}
    net = caffeio.from_torch(module, x)
    with torch.no_grad():
        wanted = module(x)
        for blob in net.parameters():
            blob.zero_()
        assert torch.equal(module(x), wanted)


@pytest.mark.parametrize("width", [8, 1536])
def test_the_old_exporter_writes_to_a_file_what_is_too_large(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(torch_export, "_TOO_LARGE", 1000)
    monkeypatch.setattr(models, "LARGE", 200)
    module, x = net_of(width), torch.randn(2, width)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(torch_export, "find_spec", lambda _: None)
        net = caffeio.from_torch(module, x)
    with torch.no_grad():
        [mine] = net({"data": x}).values()
        assert torch.allclose(mine, module(x), atol=1e-5)


def test_what_no_caffemodel_can_hold_is_written_as_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5py")
    monkeypatch.setattr(write, "_MOST", 2000)
    module, x = net_of(32), torch.randn(1, 32)
    with pytest.raises(UnsupportedError, match=r"by protobuf, which stops there\. Write HDF5"):
        caffeio.from_torch(module, x, caffemodel=tmp_path / "net.caffemodel")
    assert not list(tmp_path.iterdir())
    caffeio.from_torch(module, x, caffemodel=tmp_path / "net.caffemodel.h5")
    net = load_net(tmp_path / "net.prototxt", tmp_path / "net.caffemodel.h5")
    with torch.no_grad():
        [mine] = net({"data": x}).values()
        assert torch.allclose(mine, module(x), atol=1e-5)


def test_shared_blobs_are_in_hdf5_once(tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module, x = nn.GRU(4, 3), torch.randn(3, 1, 4)
    net = caffeio.from_torch(module, x, caffemodel=tmp_path / "net.h5")
    again = load_net(tmp_path / "net.prototxt", tmp_path / "net.h5")
    with torch.no_grad():
        for name, value in net({"data": x}).items():
            assert torch.equal(again({"data": x})[name], value)
    with h5py.File(tmp_path / "net.h5") as file:
        counts = [len(group) for group in file["data"].values()]
    assert sum(counts) == 6  # three products, though there are three steps of each


@pytest.mark.parametrize("size", [1000, BYTES // 2])
@pytest.mark.parametrize("mapped_from", [1000, 1 << 28])
def test_a_file_that_is_shortened_while_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, mapped_from: int
) -> None:
    """A map would end the process with a bus error: the file is looked at before each use."""
    monkeypatch.setattr(models, "READ", mapped_from)
    path = model_file(tmp_path)
    model = load_model(path)
    net = compile_model(model)
    with (tmp_path / "m.data").open("r+b") as file:
        file.truncate(size)
    if mapped_from > BYTES:  # it was read
        assert verify(net).worst <= NEAR
        return
    written = r"m\.data: was written while it was read"
    with pytest.raises(CaffeIOError, match=written):
        verify(net)
    with pytest.raises(CaffeIOError, match=written):
        compile_model(model)
    with pytest.raises(CaffeIOError, match=written):
        write.write_files(net, tmp_path / "n.caffemodel", tmp_path / "n.prototxt", "a test")
    assert not list(tmp_path.glob("n.*"))


def test_another_file_in_the_place_of_a_mapped_one_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "READ", 1000)
    net = compile_model(load_model(model_file(tmp_path)))
    (tmp_path / "other").write_bytes(b"short")
    (tmp_path / "other").replace(tmp_path / "m.data")
    assert verify(net).worst <= NEAR


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("location", "../m.data", "points outside of the model's folder"),
        ("location", "", "points outside of the model's folder"),
        ("location", "none.data", r"its weights are not at .*none\.data"),
        ("offset", "99999999999", r"lies at bytes 99999999999 to \d+ of .*m\.data, which has"),
        ("offset", "-4", "lies at bytes -4"),
        ("offset", "x", "cannot be found"),
        ("length", "8", r"has 8 bytes in .*m\.data; \(16, 16\) are 1024"),
    ],
)
def test_damaged_external_data(tmp_path: Path, entry: str, value: str, said: str) -> None:
    path = model_file(tmp_path, 16)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    if tensor.data_location != tensor.EXTERNAL:  # so small that onnx keeps them inside
        onnx.save(
            onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0
        )
        proto = onnx.load(path, load_external_data=False)
        tensor = proto.graph.initializer[0]
    for item in tensor.external_data:
        if item.key == entry:
            item.value = value
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CaffeIOError, match=said) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.parametrize("large", [16, models.LARGE])
def test_halves_and_unaligned_tensors_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, offset: int, large: int
) -> None:
    """What is no float32 at a multiple of its size is read instead of mapped."""
    monkeypatch.setattr(models, "LARGE", large)
    rng = np.random.default_rng(1)
    w = rng.standard_normal((4, 4)).astype(np.float16)
    if kind == "FLOAT16":
        raw = w.tobytes()
    else:
        high = w.astype(np.float32).view(np.uint32) >> 16
        raw, w = high.astype(np.uint16).tobytes(), (high << 16).view(np.float32)
    nodes = [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])]
    proto = graph_of(nodes, {"x": [1, 4]}, ["y"], {"w": w})
    proto.graph.input[0].type.tensor_type.elem_type = getattr(onnx.TensorProto, kind)
    tensor = proto.graph.initializer[0]
    (tmp_path / "m.data").write_bytes(b"?" * offset + raw)
    tensor.ClearField("raw_data")
    tensor.data_type = getattr(onnx.TensorProto, kind)
    tensor.data_location = tensor.EXTERNAL
    for key, value in (("location", "m.data"), ("offset", str(offset)), ("length", "32")):
        tensor.external_data.add(key=key, value=value)
    net = compile_model(mapped(proto, tmp_path))
    np.testing.assert_array_equal(arrays_of(net)[0], w.astype(np.float32).T)
    assert verify(net).worst <= NEAR


def test_no_value_is_kept_for_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """All values of a net for large pictures take gigabytes."""
    from caffeio.converters.from_onnx import fold

    most = [0]

    class Runner(fold.OnnxRunner):
        def __call__(self, inputs: Any) -> dict[str, Any]:
            found = super().__call__(inputs)
            most[0] = max(most[0], sum(np.asarray(value).nbytes for value in found.values()))
            return found

    monkeypatch.setattr(fold, "OnnxRunner", Runner)
    nodes = [onnx.helper.make_node("Relu", ["x"], ["a"]),
             onnx.helper.make_node("CastLike", ["k", "x"], ["c"]),
             onnx.helper.make_node("Mul", ["a", "c"], ["y"])]  # fmt: skip
    model = graph_of(nodes, {"x": ["N", 3, 99, 99]}, ["y"], {"k": np.array(3)})
    assert verify(compile_model(model)).worst == 0
    assert 0 < most[0] < 200
