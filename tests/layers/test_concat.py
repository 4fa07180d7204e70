from __future__ import annotations

import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import check_case, layer_cases
from tests.layers.build import build, check_compiled, meta_shapes, run


@pytest.mark.parametrize("case", layer_cases("Concat", "Slice", "Silence"))
def test_golden(case):
    check_case(case, tolerance=0)


@pytest.mark.parametrize("case", layer_cases("Split"))
def test_golden_sums_of_gradients(case):
    check_case(case)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_slice_undoes_concat(axis):
    parts = [torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)]
    concat = build(f'type: "Concat" concat_param {{ axis: {axis} }}', *[(2, 3, 4)] * 3)
    whole = concat(*parts)
    assert torch.equal(whole, torch.cat(parts, axis))
    param = f"slice_param {{ axis: {axis} }}"
    back = run(build(f'type: "Slice" {param}', tuple(whole.shape), tops=3), whole)
    assert all(torch.equal(a, b) for a, b in zip(parts, back, strict=True))


def test_slice_points():
    x = torch.randn(2, 6)
    layer = build('type: "Slice" slice_param { slice_point: 1 slice_point: 4 }', (2, 6), tops=3)
    assert [tuple(part.shape) for part in run(layer, x)] == [(2, 1), (2, 3), (2, 2)]
    layer = build('type: "Slice"', (2, 6))
    assert layer(x) is x


def test_empty_batch():
    layer = build('type: "Concat"', (0, 3), (0, 2))
    assert layer(torch.empty(0, 3), torch.empty(0, 2)).shape == (0, 5)
    layer = build('type: "Slice" slice_param { axis: 1 }', (0, 4), tops=2)
    assert [tuple(t.shape) for t in run(layer, torch.empty(0, 4))] == [(0, 2), (0, 2)]


@pytest.mark.parametrize(
    ("text", "shapes", "tops", "message"),
    [
        ('type: "Concat"', ((2, 3), (3, 3)), 1, "bottom 0 is 2 3, bottom 1 is 3 3"),
        ('type: "Concat"', ((2, 3), (2, 3, 1)), 1, "equal dimensions except along axis 1"),
        ('type: "Concat" concat_param { axis: 2 }', ((2, 3),), 1, "axis 2 out of range"),
        ('type: "Concat" concat_param { concat_dim: 2 }', ((2, 3),), 1, "concat_dim: 2 is out"),
        ('type: "Concat" concat_param { concat_dim: 1 axis: 1 }', ((2, 3),), 1, "not both"),
        ('type: "Slice" slice_param { slice_dim: 1 axis: 1 }', ((2, 3),), 1, "not both"),
        ('type: "Slice"', ((2, 3),), 2, "2 tops do not evenly divide axis 1 of size 3"),
        ('type: "Slice" slice_param { slice_point: 1 }', ((2, 3),), 3, "3 tops need 2"),
        ('type: "Slice" slice_param { slice_point: 3 }', ((2, 3),), 2, "slice points 3 must rise"),
        (
            'type: "Slice" slice_param { slice_point: 2 slice_point: 1 }',
            ((2, 3),), 3, "slice points 2 1 must rise",
        ),
        ('type: "Slice" slice_param { slice_point: 0 }', ((2, 3),), 2, "slice points 0 must"),
    ],
)  # fmt: skip
def test_errors(text, shapes, tops, message):
    with pytest.raises(LayerError, match=message):
        build(text, *shapes, tops=tops)


def test_split_and_silence():
    x = torch.randn(2, 3, requires_grad=True)
    tops = run(build('type: "Split"', (2, 3), tops=3), x)
    assert len(tops) == 3
    (tops[0].sum() + 2 * tops[2].sum()).backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full((2, 3), 3.0))
    assert build('type: "Silence"', (2, 3), (1,), tops=0)(x, x) == ()


def test_compiles():
    shapes = ((2, 3, 4), (2, 1, 4))
    check_compiled(
        build('type: "Concat"', *shapes), build('type: "Concat"', *shapes),
        torch.randn(shapes[0]), torch.randn(shapes[1]),
    )  # fmt: skip
    for text, tops in [
        ('type: "Slice" slice_param { slice_point: 1 slice_point: 4 }', 3),
        ('type: "Slice"', 2),
        ('type: "Split"', 2),
    ]:
        make = [build(text, (2, 6), tops=tops) for _ in range(2)]
        check_compiled(*make, torch.randn(2, 6))


def test_meta_shapes():
    assert meta_shapes(build('type: "Concat"', (2, 3), (2, 5)), (2, 3), (2, 5)) == [(2, 8)]
    assert meta_shapes(build('type: "Slice"', (2, 6), tops=3), (2, 6)) == [(2, 2)] * 3
    assert meta_shapes(build('type: "Split"', (2, 6), tops=2), (2, 6)) == [(2, 6)] * 2
    assert meta_shapes(build('type: "Silence"', (2, 6), tops=0), (2, 6)) == []
