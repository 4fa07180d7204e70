"""A layer type is told once: what its class says without torch is what its arithmetic does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest

from caffeio.layers import known_types, lookup
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.proto.files import read_net
from tests.layers.truth import Case, differences_of_all, grid, mixtures
from tests.paths import GOLDEN, NIGHT

# Layers of forks, which no golden case has.
SEEDS = [
    Case('type: "DepthwiseConvolution" convolution_param { num_output: 4 kernel_size: 3 }',
         ((2, 4, 7, 6),)),
    Case('type: "ConvolutionDepthwise" convolution_param { num_output: 8 kernel_size: 3 pad: 1 }',
         ((2, 4, 7, 6),)),
    Case('type: "ReLU6"', ((2, 3, 4),)),
    Case('type: "SpatialDropout"', ((2, 3, 4, 5),)),
    Case('type: "Axpy"', ((2, 3), (2, 3, 4, 5), (2, 3, 4, 5))),
    Case('type: "BN"', ((2, 3, 4, 5),)),
    Case('type: "BN" bn_param { scale_filler { value: 1 } }', ((2, 3, 4, 5),), 3, "TRAIN"),
    Case('type: "ContinuationIndicator" continuation_indicator_param { time_step: 4 }',
         ((2, 3, 4),)),
    Case('type: "Normalize"', ((2, 3, 4, 5),)),
    Case('type: "L1Loss"', ((2, 3, 4), (2, 3, 4))),
    Case('type: "SmoothL1Loss"', ((2, 3, 4), (2, 3, 4))),
    Case('type: "SmoothL1Loss"', ((2, 3, 4),) * 4),
    Case('type: "SmoothL1LossOHEM"', ((2, 3, 4, 5),) * 3, 2),
    Case('type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 2 }',
         ((6, 5, 1, 1), (6, 1, 1, 1), (6, 1, 1, 1), (6, 8, 1, 1)), 2),
    Case('type: "LSTM" recurrent_param { num_output: 4 expose_hidden: true }',
         ((3, 2, 5), (3, 2), (1, 2, 4), (1, 2, 4)), 3),
    Case('type: "InfogainLoss"', ((2, 3, 4), (2, 1, 4), (3, 3)), 2),
    Case('type: "SmoothL1Loss" loss_param { normalization: NONE }', ((2, 3), (2, 3)), 1),
    Case('type: "SoftmaxWithLoss"', ((2, 3, 4), (2, 1, 4), (2, 1, 4)), 2),
    Case('type: "SoftmaxWithLossOHEM"', ((2, 3, 4), (2, 1, 4)), 3),
    Case('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', ((2, 4, 5, 6),)),
    Case('type: "Reorg" reorg_param { stride: 2 }', ((2, 8, 4, 6),)),
    Case('type: "CropCenter" crop_center_param { crop_size: 0 crop_size: 0 crop_size: 1 '
         'crop_size: 2 }', ((2, 3, 6, 7),)),
    Case('type: "Upsample" upsample_param { scale: 2 }', ((2, 3, 4, 5),)),
    Case('type: "Upsample" upsample_param { scale: 2 }', ((2, 3, 4, 5), (2, 3, 4, 5))),
    Case('type: "Interp" interp_param { zoom_factor: 2 }', ((2, 3, 4, 5),)),
    Case('type: "Interp" interp_param { height: 7 width: 9 }', ((2, 3, 4, 5),)),
    Case('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }',
         ((2, 3, 8, 9), (4, 5))),
    Case('type: "PSROIPooling" psroi_pooling_param { output_dim: 2 group_size: 2 '
         'spatial_scale: 0.5 }', ((2, 8, 7, 6), (3, 5))),
    Case('type: "Proposal" proposal_param { ratio: 1 scale: 8 post_nms_topn: 5 }',
         ((1, 2, 4, 5), (1, 4, 4, 5), (1, 3)), 2),
    Case('type: "PriorBox" prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 '
         'flip: true }',
         ((2, 3, 4, 5), (2, 3, 30, 40))),
    Case('type: "PriorBoxClustered" prior_box_param { width: 3 height: 4 width: 5 height: 6 }',
         ((2, 3, 4, 5), (2, 3, 30, 40))),
    Case('type: "DetectionOutput" detection_output_param { num_classes: 3 nms_param { '
         'nms_threshold: 0.5 } }', ((2, 40), (2, 30), (1, 2, 40))),
    Case('type: "DetectionEvaluate" detection_evaluate_param { num_classes: 3 '
         'overlap_threshold: 0.5 }', ((1, 1, 6, 7), (1, 1, 4, 8))),
    Case('type: "MultiBoxLoss" multibox_loss_param { num_classes: 3 }',
         ((2, 40), (2, 30), (1, 2, 40), (1, 1, 4, 8)), 1, "TRAIN"),
    Case('type: "RegionLoss" region_loss_param { side: 4 num_class: 2 num: 2 coords: 4 biases: 1 '
         'biases: 2 biases: 3 biases: 4 }', ((2, 14, 4, 4), (1, 1, 3, 8))),
    Case('type: "EvalDetection" eval_detection_param { side: 4 num_class: 2 num_object: 5 '
         + 10 * "biases: 1 " + "}", ((2, 35, 4, 4), (1, 1, 3, 8), (2, 3, 16, 16))),
    Case('type: "Yolov3" yolov3_param { num_class: 2 num: 2 mask: 0 mask: 1 biases: 1 biases: 2 '
         'biases: 3 biases: 4 }', ((2, 14, 4, 4), (2, 3, 5))),
    Case('type: "YoloSeg"', ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3))),
    Case('type: "SegmentationEvaluate" segmentation_evaluate_param { num_classes: 3 }',
         ((2, 3, 4, 5), (2, 3, 4, 5))),
    Case('type: "YoloDetectionOutput" yolo_detection_output_param { num_classes: 2 num_box: 2 '
         'coords: 4 confidence_threshold: 0.1 nms_threshold: 0.4 biases: 1 biases: 2 biases: 3 '
         'biases: 4 }', ((1, 14, 4, 4),)),
    Case('type: "Yolov3DetectionOutput" yolov3_detection_output_param { num_classes: 2 num_box: 1 '
         'confidence_threshold: 0.1 nms_threshold: 0.4 biases: 1 biases: 2 mask: 0 '
         'mask_group_num: 1 anchors_scale: 8 }', ((1, 7, 4, 4),)),
    Case('type: "Data" data_param { batch_size: 2 } transform_param { crop_size: 4 }', (), 2),
    Case('type: "ImageData" image_data_param { batch_size: 2 new_height: 3 new_width: 4 }', (), 2),
    Case('type: "WindowData" window_data_param { batch_size: 2 } transform_param { crop_size: 4 }',
         (), 2),
    Case('type: "AnnotatedData" data_param { batch_size: 2 }', (), 3),
    Case('type: "VideoData" data_param { batch_size: 2 }', (), 2),
    Case('type: "MemoryData" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }',
         (), 2),
    Case('type: "HDF5Data" hdf5_data_param { batch_size: 2 }', (), 3),
    Case('type: "DummyData" dummy_data_param { shape { dim: 2 dim: 3 } }', (), 2),
    Case('type: "DummyData" dummy_data_param { num: 2 channels: 3 height: 4 width: 5 }', (), 1),
    Case('type: "Input" input_param { shape { dim: 2 dim: 3 } }', (), 2),
    Case('type: "DenseImageData" dense_image_data_param { batch_size: 2 new_height: 8 '
         'new_width: 6 }', (), 2),
    Case('type: "LaneData" data_param { batch_size: 2 } transform_param { crop_size: 16 }', (), 3),
    Case('type: "Permute" permute_param { order: 0 order: 2 order: 1 }', ((2, 3, 4, 5),)),
]  # fmt: skip


@cache
def all_cases() -> dict[str, list[Case]]:
    """The layers `x` of the golden cases, and the seeds, by type."""
    found: dict[str, list[Case]] = {}
    for path in sorted(GOLDEN.glob("layers/*/*.prototxt")):
        for phase in ("TRAIN", "TEST"):
            graph = build_graph(read_net(path).message, phase=phase)
            shapes = infer_net(graph)
            for node in graph.nodes:
                bottoms = [shapes.blobs.get(name) for name in node.bottoms]
                if node.name != "x" or None in bottoms:
                    continue
                param = type(node.param)()
                param.CopyFrom(node.param)
                for field in ("name", "bottom", "top", "include", "exclude", "blobs"):
                    param.ClearField(field)
                cls = lookup(node.type, "x")
                count = len(node.tops) or (cls.tops.low if cls.is_loss else 0)
                case = Case(str(param), tuple(b for b in bottoms if b is not None), count, phase)
                found.setdefault(node.type, []).append(case)
    for seed in SEEDS:
        found.setdefault(seed.param().type, []).append(seed)
    return found


def chosen(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Cases whose fields are tried one by one, and others, of which only a few mixtures are.

    The first are of different shapes, numbers of tops, phases and fields; at night all are.
    """
    if NIGHT:
        return list(dict.fromkeys(cases)), []
    kinds: dict[tuple[object, ...], Case] = {}
    for case in dict.fromkeys(cases):
        ranks = tuple(map(len, case.bottoms))
        kinds.setdefault((ranks, case.tops, case.phase), case)
    first = list(kinds.values())[:2]
    return first, [case for case in dict.fromkeys(cases) if case not in first]


@pytest.mark.parametrize("kind", known_types())
def test_every_field_in_every_profile(kind: str) -> None:
    cls = lookup(kind, kind)
    assert kind in all_cases(), "add a seed"
    first, others = chosen(all_cases()[kind])
    grids = [(case, grid(case, cls, 200 if NIGHT else 12)) for case in first]
    grids += [(case, islice(mixtures(case, cls, 4), 4)) for case in others]
    wrong = [
        text
        for seed, cases in grids
        for i, case in enumerate((seed, *cases))
        for text in differences_of_all(replace(case, hide=NIGHT or i % 4 == 0))
    ]
    assert not wrong, "\n".join(wrong[:8]) + f"\n{len(wrong)} in all"
