"""Two models layer by layer: the first difference, and why."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import caffeio
from caffeio.cli.main import main
from caffeio.converters.onnx.export import export_onnx
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import load_weights, write_caffemodel
from tests.paths import GOLDEN

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NET = GOLDEN / "nets" / "residual_inplace"
INPUT = 'layer { name: "source" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 7 } } }\n'  # noqa: E501
SMALL = INPUT + (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"'
    " convolution_param { num_output: 4 kernel_size: 3 } }\n"
    'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }\n'
    'layer { name: "scale" type: "Scale" bottom: "conv" top: "conv"'
    " scale_param { bias_term: true } }\n"
    'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }\n'
    'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"'
    " pooling_param { pool: AVE kernel_size: 2 stride: 2 } }\n"
    'layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"'
    " inner_product_param { num_output: 5 } }\n"
    'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
)  # fmt: skip


def run(*args: str | Path, command: str = "verify") -> Result:
    result = CliRunner().invoke(main, [command, *map(str, args)])
    assert "Traceback" not in result.output
    return result


def data(*args: str | Path) -> dict[str, object]:
    result = run(*args, "--json")
    assert result.exit_code in (0, 1), result.output
    found: dict[str, object] = json.loads(result.stdout)
    assert found["same"] == (result.exit_code == 0)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.prototxt").write_text(SMALL)
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32)

    blobs = {
        "conv": [some(4, 3, 3, 3), some(4)],
        "bn": [some(4) * 5, np.abs(some(4)) / 9 + 0.05, np.full(1, 5, np.float32)],
        "scale": [some(4) + 2, some(4)],
        "fc": [some(5, 36), some(5)],
    }
    write_caffemodel(tmp_path / "a.caffemodel", read_net(tmp_path / "a.prototxt").message, blobs)
    return tmp_path


def other(folder: Path, old: str, new: str) -> tuple[Path, Path]:
    """The net with one thing changed, and the same weights."""
    assert old in SMALL
    (folder / "b.prototxt").write_text(SMALL.replace(old, new))
    return folder / "b.prototxt", folder / "a.caffemodel"


def test_a_net_and_its_onnx_model(folder: Path) -> None:
    files = folder / "a.prototxt", folder / "a.caffemodel"
    export_onnx(*files, folder / "a.onnx")
    for args in ((*files, folder / "a.onnx"), (folder / "a.onnx", *files)):
        found = data(*args)
        assert found["same"]
        assert {row["layer"] for row in found["layers"]} == {  # type: ignore[attr-defined]
            "conv", "scale", "relu", "pool", "fc", "prob",
        }  # fmt: skip
    result = run(*files, folder / "a.onnx")
    assert result.exit_code == 0
    assert "The same on 3 inputs" in result.stdout and "SHA-256" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "layer", "cause"),
    [
        ('top: "conv" }\nlayer { name: "scale"',
         'top: "conv" batch_norm_param { use_global_stats: false } }\nlayer { name: "scale"',
         "bn", "use_global_stats"),
        ('top: "conv" }\nlayer { name: "scale"',
         'top: "conv" batch_norm_param { eps: 0.001 } }\nlayer { name: "scale"',
         "bn", "eps is"),
        ("stride: 2 } }", "stride: 2 round_mode: FLOOR } }", "pool", "rounds the number of"),
        ("pool: AVE", "pool: MAX", "pool", "compute Pooling differently"),
        ('layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }',
         'layer { name: "relu" type: "Dropout" bottom: "conv" top: "conv" }',
         "relu", "leaves the layer out"),
    ],
)  # fmt: skip
def test_the_first_difference(folder: Path, old: str, new: str, layer: str, cause: str) -> None:
    net, weights = other(folder, old, new)
    if "FLOOR" in new:  # the classifier takes what the pooling makes
        net.write_text(net.read_text().split('layer { name: "fc"')[0])
        (folder / "a.prototxt").write_text(
            SMALL.split('layer { name: "fc"')[0].replace("dim: 7 dim: 7", "dim: 8 dim: 9")
        )
        net.write_text(net.read_text().replace("dim: 7 dim: 7", "dim: 8 dim: 9"))
    found = data(folder / "a.prototxt", folder / "a.caffemodel", net, weights, "--dialect", "bvlc")
    assert not found["same"]
    assert found["first"] == layer, found
    assert cause in str(found["cause"])


def test_other_weights_and_channel_order(folder: Path) -> None:
    blobs = load_weights(folder / "a.caffemodel").copy()
    net = read_net(folder / "a.prototxt").message
    turned = {**blobs, "conv": [blobs["conv"][0][:, ::-1], blobs["conv"][1]]}
    write_caffemodel(folder / "rgb.caffemodel", net, turned)
    args = folder / "a.prototxt", folder / "a.caffemodel", folder / "a.prototxt"
    found = data(*args, folder / "rgb.caffemodel")
    assert (found["first"], "RGB against BGR" in str(found["cause"])) == ("conv", True)
    blobs["fc"][0][2, 3] += 5
    write_caffemodel(folder / "b.caffemodel", net, blobs)
    found = data(*args, folder / "b.caffemodel")
    assert found["first"] == "fc"
    assert "blob 0 of the layer is another one" in str(found["cause"])


def test_tensors_use_the_net_of_the_other_side(folder: Path) -> None:
    files = folder / "a.prototxt", folder / "a.caffemodel"
    for name in ("w.npz", "w.safetensors", "w.pt"):
        run(*files, folder / name, command="convert")
        assert data(*files, folder / name)["same"]


def test_torch_programs(folder: Path) -> None:
    files = folder / "a.prototxt", folder / "a.caffemodel"
    net = caffeio.load_net(*files)

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net({"data": x})["prob"]

    example = torch.zeros(2, 3, 7, 7)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Plain(), example).save(str(folder / "p.pt"))
        program = torch.export.export(Plain(), (example,), strict=False)  # as from torch 2.7 on
        torch.export.save(program, str(folder / "p.pt2"))
    assert data(*files, folder / "p.pt")["same"]
    assert data(*files, folder / "p.pt2")["same"]
    (folder / "odd.pt2").write_bytes(b"odd")
    assert "is no PyTorch program" in run(*files, folder / "odd.pt2").stderr


def test_given_inputs_and_pages(folder: Path) -> None:
    net, weights = other(folder, "pool: AVE", "pool: MAX")
    np.savez(folder / "in.npz", data=np.zeros((2, 3, 7, 7), np.float32))
    pair = folder / "a.prototxt", folder / "a.caffemodel", net, weights
    assert run(*pair, "--inputs", folder / "in.npz").exit_code == 0  # zeros cannot tell
    result = run(*pair, "--html", "-o", folder / "c.html")
    assert result.exit_code == 1
    page = (folder / "c.html").read_text()
    assert "NOT the same" in page and "First layer that differs: &#x27;pool&#x27;" in page
    np.savez(folder / "in.npz", other=np.zeros(3))
    assert "no value is given for input data" in run(*pair, "--inputs", folder / "in.npz").stderr


def test_what_are_not_two_models(folder: Path) -> None:
    files = folder / "a.prototxt", folder / "a.caffemodel"
    assert "1 models are named" in run(*files).stderr
    assert "there is no such file" in run(*files, folder / "none.onnx").stderr


def test_a_certificate(folder: Path) -> None:
    files = folder / "a.prototxt", folder / "a.caffemodel"
    for target in ("m.onnx", "d.prototxt", "m.safetensors"):
        more = ["--deploy"] if target == "d.prototxt" else []
        page = folder / f"{target}.html"
        result = run(*files, folder / target, *more, "--certificate", page, command="convert")
        assert result.exit_code == 0, result.output
        text = page.read_text()
        assert f"Certificate: {target} computes what its source does" in text
        assert str(folder / target) in text and ".caffeio-" not in text
    shutil.copy(NET / "weights.caffemodel", folder / "w.caffemodel")
    args = (folder / "w.caffemodel", folder / "x.onnx", "--certificate", folder / "c.json")
    assert run(*args, command="convert").exit_code == 0
    assert json.loads((folder / "c.json").read_text())["same"]
