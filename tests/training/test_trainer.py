"""The Trainer as a Python object: steps, changes in between, closing, and what it leaves open."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caffeio.net.sources
from caffeio import Trainer
from caffeio.errors import CaffeIOError
from caffeio.log.glog import Log
from caffeio.training.distributed import ALONE, World
from caffeio.training.job import read_job
from caffeio.training.trainer import Events, shared_seed
from tests.paths import GOLDEN

QUIET = ["test_interval=1000000", "test_initialization=false", "display=0"]


pytestmark = pytest.mark.usefixtures("training_case")


def make(*changes: str, **options: Any) -> Trainer:
    options.setdefault("weights", ["init.caffemodel"])
    return Trainer("solver.prototxt", overrides=[*QUIET, *changes], **options)


def test_steps_one_by_one_are_one_run() -> None:
    losses: list[float] = []
    events = Events(iteration=lambda entry: losses.append(float(entry["loss"])))
    with make(events=events) as trainer:
        for count in (1, 0, 3, 7):
            assert trainer.step(count)
        assert trainer.iter == 11
        assert trainer.images_per_iteration == 10
    wanted = np.load(GOLDEN / "solvers" / "sgd_fixed" / "losses.npy")[:11]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_average_loss_begins_anew_with_every_call() -> None:
    losses: list[float] = []
    events = Events(iteration=lambda entry: losses.append(float(entry["loss"])))
    with make("average_loss=4", events=events) as trainer:
        trainer.step(3)
        assert trainer.smoothed.value == pytest.approx(np.mean(losses), rel=1e-6)
        trainer.step(2)
        assert trainer.smoothed.value == pytest.approx(np.mean(losses[3:]), rel=1e-6)


def test_blobs_may_be_written_between_steps() -> None:
    with make("momentum=0", "weight_decay=0", "base_lr=0") as trainer:
        trainer.step(1)
        weight = trainer.net.params["ip"][0]
        with torch.no_grad():
            weight.fill_(0.25)
        trainer.step(1)
        assert torch.equal(trainer.net.params["ip"][0], torch.full_like(weight, 0.25))
        path, _ = trainer.snapshot()
    assert (caffeio.load_weights(path)["ip"][0] == 0.25).all()
    with make() as trainer:  # a test net shares the blobs
        with torch.no_grad():
            for blob in trainer.net.params["ip"]:
                blob.zero_()
        scores = trainer.test(batches=2)
        assert scores is not None
        assert scores.outputs["loss"] == pytest.approx(np.log(4), rel=1e-6)


def test_clip_and_iter_size_in_step() -> None:
    with make("iter_size=3", "clip_gradients=0.01", "momentum=0", "weight_decay=0") as trainer:
        before = [item.tensor.detach().clone() for item in trainer.net.learnable]
        trainer.step(1)
        after = [item.tensor.detach() for item in trainer.net.learnable]
    step = torch.cat([(a - b).reshape(-1) for a, b in zip(before, after, strict=True)])
    # clipped as the sum of three batches, then divided by three
    assert float(step.norm()) == pytest.approx(0.01 / 3 * 0.05, rel=1e-3)


def test_close_may_be_called_twice_and_nothing_is_left_open() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = make()
        trainer.step(2)
        trainer.close()
        trainer.close()
        with make() as second:
            second.step(1)
        del trainer, second
        gc.collect()


@pytest.mark.parametrize(
    "options",
    [
        {"weights": ["missing.caffemodel"]},
        {"overrides": ["lr_policy=nonsense"]},
        {"overrides": ["type=Nonsense"]},
        {"overrides": ["layer[ip].inner_product_param.axis=9"]},
        {"weights": [], "snapshot": "missing.solverstate"},
    ],
)
def test_an_error_while_building_closes_the_data(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    closed: list[Any] = []
    real = caffeio.net.sources.open_source

    def open_source(*args: Any, **keywords: Any) -> Any:
        source = real(*args, **keywords)
        opened.append(source)
        close = source.close
        monkeypatch.setattr(source, "close", lambda: (closed.append(source), close()))
        return source

    monkeypatch.setattr(caffeio.net.sources, "open_source", open_source)
    with pytest.raises(CaffeIOError):
        Trainer("solver.prototxt", **options)
    assert {id(source) for source in opened} == {id(source) for source in closed}


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(CaffeIOError, match="fp16"):
        make(precision="fp16")


def test_a_job_brings_its_options_along() -> None:
    job = read_job("solver.prototxt", weights=["init.caffemodel"], overrides=["base_lr=0.5"])
    assert job.snapshot_names(7) == ("snap_iter_7.caffemodel", "snap_iter_7.solverstate")
    lines: list[str] = []
    with Trainer(job, log=Log(lines.append)) as trainer:
        assert trainer.param.base_lr == 0.5
    assert any("Finetuning from init.caffemodel" in line for line in lines)


def test_solve_with_a_state_logs_as_pycaffe() -> None:
    with make() as trainer:
        trainer.step(3)
        _, state = trainer.snapshot()
    lines: list[str] = []
    with make("max_iter=4", weights=[], log=Log(lines.append)) as trainer:
        trainer.solve(state)
        assert trainer.iter == 4
    texts = [line.partition("] ")[2] for line in lines]
    at = texts.index(f"Restoring previous solver status from {state}")
    assert texts[at + 1] == "SGDSolver: restoring history"


def test_tests_and_snapshots_are_told_of() -> None:
    tests: list[Any] = []
    files: list[str] = []
    events = Events(test=tests.append, snapshot=lambda weights, state: files.append(state))
    with Trainer(
        "solver.prototxt", overrides=["max_iter=5", "snapshot=2", "display=0"], events=events
    ) as trainer:
        assert trainer.solve()
    assert [(score.net, score.iteration) for score in tests] == [(0, 0), (0, 5)]
    assert files == [f"snap_iter_{n}.solverstate" for n in (2, 4, 5)]
    assert tests[0].outputs["accuracy"].dtype == np.float32


def test_nodes_of_intel_update_late() -> None:
    """Updates take the next iteration's rate, but for the last one and where a test follows."""
    changes = ["lr_policy=step", "gamma=0.1", "stepsize=1", "base_lr=1e-3", "momentum=0",
               "weight_decay=0", "clip_gradients=1e-9", "max_iter=4"]  # fmt: skip
    lengths: dict[str, list[float]] = {}
    for profile in ("intel", "intel-mlsl"):
        with make(*changes, profile=profile) as trainer:
            if profile == "intel":
                trainer.optimizer.clip_gradients = -1.0
            blobs = [next(iter(trainer.net.params["ip"])).detach().clone()]
            for _ in range(4):
                trainer.step(1)
                blobs.append(trainer.net.params["ip"][0].detach().clone())
        moves = zip(blobs[1:], blobs[:-1], strict=True)
        lengths[profile] = [float((a - b).norm()) for a, b in moves]
    ratios = np.divide(lengths["intel-mlsl"], lengths["intel"])
    # the rates of iterations 1, 2, 3 instead of 0, 1, 2; the last is on time
    np.testing.assert_allclose(ratios, [0.1, 0.1, 0.1, 1], rtol=2e-2)


