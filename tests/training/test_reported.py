"""What people reported of trainings, and real Caffe's own answers: refusals, and one loss curve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from caffeio.errors import CaffeIOError
from caffeio.training import Trainer
from tests.paths import GOLDEN

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 2 dim: 3 } shape { dim: 2 } data_filler { type: "gaussian" } data_filler {} } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
LAYER
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "NET" base_lr: 0.01 max_iter: 2 random_seed: 1 snapshot_after_train: false '


def train(folder: Path, fields: str, layer: str = "", **options: Any) -> None:
    (folder / "net.prototxt").write_text(NET.replace("LAYER", layer))
    policy = "" if "lr_policy" in fields else 'lr_policy: "fixed" '
    text = SOLVER.replace("NET", str(folder / "net.prototxt")) + policy + fields
    (folder / "solver.prototxt").write_text(text)
    with Trainer(folder / "solver.prototxt", **options) as trainer:
        trainer.solve()


REFUSED = [
    ('type: "RMSProp" momentum: 0.9', "Momentum cannot be used with RMSProp"),
    ('type: "AdaGrad" momentum: 0.9', "Momentum cannot be used with AdaGrad"),
    ('solver_type: ADAM type: "SGD"', "both solver_type"),
    ('lr_policy: "step" gamma: 0.1', "stepsize"),
    ("average_loss: 0", "average_loss must be 1 or more"),
    ("iter_size: 0", "iter_size must be 1 or more"),
    ('type: "AdamW"', "Unknown solver type: AdamW"),
    ('lr_policy: "cosine"', "Unknown learning rate policy: cosine"),
    ('lr_policy: ""', "lr_policy is missing"),
    ('regularization_type: "L3" weight_decay: 0.1', "Unknown regularization type: L3"),
    ("test_iter: 1", "test_iter"),
    ('snapshot: 1 snapshot_prefix: "nowhere/x"', "cannot write to snapshot prefix"),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_solver_fields(fields: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CaffeIOError, match=says):
        train(tmp_path, fields)


LAYERS = [
    ('layer { name: "f" type: "Flatten" bottom: "ip" top: "ip" }', "cannot work in place"),
    (
        'layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip" param { lr_mult: 1 } }',
        "statistics cannot be learned",
    ),
    (
        (
            'layer { name: "a" type: "Bias" bottom: "ip" top: "a" param { name: "w" lr_mult: 1 } }'
            'layer { name: "b" type: "Bias" bottom: "a" top: "b" param { name: "w" lr_mult: 2 } }'
        ),
        "shared param 'w' has mismatched lr_mult",
    ),
]


@pytest.mark.parametrize(("layer", "says"), LAYERS, ids=[says for _, says in LAYERS])
def test_layers(layer: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CaffeIOError, match=says):
        train(tmp_path, "", layer)


def test_files_of_the_other_kind(tmp_path: Path) -> None:
    """A caffemodel as a snapshot, and a state of SGD for Adam."""
    prefix = tmp_path / "s"
    train(tmp_path, f'snapshot: 2 snapshot_prefix: "{prefix}" momentum: 0.9')
    with pytest.raises(CaffeIOError, match=r"give the .solverstate that belongs to it"):
        train(tmp_path, "", snapshot=f"{prefix}_iter_2.caffemodel")
    with pytest.raises(CaffeIOError, match="probably written by another type of solver"):
        train(tmp_path, 'type: "Adam"', snapshot=f"{prefix}_iter_2.solverstate")


def test_tanh_and_dropout_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of real Caffe at iterations 0, 10, 12 and 14 of a training with layers in place.

    It is chaotic: at iteration 20 real Caffe has 2.014, 2.007, 1.979 with three OpenBLAS kernels.
    """
    folder = tmp_path / "real_caffe"
    shutil.copytree(GOLDEN / "real_caffe", folder)
    monkeypatch.chdir(folder)
    solver = folder / "solver.prototxt"
    solver.write_text(
        'net: "train_tanh_dropout_inplace.prototxt" base_lr: 0.05 momentum: 0.9 '
        'lr_policy: "fixed" max_iter: 15 random_seed: 4'
    )
    losses = []
    with Trainer(solver) as trainer:
        for _ in range(15):
            trainer.step(1)
            losses.append(float(trainer.smoothed.value))
    seen = [losses[i] for i in (0, 10, 12, 14)]
    assert seen == pytest.approx([1.34444, 1.17418, 0.780727, 1.14523], rel=1e-3)
