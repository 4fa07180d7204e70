from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import caffeio
from caffeio.converters.convert.convert import CONVERSIONS, listing
from caffeio.converters.weightfiles import FORMATS, read_weights
from caffeio.proto.files import read_net
from tests.cli.converting import bad, good, run
from tests.paths import GOLDEN

NET = GOLDEN / "nets" / "residual_inplace"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A net and its weights as Caffe wrote them."""
    shutil.copy(NET / "net.prototxt", tmp_path / "net.prototxt")
    shutil.copy(NET / "weights.caffemodel", tmp_path / "w.caffemodel")
    return tmp_path


@pytest.mark.parametrize("suffix", ["h5", "safetensors", "pt", "pth", "npz"])
@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("nets/*/*.caffemodel")), ids=lambda p: p.parent.name
)
def test_weights_come_back_as_caffe_wrote_them(path: Path, suffix: str, tmp_path: Path) -> None:
    if suffix == "h5":
        pytest.importorskip("h5py")
    there, back = tmp_path / f"w.caffemodel.{suffix}", tmp_path / "back.caffemodel"
    good(path, there)
    good(path.with_name("net.prototxt"), there, back)
    assert back.read_bytes() == path.read_bytes()
    if suffix == "h5" and path.with_suffix(".caffemodel.h5").exists():
        ours, theirs = (read_weights(p, "h5") for p in (there, path.with_suffix(".caffemodel.h5")))
        assert list(ours) == list(theirs)


def test_every_pair_of_tensor_formats(folder: Path) -> None:
    pytest.importorskip("h5py")
    expected = caffeio.load_weights(folder / "w.caffemodel")
    kinds = [kind for kind in FORMATS if kind != "caffemodel"]
    for start in kinds:
        first = folder / f"first{FORMATS[start].suffixes[0]}"
        good(folder / "net.prototxt", folder / "w.caffemodel", first)
        for end in kinds:
            if start == end:
                continue
            second = folder / f"{start}-second{FORMATS[end].suffixes[0]}"
            good(first, second)
            found = read_weights(second, end)
            assert set(found) == set(expected)
            for layer, arrays in expected.items():
                for mine, theirs in zip(found[layer], arrays, strict=True):
                    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "order", [("net.prototxt", "w.caffemodel"), ("w.caffemodel", "net.prototxt")]
)
def test_onnx_is_verified(folder: Path, order: tuple[str, str]) -> None:
    pytest.importorskip("onnxruntime")
    result = good(*(folder / name for name in order), folder / "m.onnx")
    assert "compared with the net as given, on 3 random inputs" in result.stdout
    assert "before the Softmax" in result.stdout
    words, _, number = result.stdout.strip().rpartition(": ")
    assert words.endswith("largest relative difference against onnxruntime")
    assert float(number) < 1e-5
    assert sorted(p.name for p in folder.iterdir()) == ["m.onnx", "net.prototxt", "w.caffemodel"]


def test_onnx_without_a_prototxt(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    good(folder / "w.caffemodel", folder / "m.onnx", "--dynamic-batch", "--output-blob", "conv1")
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "m.onnx")
    assert [o.name for o in model.graph.output] == ["conv1"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 3, 9, 8]


def test_a_wrong_model_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from caffeio.layers.neuron import ReLU

    monkeypatch.setattr(ReLU, "onnx", lambda self, g, x: g.op("Neg", [x]))
    message = bad(folder / "net.prototxt", folder / "w.caffemodel", folder / "m.onnx")
    assert "differ by" in message and "--no-verify" in message
    assert sorted(p.name for p in folder.iterdir()) == ["net.prototxt", "w.caffemodel"]
    result = good(
        folder / "net.prototxt", folder / "w.caffemodel", folder / "m.onnx", "--no-verify"
    )
    assert result.output == ""
    assert (folder / "m.onnx").exists()


def test_layers_without_onnx_form_are_named(folder: Path) -> None:
    path = folder / "odd.prototxt"
    path.write_text(
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "odd" type: "Dropout" bottom: "a" top: "b"'
        " dropout_param { sample_weights_test: true } }"
    )
    message = bad(path, folder / "m.onnx")
    assert f"{path}:2:1: layer 'odd' (type Dropout) has no ONNX form: it drops at random" in message


def test_translation(folder: Path) -> None:
    fork = folder / "fork.caffemodel"
    text = folder / "fork.prototxt"
    text.write_text(
        'name: "n" layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2'
        ' dim: 600 dim: 601 } } } layer { name: "p" type: "Permute" bottom: "d" top: "p"'
        " permute_param { order: 0 order: 3 order: 1 order: 2 } }"
    )
    good(text, fork, "--to-dialect", "ssd", "--untrained")
    to_bvlc = (fork, folder / "plain.caffemodel", "--to-dialect", "bvlc", "--dialect", "ssd")
    assert "lost: layer[1].permute_param" in bad(*to_bvlc)
    result = good(*to_bvlc, "--allow-loss")
    assert "ssd to bvlc" in result.stdout
    assert "permute_param" in result.stderr
    assert "--to-dialect" in bad(fork, folder / "plain.caffemodel")


def test_prototxt_out_of_a_caffemodel(folder: Path) -> None:
    out = folder / "out.prototxt"
    result = good(folder / "w.caffemodel", out)
    assert "Split" in result.stderr
    assert [x.type for x in read_net(out).message.layer][:2] == ["Input", "Convolution"]
    assert "--force" in bad(folder / "w.caffemodel", out, "--deploy")
    good(folder / "w.caffemodel", out, "--deploy", "--input-shape", "data=5,3,9,8", "-qf")
    first = read_net(out).message.layer[0]
    assert (first.type, list(first.input_param.shape[0].dim)) == ("Input", [5, 3, 9, 8])
    piped = good("-", "-", "--to", "prototxt", stdin=(folder / "w.caffemodel").read_bytes())
    assert piped.stdout.startswith('name: "residual_inplace"\nlayer {\n')


def test_deploy_prototxt_of_a_training_one(folder: Path) -> None:
    good(folder / "net.prototxt", folder / "w.caffemodel", folder / "d.prototxt", "--deploy")
    types = [layer.type for layer in read_net(folder / "d.prototxt").message.layer]
    assert types[0] == "Input" and types[-1] == "Softmax" and "SoftmaxWithLoss" not in types
    assert "--deploy" in bad(folder / "net.prototxt", folder / "d2.prototxt")


def test_binary_net_and_mean(folder: Path) -> None:
    good(folder / "net.prototxt", folder / "net.binaryproto")
    assert read_net(folder / "net.binaryproto").message.name == "residual_inplace"
    mean = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    np.save(folder / "mean.npy", mean)
    good(folder / "mean.npy", folder / "mean.binaryproto")
    good(folder / "mean.binaryproto", folder / "again.npy")
    np.testing.assert_array_equal(np.load(folder / "again.npy"), mean)


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    weights, net = folder / "w.caffemodel", folder / "net.prototxt"
    assert "give --to, one of binary, caffemodel" in bad(weights, folder / "x.foo")
    assert "ONNX model (onnx) cannot become" in bad(_touch(folder / "m.onnx"), folder / "x.pt")
    assert "npz          to h5" in bad(_touch(folder / "m.onnx"), folder / "x.pt")
    assert "takes no option --deploy" in bad(weights, folder / "x.pt", "--deploy")
    good(weights, folder / "w.pt")
    assert "give the prototxt too" in bad(folder / "w.pt", folder / "x.caffemodel")
    assert "give one file, or" in bad(weights, weights, folder / "x.pt")
    assert "no such file" in bad(folder / "none.prototxt", folder / "x.onnx")
    assert "cannot be written" in bad(net, weights, folder / "none" / "x.onnx")
    assert "'nonsense' is no format" in bad(weights, folder / "x.pt", "--to", "nonsense")
    assert run(weights, "-").exit_code == 2
    assert "no blob 'none'" in bad(net, weights, folder / "x.onnx", "--output-blob", "none")
    (folder / "solver.prototxt").write_text("base_lr: 0.1")
    assert "a solver cannot be converted" in bad(folder / "solver.prototxt", folder / "x.onnx")
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(("x", ".caffeio"))) == []


def _touch(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def test_listing_has_every_conversion() -> None:
    rows = dict(line.split(" to ") for line in listing().splitlines()[1:])
    found = {(a.strip(), b) for a, ends in rows.items() for b in ends.split(", ")}
    assert found == set(CONVERSIONS)