def test_workers_shuffle_alike_and_every_run_anew() -> None:
    """Unseeded workers agree within a run; the phases of a chain must not repeat their crops."""
    assert shared_seed(-1, ALONE) is None
    shared: list[int] = []
    several = World(size=2)
    several.broadcast = lambda value: shared.append(value) or value  # type: ignore[assignment]
    assert len({shared_seed(-1, several) for _ in range(3)}) == 3
    assert len(shared) == 3
    assert shared_seed(5, several) == 5


def test_convolutions_may_share_in_another_shape() -> None:
    """A PERMISSIVE sharer views the owner's memory, which channels-last would rearrange."""
    net = Path("net.prototxt").read_text()
    name = 'param { name: "w" share_mode: PERMISSIVE }'
    extra = (
        'layer { name: "own" type: "Convolution" bottom: "data" top: "own" param { name: "w" } '
        "convolution_param { num_output: 2 kernel_size: 2 bias_term: false "
        'weight_filler { type: "xavier" } } }\n'
        f'layer {{ name: "read" type: "Convolution" bottom: "data" top: "read" {name} '
        "convolution_param { num_output: 8 kernel_size: 1 bias_term: false } }\n"
        'layer { name: "hush" type: "Silence" bottom: "own" bottom: "read" }\n'
    )
    Path("net.prototxt").write_text(net + extra)
    with make() as trainer:
        first, second = trainer.net.params["own"][0], trainer.net.params["read"][0]
        assert first.shape == (2, 3, 2, 2)
        assert second.shape == (8, 3, 1, 1)
        assert second.data_ptr() == first.data_ptr()
        assert trainer.step(2)


def test_a_net_of_volumes_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of five axes, beside images of four: channels last is a layout of images."""
    monkeypatch.chdir(tmp_path)
    Path("s.prototxt").write_text("""
    net_param {
      layer { name: "data" type: "DummyData" top: "data" top: "image" top: "label"
        dummy_data_param { shape { dim: 2 dim: 2 dim: 3 dim: 4 dim: 4 }
        shape { dim: 2 dim: 2 dim: 4 dim: 4 }
        shape { dim: 2 } data_filler { type: "gaussian" } data_filler { type: "gaussian" }
        data_filler { value: 1 } } }
      layer { name: "volumes" type: "Convolution" bottom: "data" top: "volumes"
        convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: "xavier" } } }
      layer { name: "images" type: "Convolution" bottom: "image" top: "images"
        convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: "xavier" } } }
      layer { name: "a" type: "InnerProduct" bottom: "volumes" top: "a"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
      layer { name: "b" type: "InnerProduct" bottom: "images" top: "b"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
      layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" }
    }
    base_lr: 0.1 lr_policy: "fixed" max_iter: 2 random_seed: 1 solver_mode: CPU
    snapshot_prefix: "snap" """)
    with Trainer("s.prototxt") as trainer:
        before = [trainer.net.params[name][0].detach().clone() for name in ("volumes", "images")]
        assert trainer.solve()
        after = [trainer.net.params[name][0] for name in ("volumes", "images")]
    assert before[0].dim() == 5 and before[1].dim() == 4
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
