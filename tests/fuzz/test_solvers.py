"""Random trainings against a slow reading of Caffe's solvers in NumPy, float64."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from caffeio.training import Trainer
from tests.fuzz.solver_reading import Case, make, net_text, solver_text, train
from tests.paths import nightly

RUNS = 100


def write(case: Case, folder: Path) -> Path:
    """Write net, data and solver of a training into `folder`; returns the solver's path."""
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"], file["label"] = case.data, case.labels
    (folder / "data.txt").write_text(f"{folder / 'data.h5'}\n")
    (folder / "net.prototxt").write_text(net_text(case, str(folder / "data.txt")))
    solver = folder / "solver.prototxt"
    solver.write_text(solver_text(case, str(folder / "net.prototxt"), str(folder / "s")))
    return solver


def worst(case: Case, folder: Path) -> float:
    """Largest difference of the blobs after training, against the largest value of each."""
    with Trainer(write(case, folder)) as trainer:
        trainer.step(case.solver["max_iter"])
        mine = [
            blob.detach().numpy() for name in ("one", "two") for blob in trainer.net.params[name]
        ]
    _, theirs = train(case)
    return max(
        float(np.abs(a - b).max() / max(1e-3, np.abs(b).max()))
        for a, b in zip(mine, theirs, strict=True)
    )


# Of 300 runs none is off by more than 1e-5; `delta` is 1e-6 or more, so that rounding stays small.
@pytest.mark.parametrize("first", range(0, RUNS, 20))
def test_random_trainings(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case = make(seed)
        assert worst(case, folder) < 2e-5, f"seed {seed}: {case.solver}"


@nightly
def test_many_trainings(tmp_path: Path) -> None:
    for seed in range(10_000, 12_000):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case = make(seed)
        assert worst(case, folder) < 2e-5, f"seed {seed}: {case.solver}"


NOISE = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
        hdf5_data_param { source: "SOURCE" batch_size: 6 } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "one" top: "one" }
layer { name: "curve" type: "Sigmoid" bottom: "one" top: "one" }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "two" bottom: "label" top: "loss" }
"""


def _first_layer(folder: Path, digits: int, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Weights and biases of the first layer after 30 steps of RMSProp."""
    monkeypatch.setattr("caffeio.ops.digits.SMALL", digits)
    rng = np.random.RandomState(0)
    with h5py.File(folder / "d.h5", "w") as file:
        file["data"] = rng.randn(24, 5).astype(np.float32)
        file["label"] = rng.randint(0, 3, (24, 1)).astype(np.float32)
    (folder / "d.txt").write_text(f"{folder / 'd.h5'}\n")
    (folder / "n.prototxt").write_text(NOISE.replace("SOURCE", str(folder / "d.txt")))
    solver = folder / "s.prototxt"
    solver.write_text(
        f'net: "{folder / "n.prototxt"}" type: "RMSProp" rms_decay: 0.9 delta: 1e-10 '
        'base_lr: 0.01 lr_policy: "fixed" max_iter: 30 random_seed: 4'
    )
    with Trainer(solver) as trainer:
        trainer.step(30)
        return [blob.detach().numpy().copy() for blob in trainer.net.params["one"]]


def test_what_rmsprop_makes_of_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias before BatchNorm has no gradient but rounding, which RMSProp makes as large as any.

    Two orders of the same sums give the same weights and other biases. Real Caffe does so too: with
    the OpenBLAS kernels Haswell and SkylakeX these biases of this training are 1.5 times their own
    size apart, and the weights 2e-7. The outputs do not see them: BatchNorm takes them away.
    """
    exact = _first_layer(tmp_path, 4096, monkeypatch)
    plain = _first_layer(tmp_path, 0, monkeypatch)
    assert np.abs(exact[0] - plain[0]).max() < 1e-5 * np.abs(exact[0]).max()
    assert np.abs(exact[1] - plain[1]).max() > 1e-3 * np.abs(exact[1]).max() > 0
