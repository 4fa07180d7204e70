from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio.converters.pytorch import read, write
from caffeio.errors import SnapshotError, WeightsError
from caffeio.proto.weights.load import load_weights
from tests.paths import GOLDEN

MODEL = GOLDEN / "nets" / "residual_inplace" / "weights.caffemodel"


def test_round_trip(tmp_path: Path) -> None:
    weights = load_weights(MODEL)
    out = tmp_path / "x.pt"
    write(out, weights)
    back = read(out)
    assert list(back) == list(weights)
    for name in weights:
        for a, b in zip(back[name], weights[name], strict=True):
            assert np.array_equal(a, b)


def test_names(tmp_path: Path) -> None:
    write(tmp_path / "x.pt", load_weights(MODEL))
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {"conv1.weight", "bn_conv1.mean", "bn_conv1.factor", "scale_conv1.bias"} <= set(state)
    write(
        tmp_path / "y.pt", {"a": [np.ones(3), np.ones(1)], "b": [np.ones(2)]}, types={"b": "PReLU"}
    )
    assert set(torch.load(tmp_path / "y.pt", weights_only=True)) == {"a.0", "a.1", "b.weight"}


def test_a_module_loads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.random((4, 3, 3, 3), np.float32), rng.random(4, np.float32)]
    write(tmp_path / "x.pt", {"0": arrays}, types={"0": "Convolution"})
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    net.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True))
    assert np.array_equal(net[0].weight.detach().numpy(), arrays[0])


def test_files_of_others(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    for content in (net.state_dict(), {"state_dict": net.state_dict(), "epoch": 3}):
        torch.save(content, tmp_path / "x.pth")
        weights = read(tmp_path / "x.pth")
        assert list(weights) == ["0", "1"]
        assert [a.shape for a in weights["0"]] == [(2, 1, 3, 3), (2,)]
        assert len(weights["1"]) == 5
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth")["a"][0].dtype == np.float32


def test_files_of_old_pytorch(tmp_path: Path) -> None:
    torch.save(
        {"a.1": torch.ones(2), "a.0": torch.zeros(2)},
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=False,
    )
    assert [a.tolist() for a in read(tmp_path / "x.pth")["a"]] == [[0, 0], [1, 1]]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("the file ran code",)


@pytest.mark.parametrize("content", [Bomb(), {"a": Bomb()}])
def test_no_code_is_run(
    tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    for save in (
        lambda: torch.save(content, path),
        lambda: path.write_bytes(pickle.dumps(content, 2)),
    ):
        save()
        with pytest.raises(WeightsError, match=r"x\.pth: is no PyTorch file of tensors"):
            read(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (torch.ones(3), "holds a Tensor, not a state_dict"),
        ({}, "holds a dict, not a state_dict"),
        ({"a": torch.ones(1), "epoch": 3}, "entry 'epoch' is a int, not a tensor"),
    ],
)
def test_other_contents(tmp_path: Path, content: object, text: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=text):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 90])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.pth: "):
        read(path)


def test_failed_write(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be written"):
        write(tmp_path / "none" / "x.pt", {"a": [np.ones(1)]})
