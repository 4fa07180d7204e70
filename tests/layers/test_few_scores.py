"""The short way of a few scores gives the numbers of the long one, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.ops import few_scores
from tests.layers.build import build

LOSS = 'type: "SoftmaxWithLoss"'
ACCURACY = 'type: "Accuracy"'
SIZES = [(1, 2), (1, 10), (7, 3), (16, 10), (32, 128), (33, 10), (64, 10), (100, 40), (4, 1)]


def batch(n: int, classes: int, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * 1000 + classes)
    scores = spread * torch.randn(n, classes, generator=generator)
    return scores, torch.randint(0, classes, (n,), generator=generator).float()


def results(text: str, scores: Tensor, label: Tensor, weight: float = 1.0) -> list[Tensor]:
    """The top, and the gradient of the scores for a loss weight."""
    layer = build(text, tuple(scores.shape), tuple(label.shape))
    x = scores.clone().requires_grad_()
    top = layer(x, label)
    if not top.requires_grad:
        return [top]
    (top * weight).backward()
    assert x.grad is not None
    return [top.detach(), x.grad]


def both_ways(
    monkeypatch: pytest.MonkeyPatch, text: str, scores: Tensor, label: Tensor, weight: float = 1.0
) -> None:
    """Compare bit by bit, the signs of nan too: logs show them."""
    asked: list[bool] = []
    are_few = few_scores._are_few

    def noted(scores: Tensor, label: Tensor) -> bool:
        asked.append(are_few(scores, label))
        return asked[-1]

    monkeypatch.setattr(few_scores, "_are_few", noted)
    short = results(text, scores, label, weight)
    assert asked == [True]
    monkeypatch.setattr(few_scores, "_are_few", lambda *args: False)
    long = results(text, scores, label, weight)
    monkeypatch.setattr(few_scores, "_are_few", are_few)
    for ours, theirs in zip(short, long, strict=True):
        assert ours.shape == theirs.shape
        assert ours.stride() == theirs.stride()
        assert ours.dtype is theirs.dtype is torch.float32
        assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.0, 1e-3, 3.0, 100.0])
def test_the_loss_is_the_same(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], spread: float
) -> None:
    both_ways(monkeypatch, LOSS, *batch(*size, spread))
    both_ways(monkeypatch, LOSS, *batch(*size, spread), weight=0.3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_accuracy_is_the_same(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], top_k: int
) -> None:
    scores, label = batch(*size, 1.0)
    text = f"{ACCURACY} accuracy_param {{ top_k: {min(top_k, size[1])} }}"
    both_ways(monkeypatch, text, scores, label)
    both_ways(monkeypatch, text, (2 * scores).round(), label)  # ties


@pytest.mark.parametrize("mode", ["FULL", "BATCH_SIZE", "NONE", "VALID"])
def test_every_normalization(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    text = f"{LOSS} loss_param {{ normalization: {mode} }}"
    both_ways(monkeypatch, text, *batch(12, 5, 2.0))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan, 3e38, -3e38])
@pytest.mark.parametrize("text", [LOSS, ACCURACY])
def test_what_is_no_number(monkeypatch: pytest.MonkeyPatch, text: str, value: float) -> None:
    scores, label = batch(9, 6, 1.0)
    label[:3] = torch.tensor([0.0, 1.0, 5.0])
    scores[0, 0] = scores[1, 0] = scores[2, 5] = scores[3] = value
    scores[2, 4] = -value
    both_ways(monkeypatch, text, scores, label)


def test_labels_of_other_shapes_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, label = batch(8, 4, 1.0)
    both_ways(monkeypatch, LOSS, scores.t().contiguous().t(), label)
    for other in (label.view(8, 1, 1, 1), label + 0.75, label.long()):
        both_ways(monkeypatch, LOSS, scores, other)
        both_ways(monkeypatch, ACCURACY, scores, other)


def test_the_gradient_is_that_of_the_labels_at_the_time() -> None:
    """Loaders use the memory of a batch again."""
    scores, label = batch(8, 4, 1.0)
    expected = results(LOSS, scores, label.clone())[1]
    x = scores.clone().requires_grad_()
    loss = build(LOSS, (8, 4), (8,))(x, label)
    label.zero_()
    loss.backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("wrong", [-1.0, 4.0, float("nan"), float("inf")])
@pytest.mark.parametrize("text", [LOSS, ACCURACY])
def test_labels_that_are_no_class_are_named(text: str, wrong: float) -> None:
    scores, label = batch(8, 4, 1.0)
    label[3] = wrong
    with pytest.raises(DataError, match=r"label .* at item 3 is outside 0\.\.3"):
        build(text, (8, 4), (8,))(scores, label)
