"""Calls of SSD's model_libs, for which golden/pycaffe/ssd.json holds what the original makes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from caffeio.pycaffe import NetSpec
from caffeio.pycaffe import layers as L

_HEAD = {"num_classes": 21, "from_layers": ["data", "label"], "min_sizes": [[30.0, 40.0], 60.0]}
_ALL: dict[str, Any] = {
    **_HEAD,
    "normalizations": [20, -1],
    "inter_layer_depth": [0, 16],
    "max_sizes": [[], 111.0],
    "aspect_ratios": [[2, 3], [2]],
    "steps": [8, 16],
    "lr_mult": 2,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "zf": ("ZFNetBody", {}),
    "zf all": (
        "ZFNetBody",
        {"fully_conv": True, "reduced": True, "dilated": True, "need_fc8": True,
         "freeze_layers": ["conv1", "none"]},
    ),
    "zf wide": ("ZFNetBody", {"fully_conv": True, "dilated": True, "dropout": False}),
    "zf fc8": ("ZFNetBody", {"need_fc8": True}),
    "vgg": ("VGGNetBody", {}),
    "vgg of ssd": (
        "VGGNetBody",
        {"fully_conv": True, "reduced": True, "dilated": True, "dropout": False,
         "freeze_layers": ["conv1_1", "conv1_2"]},
    ),
    "vgg dilated": ("VGGNetBody", {"fully_conv": True, "dilated": True, "dilate_pool4": True}),
    "vgg body": ("VGGNetBody", {"need_fc": False}),
    "resnet101": ("ResNet101Body", {}),
    "resnet101 of ssd": (
        "ResNet101Body",
        {"use_pool5": False, "use_dilation_conv5": True, "use_global_stats": True},
    ),
    "resnet152": ("ResNet152Body", {"eps": 1e-5, "moving_average_fraction": 0.9}),
    "inception": ("InceptionV3Body", {}),
    "inception all": ("InceptionV3Body", {"output_pred": True, "use_global_stats": True}),
    "head": ("CreateMultiBoxHead", _HEAD),
    "head all": ("CreateMultiBoxHead", {**_ALL, "use_objectness": True, "share_location": False}),
    "head of ssd": (
        "CreateMultiBoxHead",
        {**_ALL, "use_batchnorm": False, "flip": True, "clip": False, "kernel_size": 3, "pad": 1,
         "img_height": 300, "img_width": 300, "prior_variance": [0.1, 0.1, 0.2, 0.2]},
    ),
    "head wide": (
        "CreateMultiBoxHead",
        {**_ALL, "flip": False, "img_height": 300, "img_width": 200, "loc_postfix": "_a",
         "conf_postfix": "_b"},
    ),
}  # fmt: skip


def digest(functions: Mapping[str, Any], case: str) -> str:
    """The SHA-256 of the net that a call makes."""
    name, options = CASES[case]
    net = NetSpec()
    net.data, net.label = L.Input(ntop=2)
    place = () if name == "CreateMultiBoxHead" else ("data",)
    functions[name](net, *place, **copy.deepcopy(options))
    return hashlib.sha256(net.to_proto().SerializeToString(deterministic=True)).hexdigest()
