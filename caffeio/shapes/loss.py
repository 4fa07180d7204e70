"""Losses and measures: scalars mostly, with extra tops of some forks."""

from __future__ import annotations

from caffeio.shapes.base import LayerShapes, Query, Shape, agree, product, rule

SCALAR: Shape = ()


@rule(
    "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "L1Loss", "MultiBoxLoss",
    "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss", "SmoothL1Loss",
)  # fmt: skip
def loss(q: Query) -> LayerShapes:
    """One scalar."""
    if q.kind != "MultiBoxLoss" and len(q.bottoms) > 1:
        a, b = q.bottoms[:2]
        if a and b and not agree(a[0], b[0]):
            q.fail(f"the first dimensions of {a} and {b} differ", "bottom")
    return LayerShapes((SCALAR,))


@rule("RegionLoss", "Yolov3", "YoloSeg")
def detection_loss(q: Query) -> LayerShapes:
    """One scalar, and what the fork adds to it is not known."""
    return LayerShapes((SCALAR, *(None,) * (q.top_count - 1)))


@rule("SoftmaxWithLoss", "InfogainLoss")
def softmax_loss(q: Query) -> LayerShapes:
    """The loss, and the probabilities if a second top is named."""
    field = "softmax_param" if q.kind == "SoftmaxWithLoss" else "infogain_loss_param"
    scores, labels = (*q.bottoms, None, None)[:2]
    if scores is not None and labels is not None:
        axis = q.axis(getattr(q.param, field).axis, len(scores), f"{field}.axis")
        wanted = product((*scores[:axis], *scores[axis + 1 :]))
        if not agree(wanted, product(labels)):
            q.fail(f"{wanted} predictions in {scores}, {product(labels)} labels", "bottom")
    return LayerShapes((SCALAR, *q.bottoms[:1])[: max(q.top_count, 1)])


@rule("SoftmaxWithLossOHEM")
def softmax_loss_ohem(q: Query) -> LayerShapes:
    """The loss, the probabilities, the loss of each instance."""
    return LayerShapes((SCALAR, *q.bottoms[:2])[: max(q.top_count, 1)])


@rule("SmoothL1LossOHEM")
def smooth_l1_loss_ohem(q: Query) -> LayerShapes:
    """The loss, and the loss of each instance (N, 1, H, W)."""
    if q.top_count < 2:
        return LayerShapes((SCALAR,))
    shape = q.shape()
    return LayerShapes((SCALAR, (shape[0], 1, *(*shape[2:], 1, 1)[:2])))


@rule("BoxAnnotatorOHEM")
def box_annotator(q: Query) -> LayerShapes:
    """Labels like the labels, weights like the weights."""
    return LayerShapes((*q.bottoms[2:3], *q.bottoms[3:4])[: max(q.top_count, 1)])


@rule("Accuracy")
def accuracy(q: Query) -> LayerShapes:
    """The accuracy, and the recall of each class if a second top is named."""
    if q.top_count < 2:
        return LayerShapes((SCALAR,))
    shape = q.shape()
    axis = q.axis(q.param.accuracy_param.axis, len(shape), "accuracy_param.axis")
    return LayerShapes((SCALAR, (shape[axis],)))


@rule("SegAccuracy")
def seg_accuracy(q: Query) -> LayerShapes:
    """DeepLab's: pixel accuracy, class accuracy, IoU."""
    return LayerShapes(((1, 1, 1, 3),) * max(q.top_count, 1))
