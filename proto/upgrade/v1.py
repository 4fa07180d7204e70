"""Nets of Caffe's second age, `layers { type: CONVOLUTION ... }`, to today's `layer` entries.

Source: src/caffe/util/upgrade_proto.cpp (UpgradeV1Net, UpgradeV1LayerParameter).
"""

from __future__ import annotations

from typing import Any

from caffeio.errors import Locator, NetError
from caffeio.proto import caffe_pb2 as pb

V1_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution",
    "DATA": "Data", "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData", "EUCLIDEAN_LOSS": "EuclideanLoss", "ELTWISE": "Eltwise",
    "EXP": "Exp", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col", "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN", "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence",
    "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "SLICE": "Slice",
    "TANH": "TanH", "WINDOW_DATA": "WindowData", "THRESHOLD": "Threshold",
    # of forks
    "UPSAMPLE": "Upsample", "RELU6": "ReLU6", "LOCAL": "Local", "BN": "BN",
    "NORMALIZE": "Normalize", "INSANITY": "Insanity", "TRIPLET_LOSS": "TripletLoss",
    "ROIPOOLING": "ROIPooling", "BATCH_NORM": "BatchNorm", "CROP": "Crop",
    "PARSE_OUTPUT": "ParseOutput", "PARSE_EVALUATE": "ParseEvaluate", "DICE_LOSS": "DiceCoefLoss",
}  # fmt: skip
# fields of V1 layers that have another form in V2 layers
_NOT_COPIED = ("type", "param", "blob_share_mode", "blobs_lr", "weight_decay", "layer")


def upgrade_v1_net(net: pb.NetParameter, locate: Locator) -> pb.NetParameter:
    """A V1 net with current layers; all other fields of the net stay.

    `locate(i)` is the place of layer i. Raises NetError for a type that has no current name.
    """
    out = pb.NetParameter()
    for descriptor, _ in net.ListFields():
        if descriptor.name != "layers":
            _copy_field(net, out, descriptor)
    for i, layer in enumerate(net.layers):
        _upgrade_v1_layer(layer, out.layer.add(), locate(i))
    return out


def _copy_field(old: Any, new: Any, descriptor: Any) -> None:
    name = descriptor.name
    if descriptor.is_repeated:
        getattr(new, name).extend(getattr(old, name))
    elif descriptor.message_type is not None:
        getattr(new, name).CopyFrom(getattr(old, name))
    else:
        setattr(new, name, getattr(old, name))


def _upgrade_v1_layer(old: Any, new: Any, where: str) -> None:
    for descriptor, _ in old.ListFields():
        if descriptor.name not in _NOT_COPIED:
            _copy_field(old, new, descriptor)
    if old.HasField("type"):
        name = pb.V1LayerParameter.LayerType.Name(old.type)
        if name not in V1_TYPES:
            raise NetError(f"layer {old.name!r}: V1 type {name} has no current name", where=where)
        new.type = V1_TYPES[name]
    specs = (old.param, old.blob_share_mode, old.blobs_lr, old.weight_decay)
    for _ in range(max(map(len, specs))):
        new.param.add()
    for spec, name in zip(new.param, old.param, strict=False):
        spec.name = name
    for spec, mode in zip(new.param, old.blob_share_mode, strict=False):
        spec.share_mode = pb.ParamSpec.DimCheckMode.Value(
            pb.V1LayerParameter.DimCheckMode.Name(mode)
        )
    for spec, rate in zip(new.param, old.blobs_lr, strict=False):
        spec.lr_mult = rate
    for spec, decay in zip(new.param, old.weight_decay, strict=False):
        spec.decay_mult = decay
