"""What layer types say of themselves to a net that is prepared for inference."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from caffeio.errors import CaffeIOError
from caffeio.layers import LayerType, known_types, lookup
from caffeio.layers.conv import Convolution
from caffeio.layers.inference import infer_layer
from caffeio.layers.neuron import ReLU
from caffeio.ops.module import Layer, make_module
from tests.layers.build import build, run
from tests.layers.test_one_truth import all_cases
from tests.layers.truth import Case


def layer_of(case: Case) -> Layer | None:
    """The layer of a case with ones in its blobs; None if it is refused."""
    try:
        infer_layer(lookup(case.param().type, "x"), case.param(), case.bottoms, case.profile,
                    top_count=case.tops, phase="TEST")  # fmt: skip
        return build(case.text, *case.bottoms, tops=case.tops)
    except CaffeIOError:
        return None


def check(layer: Layer, bottoms: list[torch.Tensor]) -> None:
    """Run it twice: the same tops, nothing else written; memory as `fresh` says."""
    before = [t.clone() for t in (*bottoms, *layer.blobs)]
    first = [top.clone() for top in run(layer, *bottoms)]
    again = run(layer, *bottoms)
    for a, b in zip((*first, *before), (*again, *bottoms, *layer.blobs), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    if layer.fresh:
        theirs = {t.untyped_storage().data_ptr() for t in (*bottoms, *layer.blobs)}
        assert theirs.isdisjoint(top.untyped_storage().data_ptr() for top in again)
    if layer.by_image and bottoms[0].dim():
        check_images(layer, bottoms, first)


def check_images(layer: Layer, bottoms: list[torch.Tensor], tops: list[torch.Tensor]) -> None:
    """Run it on one image after the other: the same tops."""
    assert len({len(t) for t in (*bottoms, *tops)}) == 1
    for i in range(len(bottoms[0])):
        alone = run(layer, *(bottom.narrow(0, i, 1) for bottom in bottoms))
        for a, b in zip(alone, tops, strict=True):
            torch.testing.assert_close(a, b.narrow(0, i, 1), equal_nan=True)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in known_types() if not lookup(kind, "x").is_data])
def test_pure_layers_forget_and_fresh_ones_share_nothing(kind: str) -> None:
    built = (layer_of(case) for case in all_cases().get(kind, []))
    pure = [layer for layer in built if layer is not None and layer.pure]
    assert pure or not lookup(kind, "x").pure
    for layer in islice(pure, 12):
        torch.manual_seed(0)
        check(layer, [torch.randint(0, 2, shape).float() for shape in layer.bottom_shapes])


def test_who_computes_anew_says_anew() -> None:
    class Renamed(Convolution):
        family = "other"

    class Counting(Convolution):
        def forward(self, *bottoms: object) -> object:
            raise NotImplementedError

    class Told(Counting):
        compute = "caffeio.ops.conv:convolution"
        pure = True

    class Joining(ReLU):
        compute = "caffeio.ops.reduction:softmax"
        pure = True

    def facts(cls: type[LayerType]) -> tuple[bool, bool]:
        return cls.pure, cls.fresh

    assert ReLU.by_image and not Joining.by_image

    assert facts(Renamed) == facts(Convolution) == (True, True)
    assert facts(Counting) == (False, False) and facts(Told) == (True, False)
    param = Case('type: "Convolution"', ((1, 3, 4, 4),)).param()
    assert facts(type(make_module(Renamed, param))) == (True, True)
    assert facts(type(make_module(Counting, param))) == (False, False)


@pytest.mark.parametrize(
    ("text", "pure"),
    [
        ('type: "Dropout"', True),
        ('type: "Dropout" dropout_param { sample_weights_test: true }', False),
        ('type: "BatchNorm"', True),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: false }', False),
    ],
)
def test_where_the_parameters_decide(text: str, pure: bool) -> None:
    assert build(text, (2, 3, 4, 5)).pure == pure


@pytest.mark.parametrize(
    ("text", "by_image"),
    [
        ('type: "BatchNorm"', True),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: false }', False),
        ('type: "Concat"', True),
        ('type: "Concat" concat_param { axis: 0 }', False),
        ('type: "Concat" concat_param { axis: -4 }', False),
        ('type: "Scale"', True),
        ('type: "Scale" scale_param { axis: 0 }', False),
        ('type: "Bias" bias_param { axis: 2 }', True),
        ('type: "Bias" bias_param { axis: 0 num_axes: 1 }', False),
        ('type: "Softmax" softmax_param { axis: 0 }', False),
    ],
)
def test_who_joins_images_says_so(text: str, by_image: bool) -> None:
    assert build(text, (2, 3, 4, 5)).by_image == by_image
