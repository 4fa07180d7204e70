"""Recorded iterations: the logic of them without a GPU, where a replay runs the iteration again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio import Trainer
from caffeio.errors import CaffeIOError, SolverError
from caffeio.net import load_net
from caffeio.training.cuda_graph import GraphedStep
from caffeio.training.training_step import TrainingStep

SHORT = ["max_iter=8", "display=1", "snapshot=0", "test_interval=1000",
         "test_initialization=false", "snapshot_after_train=false"]  # fmt: skip


def again(run: Callable[[], None]) -> Callable[[], None]:
    return run


def _trained(*changes: str, graphed: bool) -> tuple[list[float], list[np.ndarray]]:
    losses: list[float] = []
    with Trainer("solver.prototxt", weights=["init.caffemodel"], overrides=[*SHORT, *changes]) as t:
        if graphed:
            t.iteration.module = GraphedStep(t.module, t.net, again)
        for _ in range(8):
            t.step(1)
            losses.append(t.smoothed.value)
        return losses, [blob.copy() for row in t.net.blob_arrays() for blob in row]


@pytest.mark.parametrize("changes", [[], ["iter_size=2"]])
def test_the_numbers_are_those_of_ordinary_iterations(
    changes: list[str], training_case: Path
) -> None:
    """Warm-up, recording and its check leave no trace in weights, statistics or gradients."""
    plain, recorded = (_trained(*changes, graphed=g) for g in (False, True))
    assert plain[0] == recorded[0]
    for wanted, found in zip(plain[1], recorded[1], strict=True):
        np.testing.assert_array_equal(found, wanted)


NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 64 dim: 6 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 64 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "drop" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "drop" bottom: "y" top: "loss" }
"""


def _step(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[TrainingStep, list[torch.Tensor]]:
    net = load_net(text, phase="TRAIN", seed=1)
    for step in net.steps:
        step.layer.rng = None
    torch.manual_seed(5)
    feed = [torch.randn(64, 6), torch.arange(64.0) % 3]
    monkeypatch.setattr(net, "read_inputs", lambda: {"x": feed[0], "y": feed[1]})
    return TrainingStep(net), feed


def test_dropout_draws_what_it_would_have_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = _step(NET, monkeypatch)
    statistics = [b.detach().clone() for b in step.net.params["bn"]]
    torch.manual_seed(5)
    wanted = [step()[0].item() for _ in range(3)]
    for blob, value in zip(step.net.params["bn"], statistics, strict=True):
        blob.data.copy_(value)
    torch.manual_seed(5)
    graphed = GraphedStep(step, step.net, again)
    assert [graphed()[0].item() for _ in range(3)] == wanted
    assert step.net.params["ip"][0].grad is not None


def test_a_loss_is_not_changed_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    step, feed = _step(NET, monkeypatch)
    graphed = GraphedStep(step, step.net, again)
    loss, outputs = graphed()
    value, kept = loss.item(), outputs["loss"].clone()
    feed[0] = feed[0] * 3
    graphed()
    assert loss.item() == value and torch.equal(outputs["loss"], kept)


def test_a_batch_of_another_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    step, feed = _step(NET, monkeypatch)
    graphed = GraphedStep(step, step.net, again)
    graphed()
    feed[:] = [torch.randn(2, 6), torch.zeros(2)]
    with pytest.raises(SolverError, match=r"'x' was \(64, 6\) and is \(2, 6\)"):
        graphed()


def test_a_recording_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = NET.replace('bottom: "drop" bottom: "y"', 'bottom: "ip" bottom: "y"')
    text = "\n".join(line for line in text.splitlines() if '"drop"' not in line)
    step, _ = _step(text, monkeypatch)
    graphed = GraphedStep(step, step.net, lambda run: lambda: None)  # replays nothing
    with pytest.raises(SolverError, match="cannot be recorded as a CUDA graph"):
        graphed()


DROPS = ["Dropout", "SpatialDropout"]


@pytest.mark.parametrize("kind", DROPS)
def test_other_masks_are_no_other_numbers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording draws from another place of the generator; of few images all may be dropped."""

    def elsewhere(run: Callable[[], None]) -> Callable[[], None]:
        return lambda: (torch.rand(5), run())[1]

    text = NET.replace('"Dropout"', f'"{kind}"').replace("dim: 64", "dim: 2")
    text = text.replace('top: "drop" }', 'top: "drop" dropout_param { dropout_ratio: 0.9 } }')
    step, feed = _step(text, monkeypatch)
    feed[:] = [30 * feed[0][:2], feed[1][:2]]
    losses = set()
    for seed in range(20):
        torch.manual_seed(seed)
        losses.add(round(GraphedStep(step, step.net, elsewhere)()[0].item(), 3))
    assert len(losses) > 3  # and dropped they are again
    drop = next(s.layer for s in step.net.steps if s.node.name == "drop")
    assert drop.ratio == pytest.approx(0.9)


@pytest.mark.parametrize("kind", [*DROPS, "Pooling"])
def test_a_net_that_draws_is_compared_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are those of ordinary iterations when it does not draw, or it is refused."""

    def twice(run: Callable[[], None]) -> Callable[[], None]:
        return lambda: (run(), run())[1]  # gradients are added to twice

    text = NET.replace('"Dropout"', f'"{kind}"')
    if kind == "Pooling":
        text = text.replace("dim: 64 dim: 6", "dim: 64 dim: 1 dim: 2 dim: 3")
        text = text.replace('bottom: "ip" top: "drop"', 'bottom: "bn" top: "drop" pooling_param '
                            "{ pool: STOCHASTIC kernel_size: 2 }")  # fmt: skip
        text = text.replace('bottom: "bn" top: "ip"', 'bottom: "drop" top: "ip"')
        text = text.replace('bottom: "drop" bottom: "y"', 'bottom: "ip" bottom: "y"')
        lines = text.splitlines()
        text = "\n".join([*lines[:4], lines[6], *lines[4:6], *lines[7:]])
    step, feed = _step(text, monkeypatch)
    feed[0] = feed[0].abs() if kind != "Pooling" else feed[0].abs().view(64, 1, 2, 3)
    GraphedStep(step, step.net, again)()
    with pytest.raises(SolverError, match="cannot be recorded as a CUDA graph"):
        GraphedStep(step, step.net, twice)()


@pytest.mark.parametrize("kind", DROPS)
def test_masks_of_real_caffe_are_refused(kind: str) -> None:
    net = load_net(NET.replace('"Dropout"', f'"{kind}"'), phase="TRAIN", seed=1)
    with pytest.raises(SolverError, match=r"'drop' .* draws from Caffe's own generator"):
        GraphedStep(TrainingStep(net), net, again)


def test_what_changes_from_iteration_to_iteration_is_refused() -> None:
    net = load_net(
        """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 1 dim: 2 } } }
        layer { name: "c" type: "Input" top: "c" input_param { shape { dim: 3 dim: 1 } } }
        layer { name: "odd" type: "LSTM" bottom: "x" bottom: "c" top: "h"
                recurrent_param { num_output: 2 weight_filler { type: "xavier" } } }
        """,
        phase="TRAIN",
        seed=1,
    )
    with pytest.raises(SolverError, match=r"'odd' .* carries its state"):
        GraphedStep(TrainingStep(net), net, again)


def test_there_is_none_without_a_gpu(training_case: Path) -> None:
    Path("net.prototxt").write_text('layer { name: "x" type: "Nothing" }')  # not even built
    with pytest.raises(CaffeIOError, match="--cuda-graph is for one worker on a GPU"):
        Trainer("solver.prototxt", device="cpu", cuda_graph=True)
