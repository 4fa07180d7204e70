"""Public nets: how many of them build, and real weights against OpenCV's outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio import load_net
from caffeio.tools.layer_support import NetChecks, check_net, check_nets
from tests.corpus import by_day
from tests.harness import assert_close
from tests.paths import NIGHT, SHARED

CORPUS = SHARED / "corpus"
FOLDER = CORPUS / "prototxt"
PINNED = Path(__file__).with_name("corpus_nets.txt")

# Nets that no Caffe builds either, with what is wrong with them.
WRONG = {
    "chuanqi305+MobileNet-SSD/template/MobileNetSSD_test_template.prototxt": "a template",
    "debian+opencv-doc/text/textbox.prototxt": "prior_box_param has fields of OpenCV's alone",
    "dgschwend+netscope/presets/fasterRCNN_ResNet.prototxt": "a type of its viewer",
    "dgschwend+netscope/presets/fcn-16s.prototxt": "both layer and layers",
    "dgschwend+netscope/presets/squeezenet.prototxt": "a loss without labels in TRAIN",
    "lltcggie+waifu2x-caffe/bin/models/anime_style_art/noise1_model.prototxt":
        "prediction and target of different sizes in TRAIN",
    "lltcggie+waifu2x-caffe/bin/models/upconv_7_anime_style_art_rgb/noise0_scale2.0x_model.prototxt":
        "prediction and target of different sizes in TRAIN",
}  # fmt: skip

LONG_AND_WRONG = 1

needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason="the corpus of nets is not here")
MODELS = (
    [m for m in json.loads((CORPUS / "caffemodels" / "index.json").read_text()) if m.get("opencv")]
    if CORPUS.exists()
    else []
)


@pytest.fixture(scope="module")
def corpus() -> NetChecks:
    paths = by_day(sorted(path for path in FOLDER.rglob("*") if path.is_file()))
    nets = map(check_net, paths)
    return NetChecks([net for net in nets if net.phases or net.reason])  # as of whole folders


def name(path: str) -> str:
    return Path(path).relative_to(FOLDER).as_posix()


@needs_corpus
def test_of_a_folder_files_without_layers_are_passed_over():
    folder = FOLDER / "BVLC+caffe" / "examples" / "mnist"
    names = {Path(net.path).name for net in check_nets([folder]).nets}
    assert names == {"lenet_train_test.prototxt"} and len([*folder.iterdir()]) > 3


@pytest.mark.slow
@needs_corpus
def test_nets_that_build_stay_so(corpus):
    """The list only grows: a net that builds for the first time belongs into it."""
    built = {
        f"{name(net.path)} {phase}"
        for net in corpus.nets
        for phase, outcome in net.phases.items()
        if outcome.built
    }
    tried = {name(net.path) for net in corpus.nets}
    pinned = {line for line in PINNED.read_text().splitlines() if line.rpartition(" ")[0] in tried}
    assert len(pinned) > 230
    assert not pinned - built, "these do not build any more"
    assert not built - pinned, f"add these to {PINNED.name}"


@pytest.mark.slow
@needs_corpus
def test_share_of_the_nets_that_a_caffe_can_build(corpus):
    possible = [net for net in corpus.nets if name(net.path) not in WRONG]
    assert len(corpus.nets) - len(possible) == len(WRONG) - (0 if NIGHT else LONG_AND_WRONG)
    assert sum(net.built for net in possible) >= 0.95 * len(possible)
    assert not any(net.built for net in corpus.nets if name(net.path) in WRONG)


@pytest.mark.slow
@needs_corpus
def test_failures_say_what_and_where(corpus):
    for net in corpus.nets:
        reasons = [net.reason] if net.reason else []
        reasons += [o.reason for o in net.phases.values() if not o.built]
        for reason in reasons:
            assert reason.startswith(f"{net.path}:"), reason
        for outcome in net.phases.values():
            if outcome.unknown:
                kind = f"unknown layer type {outcome.unknown[0]!r}"
                assert kind in outcome.reason and "@caffeio.layers.layer(" in outcome.reason


@needs_corpus
@pytest.mark.parametrize("model", MODELS, ids=[m["id"] for m in MODELS])
def test_caffemodel(model):
    """OpenCV runs the same file; its outputs are named by layer."""
    folder = CORPUS / "caffemodels" / model["id"]
    net = load_net(
        folder / model["prototxt"], folder / model["model"],
        input_shapes={key: tuple(shape) for key, shape in model["inputs"].items()},
        ignore_unknown=True,
    )  # fmt: skip
    with np.load(folder / "opencv.npz") as arrays:
        given = {key: torch.from_numpy(arrays[f"in/{key}"]) for key in model["inputs"]}
        expected = {key: arrays[f"out/{key}"] for key in model["outputs"]}
    with torch.no_grad():
        net(given)
    tops = {step.node.name: step.tops[0] for step in net.steps if step.tops}
    for key, wanted in expected.items():
        found = net.blobs[tops[key]]
        if model["id"] == "c2o_log8":
            check_log(found.numpy(), wanted, given["data"].numpy())
        else:
            assert_close(found, wanted, key, 1e-4)


def check_log(found: np.ndarray, opencv: np.ndarray, given: np.ndarray) -> None:
    """log_param has scale -0.66 and shift -0.42, so that Caffe takes logarithms of negatives.

    OpenCV leaves both out.
    """
    assert found.shape == opencv.shape
    assert np.isnan(found).all()
    assert_close(opencv, np.log(given), "OpenCV's", 1e-5)
