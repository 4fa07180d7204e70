"""Seeds: with the same random_seed we draw what real Caffe draws, in the same order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio import Trainer, load_net
from caffeio.training.trainer import Events
from tests.harness import assert_close, golden, part
from tests.paths import GOLDEN

RANDOM = GOLDEN / "random"


@pytest.mark.parametrize(
    "path", sorted((RANDOM / "fillers").glob("*.prototxt")), ids=lambda p: p.stem
)
def test_fillers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RANDOM)
    arrays = golden(path)
    phase = str(arrays.get("phase", "TRAIN"))
    net = load_net(path, phase=phase, seed=int(arrays["random_seed"]))
    for key, value in part(arrays, "param/").items():
        layer, index = key.rsplit("/", 1)
        assert_close(net.params[layer][int(index)], value, key, 1e-6)


@pytest.mark.parametrize("path", sorted((RANDOM / "data").glob("*.prototxt")), ids=lambda p: p.stem)
def test_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RANDOM)
    arrays = golden(path)
    phase = str(arrays.get("phase", "TRAIN"))
    net = load_net(path, phase=phase, seed=int(arrays["random_seed"]))
    for number in range(int(arrays["passes"])):
        net()
        for key, value in part(arrays, f"pass{number}/").items():
            if key in net.blobs:
                from_source = any(key in s.tops for s in net.steps if s.layer.is_source)
                limit = 0 if from_source else 1e-6
                assert_close(net.blobs[key], value, f"pass {number} {key}", limit)


@pytest.mark.parametrize(
    "path", sorted((RANDOM / "dropout").glob("*.prototxt")), ids=lambda p: p.stem
)
def test_dropout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RANDOM)
    arrays = golden(path)
    net = load_net(path, phase="TRAIN", seed=int(arrays["random_seed"]))
    for number in range(int(arrays["passes"])):
        net({name: torch.ones(net.blob_shapes[name]) for name in net.inputs})
        mine = net.blobs["y"]
        assert_close(mine, arrays[f"pass{number}/out"], "out", 1e-6)
        assert np.array_equal((mine != 0).numpy(), arrays[f"pass{number}/mask"] != 0)


@pytest.mark.parametrize(
    "folder",
    sorted(p.parent for p in (RANDOM / "train").glob("*/golden.npz")),
    ids=lambda p: p.name,
)
def test_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(RANDOM, tmp_path / "random")
    monkeypatch.chdir(tmp_path / "random" / "train" / folder.name)
    arrays = golden(folder / "golden.prototxt")
    losses: list[float] = []
    trainer = Trainer(
        "solver.prototxt", events=Events(iteration=lambda e: losses.append(float(e["loss"])))
    )
    trainer.net.keep_blobs = True
    for key, value in part(arrays, "param/").items():
        layer, index = key.rsplit("/", 1)
        assert_close(trainer.net.params[layer][int(index)], value, key, 1e-6)
    for number in range(len(arrays["losses"])):
        trainer.step(1)
        for key, value in part(arrays, f"iter{number}/").items():
            assert_close(trainer.net.blobs[key], value, f"iteration {number}, {key}", 1e-4)
    # tests/golden/README.md: random/train differs by 7e-7 between builds of Caffe, limit 1e-4
    assert_close(losses, arrays["losses"], "losses", 1e-5)
    for key, value in part(arrays, "final_param/").items():
        layer, index = key.rsplit("/", 1)
        assert_close(trainer.net.params[layer][int(index)], value, key, 1e-4)
