# ruff: noqa: C408 (nets are written as scripts write them)
"""NetSpec, L, P, to_proto."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffeio.proto.files import read_net
from caffeio.pycaffe import NetSpec, to_proto
from caffeio.pycaffe import layers as L
from caffeio.pycaffe import params as P
from caffeio.pycaffe.net_spec import Function, Top, assign_proto, param_name_dict
from caffeio.pycaffe.proto import caffe_pb2 as pb


def small() -> NetSpec:
    n = NetSpec()
    n.data, n.label = L.DummyData(
        shape=[dict(dim=[2, 1, 8, 8]), dict(dim=[2])], transform_param=dict(scale=0.5), ntop=2
    )
    n.conv = L.Convolution(
        n.data, kernel_size=3, num_output=4, weight_filler=dict(type="xavier"),
        param=[dict(lr_mult=1), dict(lr_mult=2, decay_mult=0)],
    )  # fmt: skip
    n.pool = L.Pooling(n.conv, kernel_size=2, stride=2, pool=P.Pooling.AVE)
    n.relu = L.ReLU(n.pool, in_place=True)
    n["ip"] = L.InnerProduct(n.relu, num_output=3)
    n.loss = L.SoftmaxWithLoss(n.ip, n.label, loss_weight=2)
    return n


def test_text() -> None:
    wanted = """
    layer { name: "data" type: "DummyData" top: "data" top: "label" transform_param { scale: 0.5 }
      dummy_data_param { shape { dim: 2 dim: 1 dim: 8 dim: 8 } shape { dim: 2 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
      param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
      convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
      pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
    layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" }
    layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
      inner_product_param { num_output: 3 } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
      loss_weight: 2 }
    """
    net = small().to_proto()
    assert net == text_format.Parse(wanted, pb.NetParameter())


def test_text_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(str(small().to_proto()))
    assert [layer.name for layer in read_net(path).message.layer] == [
        "data", "conv", "pool", "relu", "ip", "loss",
    ]  # fmt: skip


def test_names_that_are_not_given() -> None:
    data, label = L.DummyData(ntop=2)
    one = L.Convolution(data, num_output=1)
    two = L.Convolution(one, num_output=1)
    relu = L.ReLU(two, in_place=True)
    net = L.EuclideanLoss(relu, label).to_proto()
    assert [layer.name for layer in net.layer] == [
        "DummyData1", "Convolution1", "Convolution2", "ReLU1", "EuclideanLoss1",
    ]  # fmt: skip
    assert list(net.layer[0].top) == ["DummyData1", "DummyData2"]
    assert list(net.layer[3].top) == list(net.layer[3].bottom) == ["Convolution2"]
    assert list(net.layer[4].bottom) == ["Convolution2", "DummyData2"]


def test_layers_without_tops() -> None:
    n = NetSpec()
    n.data, n.more = L.DummyData(shape=dict(dim=3), ntop=2)
    n.silence = L.Silence(n.data, ntop=0)
    n.other = L.Silence(n.more, ntop=0)
    assert isinstance(n.silence, Function)
    assert [layer.name for layer in n.to_proto().layer] == ["data", "silence", "other"]
    assert [layer.name for layer in n.silence.to_proto().layer] == ["DummyData1", "Silence1"]


def test_what_is_no_top() -> None:
    data = L.DummyData(ntop=2)
    with pytest.raises(TypeError) as error:
        L.Silence(data, ntop=0)
    assert str(error.value) == "Silence input 0 is not a Top (type is <class 'tuple'>)"
    L.Silence(*data, ntop=0)


def test_several_tops_into_one_net() -> None:
    data = L.Input(shape=dict(dim=[1, 3]))
    net = to_proto(L.ReLU(data), L.Sigmoid(data))
    assert [layer.type for layer in net.layer] == ["Input", "ReLU", "Sigmoid"]


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("Convolution", "convolution"), ("ReLU", "relu"), ("InnerProduct", "inner_product"),
        ("HDF5Data", "hdf5_data"), ("LRN", "lrn"), ("MVN", "mvn"), ("TanH", "tanh"),
        ("PriorBox", "prior_box"), ("MultiBoxLoss", "multibox_loss"), ("Normalize", "norm"),
        ("AnnotatedData", "annotated_data"), ("ROIPooling", "roi_pooling"), ("Interp", "interp"),
    ],
)  # fmt: skip
def test_fields_go_to_the_type_s_own_message(kind: str, field: str) -> None:
    assert param_name_dict()[kind] == field


def test_ssd_s_types() -> None:
    n = NetSpec()
    n.data, n.label = L.AnnotatedData(
        name="data", include=dict(phase=pb.Phase.Value("TRAIN")), ntop=2,
        annotated_data_param=dict(batch_sampler=[{}, dict(max_sample=1)]),
        data_param=dict(batch_size=2, backend=P.Data.LMDB, source="x"), transform_param={},
    )  # fmt: skip
    n.norm = L.Normalize(n.data, scale_filler=dict(type="constant", value=20), across_spatial=False)
    n.perm = L.Permute(n.norm, order=[0, 2, 3, 1])
    n.priors = L.PriorBox(n.perm, n.data, min_size=[30.0], aspect_ratio=2, clip=True)
    assert n.keys()[-1] == "priors" and n.vals()[0].n == 0
    n.update("priors", {"flip": True, "step": 8})
    del n["norm"]
    layers = {layer.name: layer for layer in n.to_proto().layer}
    data = layers["data"]
    assert data.include[0].phase == pb.TRAIN and not data.HasField("transform_param")
    assert [s.max_sample for s in data.annotated_data_param.batch_sampler] == [0, 1]
    box = layers["priors"].prior_box_param
    assert (list(box.aspect_ratio), box.flip, box.step, list(box.min_size)) == ([2], True, 8, [30])
    assert list(layers["perm"].permute_param.order) == [0, 2, 3, 1]
    assert "Normalize1" in layers  # no longer named


def test_tops_hide_what_ssd_added() -> None:
    n = NetSpec()
    n.keys = L.Input()
    assert isinstance(n.keys, Top) and n["keys"] is n.keys
    with pytest.raises(KeyError):
        n.nothing  # noqa: B018


def test_name_and_other_fields_of_the_layer() -> None:
    n = NetSpec()
    n.conv = L.Convolution(L.Input(), num_output=1, name="other", propagate_down=[True])
    layer = n.to_proto().layer[-1]
    assert (layer.name, list(layer.top), list(layer.propagate_down)) == ("other", ["conv"], [True])
    with pytest.raises(AttributeError, match="kernel"):
        L.Convolution(L.Input(), kernel=3).to_proto()


def test_values_that_do_not_fit() -> None:
    layer = pb.LayerParameter()
    with pytest.raises(TypeError):
        assign_proto(layer, "name", 3)
    with pytest.raises(AttributeError):
        assign_proto(layer, "no_such", 3)
    assign_proto(layer, "top", "a")
    assign_proto(layer, "top", ["b", "c"])
    assert list(layer.top) == ["a", "b", "c"]


def test_deep_nets() -> None:
    top = L.Input(shape=dict(dim=[1]))
    for _ in range(3000):
        top = L.ReLU(top)
    assert top.to_proto().layer[-1].name == "ReLU3000"


def test_copies() -> None:
    n = small()
    assert copy.deepcopy(n).to_proto() == n.to_proto()
    assert P.Pooling.MAX == 0 and P.Eltwise.SUM == 1 and P.Data.LMDB == 1
    with pytest.raises(AttributeError):
        P.Pooling.NONE  # noqa: B018
