"""`caffeio features`: what it says and draws is what the net computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from caffeio.cli.main import main
from caffeio.converters.features import Preprocessing, see
from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from tests.data.helpers import photo
from tests.paths import SHARED, needs_shared

NET = """
name: "small"
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.0078125 mean_value: 104 mean_value: 117 mean_value: 123 crop_size: 12 }
  data_param { source: "not_here" batch_size: 9 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 14 kernel_size: 3 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "relu" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 6 weight_filler { type: "gaussian" std: 0.2 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "acc" }
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    model, weights, picture = (tmp_path / name for name in ("n.prototxt", "w.caffemodel", "p.png"))
    model.write_text(NET)
    shapes = {"data": (1, 3, 12, 12), "label": (1,)}
    load_net(model, seed=3, input_shapes=shapes).save(weights)
    cv2.imwrite(str(picture), photo(3, 40, 60))
    return model, weights, picture


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["features", *map(str, arguments)])


def by_hand(files: tuple[Path, Path, Path], mean: Any, scale: float) -> dict[str, Any]:
    """The same, in NumPy and plain calls of the net."""
    model, weights, picture = files
    shapes = {"data": (1, 3, 12, 12), "label": (1,)}
    net = load_net(model, weights, input_shapes=shapes)
    small = cv2.resize(cv2.imread(str(picture)), (12, 12)).astype(np.float32)
    x = torch.from_numpy(((small - mean) * scale).transpose(2, 0, 1)[None].astype(np.float32))
    x.requires_grad_()
    net({"data": x, "label": torch.zeros(1)})
    scores = net.blobs["fc"].flatten()
    [gradient] = torch.autograd.grad(scores[scores.argmax()], x)
    return {
        "prob": torch.softmax(scores.detach(), 0).numpy(),
        "conv1": net.blobs["conv1"].detach()[0].numpy(),
        "gradient": gradient[0].abs().amax(0).numpy(),
    }


def test_classes_and_maps(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\neel\nfox\n")
    out = tmp_path / "out.png"
    result = run(*files, "--classes", names, "--top", 3, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    wanted = by_hand(files, np.array([104, 117, 123], np.float32), 0.0078125)
    order = np.argsort(-wanted["prob"])[:3]
    assert [row["class"] for row in said["classes"]] == order.tolist()
    assert [row["name"] for row in said["classes"]] == [
        ["ant", "bee", "cat", "dog", "eel", "fox"][i] for i in order
    ]
    np.testing.assert_allclose(
        [row["score"] for row in said["classes"]], wanted["prob"][order], rtol=1e-5
    )
    assert said["prepared"].endswith("as layer 'd' says: mean 104, 117, 123, times 0.0078125")
    assert sorted(said["maps"]) == ["conv1", "pool"]
    strongest = np.argsort(-np.abs(wanted["conv1"]).mean((1, 2)), kind="stable")[:12]
    assert said["maps"]["conv1"] == sorted(strongest.tolist())
    assert cv2.imread(str(out)) is not None


def test_the_maps_are_drawn(files: tuple[Path, Path, Path]) -> None:
    """The cells show the blob's values in the order of the colour map."""
    seen = see(*files, blobs=["conv1"])
    values = by_hand(files, np.array([104, 117, 123], np.float32), 0.0078125)["conv1"]
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_VIRIDIS)[:, 0]
    sheet = seen.picture[-(96 + 6 + 16) :]
    place = next(  # the first cell, where the title ends: the first column without any paper
        x for x in range(sheet.shape[1]) if (sheet[4:90, x] != 250).any(1).all()
    )
    cell = sheet[:96, place : place + 96]
    one = values[seen.maps["conv1"][0]]
    centres = ((np.arange(10) + 0.5) * 9.6).astype(int)
    shown = cell[np.ix_(centres, centres)].reshape(-1, 3).astype(int)
    levels = [int(np.abs(colours.astype(int) - pixel).sum(1).argmin()) for pixel in shown]
    wanted = (one - one.min()) / (np.ptp(one) or 1) * 255
    np.testing.assert_allclose(levels, wanted.reshape(-1), atol=2)


def test_saliency_is_the_gradient(files: tuple[Path, Path, Path]) -> None:
    from caffeio.converters import features

    kept: list[np.ndarray] = []
    blur = cv2.GaussianBlur

    def note(heat: np.ndarray, *arguments: Any) -> Any:
        kept.append(heat)
        return blur(heat, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.cv2, "GaussianBlur", note)
        see(*files)
    gradient = by_hand(files, np.array([104, 117, 123], np.float32), 0.0078125)["gradient"]
    np.testing.assert_allclose(kept[0], gradient / gradient.max(), rtol=1e-4, atol=1e-6)


def test_other_preprocessing(files: tuple[Path, Path, Path]) -> None:
    wanted = by_hand(files, np.float32(100), 0.005)["prob"]
    seen = see(*files, preprocessing=Preprocessing([100.0], 0.005), saliency=False)
    assert seen.classes[0][2] == pytest.approx(wanted.max(), rel=1e-5)
    assert "as you said: mean 100, times 0.005" in seen.preparation
    other = see(*files, preprocessing=Preprocessing([100.0], 0.005, rgb=True))
    assert other.classes[0][2] != pytest.approx(seen.classes[0][2], rel=1e-3)


def test_user_errors(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for arguments, words in (
        (("--blob", "none"), "the net has no blob 'none'"),
        (("--blob", "fc"), "has no maps to draw"),
        (("--mean", "1,2"), "the mean has 2 channels"), (("--mean", "gone.binaryproto"), "gone"),
    ):  # fmt: skip
        result = run(*files, "-o", tmp_path / "o.png", *arguments)
        assert result.exit_code == 2 and words in result.output, result.output
        assert not (tmp_path / "o.png").exists()
    result = run(files[0], files[1], tmp_path / "none.png")
    assert result.exit_code == 2 and "none.png: there is no such file" in result.output
    flat = tmp_path / "flat.prototxt"
    flat.write_text(
        'input: "a" input_shape { dim: [1, 2, 4, 4] } '
        'layer { name: "r" type: "ReLU" bottom: "a" top: "b" }'
    )
    with pytest.raises(CaffeIOError, match="no picture of 1 or 3 channels"):
        see(flat, files[1], files[2])
    two = tmp_path / "two.prototxt"
    two.write_text(
        'input: "a" input: "b" input_shape { dim: [1, 3, 4, 4] } input_shape { dim: [1, 3] } '
        'layer { name: "s" type: "Silence" bottom: "a" bottom: "b" }'
    )
    with pytest.raises(CaffeIOError, match="the inputs a, b: one picture is wanted"):
        see(two, files[1], files[2])


@needs_shared
def test_a_face_is_found(tmp_path: Path) -> None:
    folder = SHARED / "corpus" / "caffemodels" / "res10_ssd"
    [weights] = folder.glob("*.caffemodel")
    result = run(folder / "deploy.prototxt.txt", weights, SHARED / "data" / "images" / "messi5.jpg",
                 "--mean", "104,117,123", "-o", tmp_path / "o.png", "--json")  # fmt: skip
    [face] = json.loads(result.stdout)["boxes"]
    assert face["score"] > 0.9
    np.testing.assert_allclose(face["box"], [0.416, 0.274, 0.468, 0.386], atol=0.01)
