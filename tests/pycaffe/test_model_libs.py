"""caffe.model_libs: the nets of SSD's scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffeio.pycaffe import NetSpec, model_libs
from caffeio.pycaffe import layers as L
from caffeio.pycaffe import params as P
from caffeio.pycaffe.proto import caffe_pb2
from tests.paths import GOLDEN
from tests.pycaffe.ssd_cases import CASES, digest

DIGESTS = json.loads((GOLDEN / "pycaffe" / "ssd.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_nets_are_the_original_s(case: str) -> None:
    assert digest(vars(model_libs), case) == DIGESTS[case]


def test_data_layer() -> None:
    n = NetSpec()
    n.data, n.label = model_libs.CreateAnnotatedDataLayer(
        "trainval_lmdb", 8, label_map_file="labels.prototxt", transform_param={"mirror": True},
        batch_sampler=[{"max_sample": 1}],
    )  # fmt: skip
    n.test = model_libs.CreateAnnotatedDataLayer(
        "test_lmdb", output_label=False, train=False, anno_type=0, backend=P.Data.LEVELDB
    )
    train, test = n.to_proto().layer
    assert (train.name, list(train.top)) == ("data", ["data", "label"])
    assert train.include[0].phase == caffe_pb2.TRAIN and test.include[0].phase == caffe_pb2.TEST
    assert train.data_param.batch_size == 8 and train.data_param.backend == P.Data.LMDB
    assert train.annotated_data_param.batch_sampler[0].max_sample == 1
    assert test.annotated_data_param.HasField("anno_type") and not test.transform_param.mirror
    assert len(test.annotated_data_param.batch_sampler) == 1 and list(test.top) == ["test"]


def test_values_for_two_axes() -> None:
    assert model_libs.UnpackVariable(3, 2) == [3, 3] == model_libs.UnpackVariable([3], 2)
    assert model_libs.UnpackVariable([1, 2], 2) == [1, 2]
    with pytest.raises(AssertionError, match="neither 1 nor 2 values"):
        model_libs.UnpackVariable([1, 2, 3], 2)


def test_lists_of_another_length() -> None:
    net = NetSpec()
    net.data = L.Input()
    good = {"num_classes": 2, "from_layers": ["data"], "min_sizes": [3.0]}
    for name in ("normalizations", "max_sizes", "aspect_ratios", "steps", "inter_layer_depth"):
        with pytest.raises(AssertionError, match=f"from_layers and {name} should have same length"):
            model_libs.CreateMultiBoxHead(net, **good, **{name: [1, 2]})
    with pytest.raises(AssertionError, match="must provide num_classes"):
        model_libs.CreateMultiBoxHead(net, from_layers=["data"], min_sizes=[3.0])
    with pytest.raises(AssertionError, match="data_layer is not in net's layers"):
        model_libs.CreateMultiBoxHead(net, data_layer="none", **good)


def test_folders(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "b")
    assert not model_libs.check_if_exist(folder)
    model_libs.make_if_not_exist(folder)
    model_libs.make_if_not_exist(folder)
    assert model_libs.check_if_exist(folder)
