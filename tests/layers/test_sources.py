"""Data layers inside nets, and HDF5Output."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from tests.harness import check_case, layer_cases
from tests.paths import GOLDEN


@pytest.mark.parametrize(
    "case", layer_cases("Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData")
)
def test_golden(case: Path) -> None:
    check_case(case, tolerance=0)


def test_hdf5_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    for name in ("basic.prototxt", "basic.npz"):
        shutil.copy(GOLDEN / "layers" / "HDF5Output" / name, tmp_path)
    (tmp_path / "assets").mkdir()
    monkeypatch.chdir(tmp_path)
    net = check_case(tmp_path / "basic.prototxt")
    with np.load(tmp_path / "basic.npz") as want, h5py.File(tmp_path / "assets" / "out.h5") as file:
        for name in ("data", "label"):
            assert np.array_equal(file[name][()], want[f"file/{name}"])
        inputs = {k: torch.from_numpy(want[f"in/{k}"]) for k in ("data", "label")}
    with pytest.raises(CaffeIOError, match="has its datasets already"):
        net(inputs)


def test_hdf5_output_to_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    net = load_net(GOLDEN / "layers" / "HDF5Output" / "basic.prototxt")
    with pytest.raises(CaffeIOError, match=r"cannot write 'assets/out\.h5'"):
        net({"data": torch.zeros(3, 2, 2, 2), "label": torch.zeros(3, 1)})


NET = """
layer { name: "data" type: "%s" top: "data" top: "label" transform_param { crop_size: 20 }
  %s { source: "/nowhere" batch_size: 6 } }
layer { name: "s" type: "Silence" bottom: "data" bottom: "label" }
"""


@pytest.mark.parametrize(
    ("kind", "param"),
    [("Data", "data_param"), ("ImageData", "image_data_param"),
     ("WindowData", "window_data_param"), ("AnnotatedData", "data_param")],
)  # fmt: skip
def test_nets_build_without_their_data(kind: str, param: str) -> None:
    net = load_net(NET % (kind, param), device="meta")
    assert net.blob_shapes["data"] == (6, 3, 20, 20)


def test_tops_can_be_given() -> None:
    text = NET.replace("Silence", "Split").replace('bottom: "label" }', 'top: "copy" }')
    net = load_net(text % ("Data", "data_param"))
    data = torch.rand(6, 3, 20, 20)
    out = net({"data": data, "label": torch.zeros(6)})
    assert torch.equal(out["copy"], data)


def test_hdf5_data_does_not_transform() -> None:
    with pytest.raises(CaffeIOError, match="does not transform data"):
        load_net(NET % ("HDF5Data", "hdf5_data_param"), device="meta")


def test_two_input_shapes_for_three_tops() -> None:
    with pytest.raises(CaffeIOError, match="one for each of the 3 tops"):
        load_net('layer { name: "i" type: "Input" top: "a" top: "b" top: "c" input_param '
                 "{ shape { dim: 1 } shape { dim: 1 } } }")  # fmt: skip
