"""Facts about layer types that several rules need."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Parameter messages and the layer types that read them; others ignore them without a word.
_CONVOLUTIONS = (
    "Convolution Deconvolution Im2col DepthwiseConvolution ConvolutionDepthwise "
    "DepthwiseDeconvolution TreepoolKernel1L TreepoolMaxAve"
)
OWNERS: dict[str, frozenset[str]] = {
    name: frozenset(kinds.split())
    for name, kinds in {
        "accuracy_param": "Accuracy LabelsequenceAccuracy",
        "argmax_param": "ArgMax",
        "batch_norm_param": "BatchNorm MKLBatchNorm",
        "bias_param": "Bias Scale",
        "bn_param": "BN",
        "clip_param": "Clip",
        "concat_param": "Concat",
        "contrastive_loss_param": "ContrastiveLoss",
        "convolution_param": _CONVOLUTIONS,
        "crop_param": "Crop",
        "data_param": "Data AnnotatedData VideoData LaneData ImageLabelmapData BboxData BoxData",
        "dropout_param": "Dropout SpatialDropout SeLuDropout SELUDropout",
        "dummy_data_param": "DummyData",
        "eltwise_param": "Eltwise",
        "elu_param": "ELU",
        "embed_param": "Embed",
        "exp_param": "Exp",
        "flatten_param": "Flatten",
        "hdf5_data_param": "HDF5Data",
        "hdf5_output_param": "HDF5Output",
        "hinge_loss_param": "HingeLoss",
        "infogain_loss_param": "InfogainLoss",
        "inner_product_param": "InnerProduct",
        "log_param": "Log",
        "lrn_param": "LRN",
        "memory_data_param": "MemoryData",
        "mvn_param": "MVN",
        "parameter_param": "Parameter",
        "permute_param": "Permute",
        "pooling_param": "Pooling",
        "power_param": "Power",
        "prelu_param": "PReLU",
        "recurrent_param": "LSTM RNN",
        "reduction_param": "Reduction",
        "relu_param": "ReLU ReLU6",
        "reshape_param": "Reshape",
        "scale_param": "Scale",
        "sigmoid_param": "Sigmoid",
        "slice_param": "Slice",
        "spp_param": "SPP",
        "swish_param": "Swish",
        "tanh_param": "TanH",
        "threshold_param": "Threshold",
        "tile_param": "Tile",
        "window_data_param": "WindowData",
    }.items()
}

# Layers that write while they still need what they overwrite, or whose top has another shape.
NOT_IN_PLACE = _words(
    """
    AbsVal ArgMax BatchReindex Concat Convolution Crop Deconvolution Eltwise Embed Filter Flatten
    Im2col InnerProduct LRN LSTM MVN Permute Pooling PriorBox RNN Reduction Reshape SPP Slice Split
    Tile DepthwiseConvolution ConvolutionDepthwise Interp Upsample
    """
)

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
