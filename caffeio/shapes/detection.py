"""Detection: SSD, R-CNN and YOLO layers. Numbers of boxes are those of set-up (`dynamic`)."""

from __future__ import annotations

from caffeio.shapes.base import UNKNOWN, LayerShapes, Query, Shape, agree, product, rule


@rule("PriorBox")
def prior_box(q: Query) -> LayerShapes:
    """(1, 2, 4 H W P): boxes and their variances (Liu et al., SSD, 2016)."""
    p, shape = q.param.prior_box_param, q.shape()
    if not p.min_size:
        q.fail("at least one is needed", "prior_box_param.min_size")
    if p.max_size and len(p.max_size) != len(p.min_size):
        q.fail("give none, or one for each min_size", "prior_box_param.max_size")
    ratios = [1.0]
    for ratio in p.aspect_ratio:
        if any(abs(ratio - known) < 1e-6 for known in ratios):
            continue
        ratios.append(ratio)
        if p.flip:
            ratios.append(1.0 / ratio)
    priors = len(ratios) * len(p.min_size) + len(p.max_size)
    return LayerShapes(((1, 2, product((*shape[2:4], priors, 4))),))


@rule("PriorBoxClustered")
def prior_box_clustered(q: Query) -> LayerShapes:
    """One box for each (width, height) pair."""
    p, shape = q.param.prior_box_param, q.shape()
    if len(p.width) != len(p.height):
        q.fail("give as many widths as heights", "prior_box_param.width")
    return LayerShapes(((1, 2, product((*shape[2:4], len(p.width), 4))),))


@rule("DetectionOutput")
def detection_output(q: Query) -> LayerShapes:
    """(1, 1, D, 7): image, label, score, box; D is known only when it runs."""
    return LayerShapes(((1, 1, 1, 7),), dynamic=True)


@rule("YoloDetectionOutput", "Yolov3DetectionOutput")
def yolo_output(q: Query) -> LayerShapes:
    """SSD's rows."""
    return LayerShapes(((1, 1, 1, 7),), dynamic=True)


@rule("DetectionEvaluate")
def detection_evaluate(q: Query) -> LayerShapes:
    """(1, 1, classes + detections, 5)."""
    p = q.param.detection_evaluate_param
    classes = p.num_classes - (0 if p.background_label_id == 2**32 - 1 else 1)
    rows = q.shape()[2] if len(q.shape()) > 2 else UNKNOWN
    total = UNKNOWN if rows < 0 else classes + rows
    return LayerShapes(((1, 1, total, 5),), dynamic=True)


@rule("EvalDetection")
def eval_detection(q: Query) -> LayerShapes:
    """(N, classes + 4 x boxes): counts of truths, then rows."""
    p = q.param.eval_detection_param
    return LayerShapes(((q.shape()[0], p.num_class + 4 * p.side**2 * p.num_object),))


@rule("SegmentationEvaluate")
def segmentation_evaluate(q: Query) -> LayerShapes:
    """(1, 1, 1, C): a ratio for each channel."""
    return LayerShapes(((1, 1, 1, q.shape()[1]),))


@rule("ROIPooling", "ROIAlign")
def roi_pooling(q: Query) -> LayerShapes:
    """(R, C, pooled_h, pooled_w), R from the rois."""
    shape, rois = q.shape(0), q.shape(1)
    size: Shape
    if q.kind == "ROIAlign":
        p = q.param.roi_align_param
        size = (p.pooled_h, p.pooled_w)
    else:
        r = q.param.roi_pooling_param
        size = (r.pooled_h, r.pooled_w)
        if r.pooled_size:
            axes = len(shape) - 2
            size = tuple(r.pooled_size) * (axes if len(r.pooled_size) == 1 else 1)
    if not all(size):
        q.fail("the pooled size must be 1 or more", "roi_pooling_param.pooled_h")
    return LayerShapes(((rois[0], shape[1], *size),))


@rule("PSROIPooling")
def psroi_pooling(q: Query) -> LayerShapes:
    """(R, output_dim, group_size, group_size)."""
    p, shape, rois = q.param.psroi_pooling_param, q.shape(0), q.shape(1)
    if p.output_dim < 1 or p.group_size < 1:
        q.fail("output_dim and group_size must be 1 or more", "psroi_pooling_param")
    if not agree(shape[1], p.output_dim * p.group_size**2):
        q.fail(
            f"the bottom has {shape[1]} channels, not output_dim x group_size^2 = "
            f"{p.output_dim * p.group_size**2}",
            "psroi_pooling_param",
        )
    return LayerShapes(((rois[0], p.output_dim, p.group_size, p.group_size),))


@rule("Proposal")
def proposal(q: Query) -> LayerShapes:
    """(R, 5) regions of interest, and their scores."""
    tops = ((1, 5), (1, 1))
    return LayerShapes(tops[: max(q.top_count, 1)], dynamic=True)


@rule("DetectNetTransformation")
def detectnet(q: Query) -> LayerShapes:
    """Images at their target size; the label's channels depend on the classes."""
    p, shape = q.param.detectnet_groundtruth_param, q.shape()
    height, width = p.image_size_y, p.image_size_x
    data = (shape[0], shape[1], height, width)
    label = (shape[0], UNKNOWN, height // p.stride, width // p.stride)
    return LayerShapes((data, label)[: q.top_count])


@rule("Python")
def python(q: Query) -> LayerShapes:
    """Known for py-faster-rcnn's proposal layer; other modules decide for themselves."""
    if q.param.python_param.layer == "ProposalLayer":
        tops = ((1, 5), (1, 1, 1, 1))
        return LayerShapes(tops[: q.top_count], dynamic=True)
    return LayerShapes((None,) * q.top_count, macs=None)
