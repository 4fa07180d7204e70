"""Lines that real Caffe logs about data layers, and debug_info where nothing below learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffeio.log.glog import Log
from caffeio.training import Trainer
from tests.paths import GOLDEN

HEAD = (
    'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
    'inner_product_param { num_output: 40 weight_filler { type: "xavier" } } } '
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
)
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" random_seed: 3 snapshot_prefix: "s" '


def lines_of(net: str, fields: str, monkeypatch: pytest.MonkeyPatch, work: Path) -> list[str]:
    """What a training says, without time and place."""
    (work / "net.prototxt").write_text(net)
    (work / "solver.prototxt").write_text(SOLVER + "snapshot_after_train: false " + fields)
    monkeypatch.chdir(GOLDEN / "data")
    said: list[str] = []
    with Trainer(work / "solver.prototxt", log=Log(said.append)) as trainer:
        trainer.solve()
    return [line.split("] ", 1)[1] for line in said]


def between(lines: list[str], first: str, last: str) -> list[str]:
    return lines[lines.index(first) + 1 : lines.index(last)]


IMAGES = (
    (
        'type: "ImageData" top: "data" top: "label" image_data_param { source: "images.txt" '
        'root_folder: "images/" batch_size: 3 new_height: 8 new_width: 8 '
        "shuffle: true rand_skip: 3 }"
    ),
    [
        "Opening file images.txt",
        "Shuffling data",
        "A total of 7 images.",
        "Skipping first 2 data points.",  # as real Caffe with this seed
        "output data size: 3,3,8,8",
    ],
)
HDF5 = (
    (
        'type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "h5/list.txt" '
        "batch_size: 3 }"
    ),
    [
        "Loading list of HDF5 filenames from: h5/list.txt",
        "Number of HDF5 files: 2",
        "Datatype class: H5T_FLOAT",
    ],
)
WINDOWS = (
    (
        'type: "WindowData" top: "data" top: "label" window_data_param { '
        'source: "windows/list.txt" root_folder: "windows/" batch_size: 4 '
        "fg_fraction: 0.5 context_pad: 1 } "
        'transform_param { crop_size: 8 mean_file: "windows/mean.binaryproto" }'
    ),
    [
        "Loading mean file from: windows/mean.binaryproto",
        "Window data layer:",
        "  foreground (object) overlap threshold: 0.5",
        "  background (non-object) overlap threshold: 0.5",
        "  foreground sampling fraction: 0.5",
        "  cache_images: 0",
        "  root_folder: windows/",
        "num: 0 windows/w0.png 3 20 24 windows to process: 1",
        "Number of images: 2",
        "class 0 has 1 samples",
        "class 5 has 1 samples",
        "Amount of context padding: 1",
        "Crop mode: warp",
        "output data size: 4,3,8,8",
        "Loading mean file from: windows/mean.binaryproto",
    ],
)


@pytest.mark.parametrize(
    ("layer", "said"), [IMAGES, HDF5, WINDOWS], ids=["image", "hdf5", "window"]
)
def test_a_layer_that_reads_data(
    layer: str, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    net = f'layer {{ name: "data" {layer} }}' + HEAD
    lines = lines_of(net, "max_iter: 0", monkeypatch, tmp_path)
    assert "\n".join(between(lines, "data -> label", "Setting up data")).splitlines() == said


def test_data_begins_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = (
        'layer { name: "data" type: "Data" top: "data" top: "label" data_param { '
        'source: "SOURCE" batch_size: 75 backend: LMDB } }'
    ).replace("SOURCE", str(GOLDEN / "solvers" / "lmdb"))
    lines = lines_of(data + HEAD, "max_iter: 12", monkeypatch, tmp_path)
    expected = 12 * 75 // 200  # records
    assert lines.count("Restarting data prefetching from start.") == expected > 0


DUMMY = (
    'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
    "shape { dim: 2 dim: 3 dim: 2 dim: 2 } shape { dim: 2 } "
    'data_filler { type: "gaussian" std: 1 } data_filler { value: 1 } } } '
)


def test_forward_lines_behind_the_last_iteration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only if the last trained iteration was one that display shows."""
    counts = []
    for fields in ("max_iter: 0 display: 3", "max_iter: 3 display: 3", "max_iter: 3 display: 1"):
        lines = lines_of(DUMMY + HEAD, f"debug_info: true {fields}", monkeypatch, tmp_path)
        counts.append(sum("[Forward] Layer data, top blob label" in line for line in lines))
    assert counts == [0, 1, 4]


def test_gradients_under_force_backward(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = "force_backward: true " + DUMMY + HEAD
    lines = lines_of(net, "max_iter: 1 debug_info: true display: 1", monkeypatch, tmp_path)
    assert "data does not need backward computation." in lines  # said before it is forced
    (line,) = [x for x in lines if "[Backward] Layer ip, bottom blob data diff" in x]
    assert float(line.rsplit(" ", 1)[1]) > 0


def test_gradients_above_a_batch_norm_that_does_not_learn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" } '
    net = DUMMY + norm + HEAD.replace('bottom: "data"', 'bottom: "bn"')
    lines = lines_of(net, "max_iter: 1 debug_info: true display: 1", monkeypatch, tmp_path)
    (line,) = [x for x in lines if "[Backward] Layer ip, bottom blob bn diff" in x]
    assert float(line.rsplit(" ", 1)[1]) > 0
    assert not any("[Backward] Layer bn, bottom" in x for x in lines)
    assert np.isfinite(float(line.rsplit(" ", 1)[1]))


def test_blobs_of_the_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real Caffe said the same of this net."""
    net = (
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
        "shape { dim: 2 dim: 3 } shape { dim: 2 } data_filler { value: 1 } "
        "data_filler { value: 1 } } } "
        'layer { name: "s" type: "Scale" bottom: "data" top: "s" scale_param { bias_term: true } '
        "blobs { shape { dim: 3 } data: 1 data: 2 data: 3 } } "
        'layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" inner_product_param { '
        "num_output: 2 bias_term: false } blobs { num: 1 channels: 1 height: 2 width: 3 "
        "data: 1 data: 2 data: 3 data: .1 data: .2 data: .3 } } "
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" } '
    )
    lines = lines_of(net, "max_iter: 1 debug_info: true display: 1", monkeypatch, tmp_path)
    assert lines.count("Skipping parameter initialization") == 3
    assert "    [Forward] Layer s, top blob s data: 4" in lines
    assert "    [Backward] Layer ip, param blob 0 diff: 4" in lines
    totals = "L1 norm = (18.6, 34.8); L2 norm = (6.49153, 11.6052)"
    assert any(line.endswith(totals) for line in lines)
