"""Facts about layer types that several rules need."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Losses that never look at loss_param (or not at its normalization).
NO_LOSS_PARAM = _words(
    """
    EuclideanLoss HingeLoss ContrastiveLoss MultinomialLogisticLoss L1Loss
    """
)
# Outputs that are measures or detections: nobody has to read them.
MEASURES = _words(
    """
    Accuracy SegAccuracy DetectionEvaluate DetectionOutput EvalDetection SegmentationEvaluate
    YoloDetectionOutput Yolov3DetectionOutput LabelsequenceAccuracy ArgMax Silence HDF5Output Python
    MatWrite
    """
)
