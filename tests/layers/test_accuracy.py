from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError
from caffeio.profiles import BVLC, INTEL, NVIDIA
from tests.harness import check_case, layer_cases
from tests.layers.build import build, check_compiled, meta_shapes
from tests.paths import GOLDEN

KIND = 'type: "Accuracy"'
FORKS = [("bvlc", BVLC), ("fork", INTEL)]


@pytest.mark.parametrize("case", layer_cases("Accuracy"))
def test_golden(case):
    check_case(case, tolerance=0)


def fork_diff(fork: str, case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "fork" / "diffs" / fork / f"{case}.npz") as file:
        return {key: file[key] for key in file.files}


def accuracy(scores, label, profile, top_k=1):
    layer = build(
        f"{KIND} accuracy_param {{ top_k: {top_k} }}", (1, len(scores)), (1,), profile=profile
    )
    return layer(torch.tensor([scores]), torch.tensor([float(label)])).item()


@pytest.mark.parametrize(("fork", "profile"), FORKS)
def test_ties_by_profile(fork, profile):
    expected = fork_diff(fork, "accuracy_ties")
    for key, value in expected.items():
        label = int(key[-1])
        scores = [0.5] * 4 if key.startswith("equal_scores") else [0.1, 0.7, 0.7, 0.2]
        mine = accuracy(scores, label, profile, 2 if "top2" in key else 1)
        assert mine == value, key
    assert len(expected) == 12


@pytest.mark.parametrize(("fork", "profile"), FORKS)
def test_all_nan_scores_by_profile(fork, profile):
    expected = fork_diff(fork, "accuracy_nan")
    assert len(expected) == 4
    for key, value in expected.items():
        assert accuracy([float("nan")] * 4, int(key[-1]), profile) == value, key


def by_sorting(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Items sorted by (score, class), both descending, as older Caffes do."""
    right = 0
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(len(row)), key=lambda c: (row[c], c), reverse=True)
        right += int(label) in order[:k]
    return right / len(labels)


def by_counting(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The label's class may have at most k - 1 others that are as good."""
    better = [(row >= row[int(label)]).sum() - 1 for row, label in zip(scores, labels, strict=True)]
    return float(np.mean([b < k for b in better]))


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize(("profile", "oracle"), [(BVLC, by_counting), (INTEL, by_sorting)])
def test_top_k_with_many_ties(profile, oracle, k):
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 4, (50, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 50).astype(np.float32)
    layer = build(f"{KIND} accuracy_param {{ top_k: {k} }}", (50, 7), (50,), profile=profile)
    mine = layer(torch.from_numpy(scores), torch.from_numpy(labels)).item()
    assert mine == pytest.approx(oracle(scores, labels, k), abs=1e-7)


@pytest.mark.parametrize("profile", [BVLC, INTEL, NVIDIA])
def test_maps_ignored_labels_and_classes(profile):
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 5)).astype(np.float32)
    labels[labels == 2] = 255  # so that class 2 has no items
    param = "accuracy_param { ignore_label: 255 }"
    layer = build(f"{KIND} {param}", scores.shape, labels.shape, tops=2, profile=profile)
    share, classes = layer(torch.from_numpy(scores), torch.from_numpy(labels))
    best, keep = scores.argmax(1), labels != 255
    assert share.item() == np.float32((best == labels)[keep].mean())
    for c in range(2):
        assert classes[c].item() == np.float32((best == c)[labels == c].mean())
    assert classes[2].item() == 0


def test_no_valid_label():
    shapes = ((2, 3), (2,))
    param = "accuracy_param { ignore_label: 1 }"
    scores, labels = torch.randn(2, 3), torch.ones(2)
    assert build(f"{KIND} {param}", *shapes)(scores, labels).item() == 0
    assert build(f"{KIND} {param}", *shapes, profile=INTEL)(scores, labels).isnan()


def test_denominator_of_lisa():
    scores, labels = torch.eye(4), torch.tensor([0.0, 1, 0, 0])
    layer = build(f"{KIND} accuracy_param {{ denominator: 8 }}", (4, 4), (4,))
    assert layer(scores, labels).item() == 2 / 8
    with pytest.raises(LayerError, match="denominator"):
        build(f"{KIND} accuracy_param {{ denominator: -1 }}", (4, 4), (4,))


def test_no_gradient():
    assert not build(KIND, (2, 3), (2,))(
        torch.randn(2, 3, requires_grad=True), torch.zeros(2)
    ).requires_grad


def test_errors():
    with pytest.raises(LayerError, match="top_k 6 is more than there are classes"):
        build(f"{KIND} accuracy_param {{ top_k: 6 }}", (2, 5), (2,))
    with pytest.raises(LayerError, match=r"10 predictions.*2 labels"):
        build(KIND, (2, 3, 5), (2,))
    with pytest.raises(LayerError, match="axis 4 out of range"):
        build(f"{KIND} accuracy_param {{ axis: 4 }}", (2, 5), (2,))
    with pytest.raises(LayerError, match="min_is_better"):
        build(f"{KIND} accuracy_param {{ min_is_better: true }}", (2, 5), (2,))
    with pytest.raises(DataError, match=r"label 5 at item 1 is outside 0\.\.4"):
        build(KIND, (2, 5), (2,))(torch.randn(2, 5), torch.tensor([0.0, 5]))


def test_label_that_is_no_class_counts_as_wrong_where_nobody_may_look():
    torch._dynamo.reset()
    layer = torch.compile(build(KIND, (2, 3), (2,), tops=2), fullgraph=True, backend="eager")
    share, classes = layer(torch.eye(2, 3), torch.tensor([0.0, -7]))
    assert share.item() == 0.5
    assert classes.tolist() == [1, 0, 0]


@pytest.mark.parametrize("profile", [BVLC, INTEL])
@pytest.mark.parametrize("param", ["", "accuracy_param { ignore_label: 1 top_k: 2 axis: -2 }"])
def test_compiles(param, profile):
    make = [build(f"{KIND} {param}", (2, 3, 4), (2, 4), tops=2, profile=profile) for _ in range(2)]
    check_compiled(*make, torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4)).float())


def test_meta_shapes():
    assert meta_shapes(build(KIND, (2, 3, 4), (2, 4), tops=2), (2, 3, 4), (2, 4)) == [(), (3,)]
    assert meta_shapes(build(KIND, (2, 3), (2,), profile=INTEL), (2, 3), (2,)) == [()]
