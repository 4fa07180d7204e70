from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError
from tests.harness import check_case, layer_cases
from tests.layers.build import build, check_compiled, gradients, meta_shapes, run


@pytest.mark.parametrize("case", layer_cases("BatchReindex", "Filter", "Parameter"))
def test_golden(case):
    check_case(case, tolerance=1e-6)


def test_reindex_adds_gradients_of_repeated_items():
    x = torch.randn(3, 2)
    layer = build('type: "BatchReindex"', (3, 2), (4,))
    (y,), (grad,) = gradients(layer, x, torch.tensor([2.0, 0.9, 2, 2]))
    assert torch.equal(y, x[[2, 0, 2, 2]])
    assert grad.tolist() == [[1, 1], [0, 0], [3, 3]]
    assert layer(x, torch.empty(0)).shape == (0, 2)


@pytest.mark.parametrize("bad", [-1.0, 3.0])
def test_reindex_outside_the_batch(bad):
    layer = build('type: "BatchReindex"', (3, 2), (2,))
    with pytest.raises(DataError, match=rf"index {bad:g} at item 1 is outside 0\.\.2"):
        layer(torch.randn(3, 2), torch.tensor([0.0, bad]))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert compiled(torch.randn(3, 2), torch.tensor([0.0, bad])).isnan().all(1).tolist() == [0, 1]


def test_reindex_errors():
    with pytest.raises(LayerError, match="a list of indices, not 3 1"):
        build('type: "BatchReindex"', (3, 2), (3, 1))
    with pytest.raises(LayerError, match="scalar"):
        build('type: "BatchReindex"', (), (3,))


def test_filter():
    a, b = torch.randn(4, 2), torch.randn(4, 1, 3)
    selector = torch.tensor([1.0, 0, -2, float("nan")]).view(4, 1, 1)
    layer = build('type: "Filter"', (4, 2), (4, 1, 3), (4, 1, 1), tops=2)
    (x, y), (grad,) = gradients(layer, a, b, selector)
    assert torch.equal(x, a[[0, 2, 3]]) and torch.equal(y, b[[0, 2, 3]])
    assert grad.tolist() == [[1, 1], [0, 0], [1, 1], [1, 1]]
    assert [t.shape for t in run(layer, a, b, torch.zeros(4))] == [(0, 2), (0, 1, 3)]
    assert meta_shapes(layer, (4, 2), (4, 1, 3), (4,)) == [(4, 2), (4, 1, 3)]


def test_filter_of_nothing_has_zero_gradients():
    x = torch.randn(3, 2, requires_grad=True)
    (top,) = run(build('type: "Filter"', (3, 2), (3,)), x, torch.zeros(3))
    top.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("shapes", "tops", "message"),
    [
        (((4, 2), (4,)), 2, "need 1 tops, not 2"),
        (((4, 2), (4, 2)), 1, "one number for each item, not 4 2"),
        (((3, 2), (4,)), 1, r"bottom 0 \(3 2\) and the selector \(4\)"),
    ],
)
def test_filter_errors(shapes, tops, message):
    with pytest.raises(LayerError, match=message):
        build('type: "Filter"', *shapes, tops=tops)


def test_parameter():
    layer = build('type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }')
    top = layer()
    assert torch.equal(top, layer.blobs[0])
    (2 * top.sum()).backward()
    assert torch.equal(layer.blobs[0].grad, torch.full((2, 3), 2.0))
    assert build('type: "Parameter" parameter_param { shape { } }')().shape == ()
    with pytest.raises(LayerError, match="negative"):
        build('type: "Parameter" parameter_param { shape { dim: -2 } }')


def annotate(images, losses, labels, weights, keep):
    """Rois in falling order of loss; the first `keep` of each image stay."""
    left: dict[int, int] = {}
    out_labels, out_weights = np.full_like(labels, -1), np.zeros_like(weights)
    for i in sorted(range(len(losses)), key=lambda i: -losses[i]):
        image = int(images[i])
        if left.setdefault(image, keep) > 0:
            left[image] -= 1
            out_labels[i], out_weights[i] = labels[i], weights[i]
    return out_labels, out_weights


def test_box_annotator():
    rng = np.random.default_rng(0)
    rois = np.concatenate([rng.integers(0, 3, (20, 1)), rng.random((20, 4))], 1).astype(np.float32)
    losses = rng.random(20).astype(np.float32)
    losses[5:8] = 0.5  # ties: the first ones stay
    labels = rng.integers(0, 4, 20).astype(np.float32)
    weights = rng.random((20, 8)).astype(np.float32)
    text = 'type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 3 }'
    layer = build(text, (20, 5), (20, 1), (20,), (20, 8), tops=2)
    bottoms = [torch.from_numpy(x) for x in (rois, losses[:, None], labels, weights)]
    mine = run(layer, *bottoms)
    expected = annotate(rois[:, 0], losses, labels, weights, 3)
    assert mine[0].shape == (20, 1, 1, 1) and mine[1].shape == (20, 8, 1, 1)
    for a, b in zip(mine, expected, strict=True):
        assert np.array_equal(a.numpy().reshape(b.shape), b)
    check_compiled(layer, build(text, (20, 5), (20, 1), (20,), (20, 8), tops=2), *bottoms)
    shapes = [tuple(b.shape) for b in bottoms]
    assert meta_shapes(layer, *shapes) == [(20, 1, 1, 1), (20, 8, 1, 1)]


def test_box_annotator_errors():
    text = 'type: "BoxAnnotatorOHEM"'
    with pytest.raises(LayerError, match="roi_per_img"):
        build(text, (4, 5), (4, 1), (4, 1), (4, 8), tops=2)
    text += " box_annotator_ohem_param { roi_per_img: 1 }"
    with pytest.raises(LayerError, match="bottoms must be rois"):
        build(text, (4, 4), (4, 1), (4, 1), (4, 8), tops=2)


def test_reindex_compiles():
    layers = [build('type: "BatchReindex"', (3, 2), (4,)) for _ in range(2)]
    check_compiled(*layers, torch.randn(3, 2), torch.tensor([2.0, 0, 2, 1]))
