"""Data layers of forks and public projects: shapes, and that the caller gives their tops."""

from __future__ import annotations

import pytest
import torch

from caffeio import load_net
from caffeio.errors import DataError, LayerError
from tests.layers.build import build, meta_shapes, run


def shapes(text: str, *names: str) -> list[tuple[int, ...]]:
    tops = " ".join(f'top: "{name}"' for name in names)
    net = load_net(f'layer {{ name: "data" {tops} {text} }}', device="meta")
    return [net.blob_shapes[name] for name in names]


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("batch_size: 4", [(4, 3, 360, 480), (4, 1, 360, 480)]),
        ("new_height: 64 new_width: 96 label_divide_factor: 8", [(1, 3, 64, 96), (1, 1, 8, 12)]),
        ("crop_height: 32 crop_width: 48 is_color: false", [(1, 1, 32, 48), (1, 1, 32, 48)]),
    ],
)
def test_dense_image_data(param, expected):
    text = f'type: "DenseImageData" dense_image_data_param {{ {param} }}'
    assert shapes(text, "data", "label") == expected


def test_lane_data():
    text = (
        'type: "LaneData" transform_param { resize_param { height: 64 width: 96 } } '
        "data_param { batch_size: 2 } annotated_data_param { seg_scales: 4 }"
    )
    expected = [(2, 3, 64, 96), (2, 1, 1, 1), (2, 1, 16, 24)]
    assert shapes(text, "data", "label", "seg") == expected


def test_annotated_data_of_the_yolo_fork():
    text = (
        'type: "AnnotatedData" transform_param { crop_size: 64 } data_param { batch_size: 2 } '
        "annotated_data_param { yolo_data_type: 1 seg_scales: 8 }"
    )
    expected = [(2, 3, 64, 64), (2, 1, 300, 5), (2, 1, 8, 8)]
    assert shapes(text, "data", "label", "seg") == expected


PYTHON = """
layer { name: "data" type: "Python" top: "data" top: "im_info" top: "gt_boxes"
        python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer"
                       param_str: "'num_classes': 21" } }
layer { name: "twice" type: "Power" bottom: "gt_boxes" top: "twice" power_param { scale: 2 } }
"""


def test_python_data_are_given_by_the_caller():
    net = load_net(PYTHON)
    assert net.blob_shapes["data"] == (1, 3, 600, 1000) and net.blob_shapes["gt_boxes"] == (1, 5)
    tops = {"data": torch.zeros(1), "im_info": torch.zeros(1), "gt_boxes": torch.ones(4, 5)}
    assert torch.equal(net(tops)["twice"], torch.full((4, 5), 2.0))
    with pytest.raises(DataError, match="give data, im_info, gt_boxes as inputs"):
        net()
    sized = load_net(PYTHON, input_shapes={k: tuple(v.shape) for k, v in tops.items()})
    assert sized.blob_shapes["gt_boxes"] == (4, 5)


def test_continuation_indicator():
    text = 'type: "ContinuationIndicator" continuation_indicator_param { time_step: 3 axis: 1 }'
    layer = build(text, (9, 2, 5))
    assert layer(torch.zeros(9, 2, 5)).tolist() == [[0, 0], [1, 1], [1, 1]]
    assert meta_shapes(layer, (9, 2, 5)) == [(3, 2)]
    with pytest.raises(LayerError, match="time_step: must be positive"):
        build('type: "ContinuationIndicator"', (9, 2))


def dropout(param_str: str):
    text = (
        'type: "Python" python_param { module: "spatial_dropout" layer: "SpatialDropoutLayer" '
        f'param_str: "{param_str}" }}'
    )
    return build(text, (3, 40, 2, 2))


def test_spatial_dropout_of_enet():
    x = torch.ones(3, 40, 2, 2)
    (y,) = run(dropout("{'phase': 'TEST', 'p': '0.2'}"), x)
    assert torch.equal(y, torch.full_like(x, 1.25))
    torch.manual_seed(0)
    (y,) = run(dropout("{'phase': 'TRAIN', 'p': '0.2'}"), x)
    planes = y.flatten(2)
    assert torch.equal(planes.amin(2), planes.amax(2))
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert 0.6 < (planes[..., 0] > 0).float().mean() < 0.95
    for wrong in ("{'phase': 'TRAIN'}", "{'p': '2', 'phase': 'TEST'}", "p"):
        with pytest.raises(LayerError, match="param_str"):
            dropout(wrong)
