"""The recipe of a net's pictures: told by show and convert, and the scripts do what Caffe does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from caffeio import load_net
from caffeio.cli.main import main
from caffeio.converters.preprocessing import RUNTIMES, Recipe, recipe_of, script
from caffeio.data import make_source
from caffeio.errors import UnsupportedError
from caffeio.proto.files import read_net
from tests import warm

NET = """
name: "pictures"
layer {{ name: "data" type: "ImageData" top: "data" top: "label" include {{ phase: TEST }}
  image_data_param {{ source: "list.txt" batch_size: 1 root_folder: "{folder}/" {size} {gray} }}
  transform_param {{ {transform} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 3 kernel_size: 3
    weight_filler {{ type: "gaussian" std: 0.02 }} }} }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "pool" bottom: "label" top: "loss" }}
"""
CASES = {
    "values": ("new_height: 12 new_width: 10", "", "mean_value: 104 mean_value: 117 mean_value: 3"),
    "crop": ("new_height: 14 new_width: 13", "", "crop_size: 8 mean_value: 100 scale: 0.0125"),
    "gray": ("new_height: 12 new_width: 12", "is_color: false", "scale: 0.00390625"),
    "image": ("new_height: 9 new_width: 9", "", 'crop_size: 8 mean_file: "mean.binaryproto"'),
    "whole": ("", "", 'mean_file: "mean.binaryproto"'),
}  # fmt: skip


def make(folder: Path, case: str) -> tuple[Path, np.ndarray]:
    """A net, its weights and a picture; returns the net and its probabilities as Caffe has them."""
    resize, gray, transform = CASES[case]
    text = NET.format(folder=folder.as_posix(), size=resize, gray=gray, transform=transform)
    (folder / "net.prototxt").write_text(text)
    (folder / "list.txt").write_text("a.png 1\n")
    draws = np.random.default_rng(0)
    size = (9, 9, 3) if case == "whole" else (20, 17, 3)
    cv2.imwrite(str(folder / "a.png"), draws.integers(0, 256, size).astype(np.uint8))
    np.save(folder / "mean.npy", draws.uniform(90, 130, (1, 3, 9, 9)).astype(np.float32))
    CliRunner().invoke(main, ["convert", f"{folder}/mean.npy", f"{folder}/mean.binaryproto"])
    net = load_net(folder / "net.prototxt", seed=1)
    net.save(folder / "w.caffemodel")
    layer = read_net(folder / "net.prototxt").message.layer[0]
    with make_source(layer, phase="TEST", profile=net.profile, search_path=[str(folder)]) as source:
        data = source.next()[0]
    with torch.no_grad():
        net({"data": data, "label": torch.zeros(1)})
        return folder / "net.prototxt", torch.softmax(net.blobs["pool"], 1).flatten().numpy()


@pytest.mark.parametrize("case", CASES)
def test_scripts_do_what_caffe_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Caffe finds lists and means where it is started
    net, expected = make(tmp_path, case)
    for kind in ("onnx", "py"):
        args = ["convert", str(net), f"{tmp_path}/w.caffemodel", f"{tmp_path}/net.{kind}"]
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, result.output
        assert "pictures for it" in result.output
    wanted = {"opencv": "cv2", "onnxruntime": "onnxruntime", "pytorch": "safetensors"}
    for runtime in RUNTIMES:
        pytest.importorskip(wanted[runtime])
        shown = CliRunner().invoke(main, ["show", str(net), "--script", runtime])
        assert shown.exit_code == 0, shown.output
        assert len([line for line in shown.stdout.splitlines() if line.strip()]) <= 18
        (tmp_path / "feed.py").write_text(shown.stdout)
        done = subprocess.run(
            **warm.command("feed.py", "a.png"), cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = np.array(json.loads(done.stdout))
        assert np.abs(found - expected).max() < 1e-5, runtime


def test_show_tells_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net, _ = make(tmp_path, "crop")
    text = CliRunner().invoke(main, ["show", str(net)]).stdout
    for words in ("BGR, as cv2.imread", "14x13", "8x8 out of the middle", "100 subtracted"):
        assert words in text
    data = json.loads(CliRunner().invoke(main, ["show", str(net), "--json"]).stdout)
    assert data["preprocessing"]["scale"] == "times 0.0125"


def test_a_deploy_net_tells_nothing_of_means() -> None:
    net = read_net('input: "x" input_shape { dim: 1 dim: 3 dim: 5 dim: 4 }').message
    found = recipe_of(net, {"x": (1, 3, 5, 4)})
    assert found == Recipe("x", (1, 3, 5, 4), told=False)
    assert "does not tell" in found.line()
    assert recipe_of(net, {"x": (1, 7, 5, 4)}) is None
    with pytest.raises(UnsupportedError, match="opencv, onnxruntime, pytorch"):
        script(found, "caffe", "net")
