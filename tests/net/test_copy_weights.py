"""Weights of one Caffe in a net of another; memory that is let go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caffeio import load_net, load_weights

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "norm" type: "BatchNorm" bottom: "data" top: "norm" }
layer { name: "power" type: "Power" bottom: "norm" top: "power" power_param { scale: 2 } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """BatchNorm as BVLC stores it: sums, and the factor that divides them."""
    net = load_net(NET)
    with torch.no_grad():
        for blob, values in zip(net.params["norm"], ([4, 8, 12], [2, 4, 6], [4]), strict=True):
            blob.copy_(torch.tensor(values))
    net.save(tmp_path / "w.caffemodel")
    return tmp_path / "w.caffemodel"


@pytest.mark.parametrize(
    ("profile", "blobs"),
    [("bvlc", [[4, 8, 12], [2, 4, 6], [4]]), ("nvidia", [[1, 2, 3], [0.5, 1, 1.5], [1]])],
)
def test_nvidias_statistics_are_divided_once_for_all(
    file: Path, profile: str, blobs: list[list[float]]
) -> None:
    net = load_net(NET, file, profile=profile)
    assert [blob.tolist() for blob in net.params["norm"]] == blobs
    # and so a second net that reads what this one has saved divides by 1
    net.save(file)
    again = load_net(NET, file, profile=profile)
    assert [blob.tolist() for blob in again.params["norm"]] == blobs


def test_the_statistics_mean_the_same_in_both(file: Path) -> None:
    data = {"data": torch.tensor([[1.0, 2, 3], [5, 6, 7]])}
    outputs = [load_net(NET, file, profile=p)(data)["power"] for p in ("bvlc", "nvidia")]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def test_a_factor_of_zero_divides_nothing(file: Path) -> None:
    net = load_net(NET, file)
    with torch.no_grad():
        net.params["norm"][2].zero_()
    net.save(file)
    assert load_weights(file)["norm"][2].tolist() == [0]
    nvidia = load_net(NET, file, profile="nvidia")
    assert [blob.tolist() for blob in nvidia.params["norm"]] == [[4, 8, 12], [2, 4, 6], [1]]


def test_blobs_are_let_go_when_their_last_reader_has_run() -> None:
    """Inputs too: who gave them may hold them."""
    net = load_net(NET)
    net.fuse()
    net.keep_blobs = False
    data = {"data": torch.randn(2, 3)}
    outputs = net(data)
    assert set(net.blobs) == set(outputs) == {"power"}
    freed = [name for step in net._plan for name in step.free_after]
    assert freed == ["data", "norm"]
    assert torch.equal(net(data)["power"], outputs["power"])
