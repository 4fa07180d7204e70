from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from caffeio.converters.safetensors import read, write
from caffeio.errors import SnapshotError, WeightsError
from caffeio.proto.weights.load import load_weights, shapes_match
from tests.paths import GOLDEN

MODELS = [
    GOLDEN / "nets" / "residual_inplace" / "weights.caffemodel",
    GOLDEN / "nets" / "siamese_shared" / "weights.caffemodel.h5",
    GOLDEN / "logs" / "upgrade" / "old_v1.caffemodel",
]


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.name)
def test_round_trip(path: Path, tmp_path: Path) -> None:
    weights = load_weights(path)
    out = tmp_path / "x.safetensors"
    write(out, weights, metadata={"made": "here"})
    back = read(out)
    assert back.net_name == weights.net_name
    assert [(e.name, e.type) for e in back.layers] == [(e.name, e.type) for e in weights.layers]
    assert list(back) == list(weights)
    for name in weights:
        for a, b in zip(back[name], weights[name], strict=True):
            assert a.shape == b.shape
            assert np.array_equal(a, b)
            assert not a.flags.writeable
    with safetensors.safe_open(out, "numpy") as file:
        assert file.metadata()["made"] == "here"
        assert file.metadata()["format"] == "pt"


def test_the_library_reads_ours(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    arrays = {
        "a": [np.arange(6, dtype=np.float32).reshape(2, 3).T, np.float64(3).reshape(())],
        "b/c.d": [np.arange(3, dtype=np.float16), np.arange(3, dtype=">i4"), np.zeros((0, 3))],
    }
    write(out, arrays)
    numpy = safetensors.numpy.load_file(out)
    assert sorted(numpy) == ["a.0", "a.1", "b/c.d.0", "b/c.d.1", "b/c.d.2"]
    for name, blobs in arrays.items():
        for i, array in enumerate(blobs):
            assert np.array_equal(numpy[f"{name}.{i}"], array)
            assert numpy[f"{name}.{i}"].shape == array.shape
    assert safetensors.torch.load_file(out)["b/c.d.0"].dtype == torch.float16
    assert list(read(out)) == ["a", "b/c.d"]


def test_files_of_others(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    tensors = {
        "conv.weight": np.ones((2, 1, 3, 3), np.float32),
        "conv.bias": np.ones(2, np.float32),
        "ip.1": np.full(1, 1.0),
        "ip.0": np.full(1, 0.0),
        "alone": np.ones(1, np.int64),
    }
    safetensors.numpy.save_file(tensors, out)
    weights = read(out)
    assert sorted(weights) == ["alone", "conv", "ip"]
    assert [a.tolist() for a in weights["ip"]] == [[0.0], [1.0]]
    assert {a.shape for a in weights["conv"]} == {(2, 1, 3, 3), (2,)}
    assert shapes_match(weights.layers[-1].blobs[0], weights.layers[-1].blobs[0].shape)


def test_of_two_layers_with_one_name_the_last_is_kept(tmp_path: Path) -> None:
    weights = load_weights(MODELS[0])
    weights.layers.append(weights.layers[1])
    write(tmp_path / "x", weights)
    assert len(read(tmp_path / "x").layers) == len(weights.layers) - 1


def test_what_the_format_lacks(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"tensor 'a.0': type complex64"):
        write(tmp_path / "x", {"a": [np.zeros(3, np.complex64)]})
    with pytest.raises(SnapshotError, match="cannot be written"):
        write(tmp_path / "none" / "x", {})


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


def tensor(**changes: object) -> dict[str, object]:
    return {"a.0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"123", "does not begin with the size"),
        (b"\xff" * 20, "does not begin with the size"),
        (header(tensor())[:-3], "needs 3 bytes more"),
        (header(tensor()) + b"1234567", r"tensor 'a\.0' needs 1 bytes more"),
        (header(tensor(shape=[3])) + b"12345678", r"shape \(3,\) does not fit 8 bytes"),
        (header(tensor(shape=[-2])) + b"12345678", "are not sizes"),
        (header(tensor(shape=[1 << 62, 1 << 62])) + b"12345678", "does not fit"),
        (header(tensor(data_offsets=[8, 0])) + b"12345678", "does not fit"),
        (header(tensor(dtype="F8_E5M2")) + b"12345678", "F8_E5M2, which numpy does not have"),
        (header({f"a.{i}": tensor()["a.0"] for i in range(200)}) + b"12345678" * 2, "overlap"),
        (header({"a.0": {}}) + b"12345678", "is no safetensors file"),
        (header({"a.0": 3}), "is no safetensors file"),
        (header([1]), "not an object"),
        ((8).to_bytes(8, "little") + b"not json", "is no safetensors file"),
        (header({"__metadata__": {"caffeio": '{"layers": [["a", "", 1]]}'}}), r"a\.0 .*missing"),
        ((90_000).to_bytes(8, "little") + b'{"a":' * 18_000, "is no safetensors file"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"x\.safetensors: .*{text}"):
        read(path)
