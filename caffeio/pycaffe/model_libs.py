"""SSD's building blocks of nets: bodies such as VGGNetBody, and the heads that detect.

Names, arguments and the nets that come out are those of python/caffe/model_libs.py of
weiliu89/caffe (branch ssd), which SSD's scripts import. Each function adds layers to a NetSpec.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from caffeio.pycaffe.net_spec import layers as L
from caffeio.pycaffe.net_spec import params as P
from caffeio.pycaffe.proto import caffe_pb2
from caffeio.pycaffe.ssd.blocks import ConvBNLayer, InceptionTower, ResBody, UnpackVariable
from caffeio.pycaffe.ssd.bodies import ResNet101Body, ResNet152Body, VGGNetBody, ZFNetBody
from caffeio.pycaffe.ssd.heads import CreateMultiBoxHead
from caffeio.pycaffe.ssd.inception import InceptionV3Body

__all__ = [
    "ConvBNLayer",
    "CreateAnnotatedDataLayer",
    "CreateMultiBoxHead",
    "InceptionTower",
    "InceptionV3Body",
    "L",
    "P",
    "ResBody",
    "ResNet101Body",
    "ResNet152Body",
    "UnpackVariable",
    "VGGNetBody",
    "ZFNetBody",
    "caffe_pb2",
    "check_if_exist",
    "make_if_not_exist",
    "os",
]


def check_if_exist(path: str) -> bool:
    """Whether there is such a file or folder."""
    return os.path.exists(path)


def make_if_not_exist(path: str) -> None:
    """Make a folder, and those around it, if it is not there."""
    os.makedirs(path, exist_ok=True)


def CreateAnnotatedDataLayer(  # noqa: N802
    source: str,
    batch_size: int = 32,
    backend: int = P.Data.LMDB,
    output_label: bool = True,
    train: bool = True,
    label_map_file: str = "",
    anno_type: int | None = None,
    transform_param: Mapping[str, Any] | None = None,
    batch_sampler: Sequence[Any] | None = None,
) -> Any:
    """A data layer for annotated images: its top, or (data, label)."""
    annotated: dict[str, Any] = {
        "label_map_file": label_map_file,
        "batch_sampler": [{}] if batch_sampler is None else batch_sampler,
    }
    if anno_type is not None:
        annotated["anno_type"] = anno_type
    return L.AnnotatedData(
        name="data",
        annotated_data_param=annotated,
        data_param={"batch_size": batch_size, "backend": backend, "source": source},
        ntop=2 if output_label else 1,
        include={"phase": caffe_pb2.Phase.Value("TRAIN" if train else "TEST")},
        transform_param={} if transform_param is None else transform_param,
    )
