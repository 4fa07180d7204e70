"""caffe.proto.caffe_pb2: true protobuf messages with Caffe's numbers."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool, text_format
from google.protobuf.message import DecodeError, Message

from caffeio.proto import caffe_pb2 as canonical
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.dialect import encode
from caffeio.proto.dialect.union import END, is_own, union
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import load_weights
from caffeio.pycaffe.proto import caffe_pb2 as pb
from caffeio.pycaffe.proto.foreign import foreign_names
from tests.paths import GOLDEN


def test_names_of_the_module() -> None:
    assert (pb.TRAIN, pb.TEST) == (0, 1)
    assert pb.Phase.Value("TRAIN") == 0 and pb.Phase.Name(1) == "TEST"
    assert pb.PoolingParameter.MAX == 0 and pb.PoolingParameter.PoolMethod.Name(1) == "AVE"
    assert pb.V1LayerParameter.CONVOLUTION == 4 and pb.V1LayerParameter.DATA == 5
    assert pb.DESCRIPTOR.package == "caffe"
    assert pb.NetParameter.DESCRIPTOR.full_name == "caffe.NetParameter"
    assert issubclass(pb.NetParameter, Message)
    for name in ("BlobProtoVector", "Datum", "LabelMap", "SolverState", "PriorBoxParameter"):
        assert issubclass(getattr(pb, name), Message)
    with pytest.raises(AttributeError, match="NoSuchParameter"):
        pb.NoSuchParameter  # noqa: B018


def test_every_field_of_bvlc_has_its_number_label_and_default() -> None:
    count = 0
    for message, fields in schema.load("bvlc").messages.items():
        if message == "__file__":
            continue
        descriptor = pb.DESCRIPTOR.pool.FindMessageTypeByName(f"caffe.{message}")
        for field in fields.values():
            mine = descriptor.fields_by_name[field.name]
            assert (mine.number, mine.is_repeated) == (field.number, field.label == "repeated")
            assert not mine.is_required
            count += 1
    assert count > 400
    for enum, values in schema.load("bvlc").enums.items():
        found = pb.DESCRIPTOR.pool.FindEnumTypeByName(f"caffe.{enum}").values_by_name
        assert {name: found[name].number for name in values} == values
    assert pb.PoolingParameter().kernel_size == 0 and pb.PoolingParameter().stride == 1
    assert pb.SolverParameter().type == "SGD" and pb.ParamSpec().lr_mult == 1


def test_every_field_of_every_fork_is_there() -> None:
    known = union().messages
    for dialect in schema.dialect_names():
        for message, fields in schema.load(dialect).messages.items():
            assert set(fields) <= set(known[message])
            for field in fields.values():
                assert not is_own(field.number)  # else files could not be told apart
    for fields in known.values():
        numbers = [field.number for field in fields.values()]
        assert len(numbers) == len(set(numbers))
        assert sum(map(is_own, numbers)) < (END - schema.OWN) // 2


def test_bytes_are_caffe_s() -> None:
    layer = pb.LayerParameter(name="p", type="Pooling", bottom=["a"], top=["b"])
    layer.pooling_param.kernel_size = 3
    layer.pooling_param.pool = pb.PoolingParameter.AVE
    # name = 1, type = 2, bottom = 3, top = 4, pooling_param = 121 {pool = 1, kernel_size = 2}
    wanted = b"\n\x01p\x12\x07Pooling\x1a\x01a\x22\x01b\xca\x07\x04\x08\x01\x10\x03"
    assert layer.SerializeToString() == wanted
    blob = pb.BlobProto(data=[1.0, 2.0])
    blob.shape.dim.extend([2])
    assert blob.SerializeToString() == b"*\x08\x00\x00\x80?\x00\x00\x00@:\x03\n\x01\x02"


def test_ssd_s_bytes_are_ssd_s() -> None:
    numbers = {name: f.number for name, f in schema.load("ssd").messages["LayerParameter"].items()}
    for name in ("annotated_data_param", "permute_param", "prior_box_param", "norm_param"):
        assert pb.LayerParameter.DESCRIPTOR.fields_by_name[name].number == numbers[name]


def test_text_both_ways() -> None:
    text = (GOLDEN / "nets" / "residual_inplace" / "net.prototxt").read_text()
    net = text_format.Parse(text, pb.NetParameter())
    again = pb.NetParameter()
    text_format.Merge(text_format.MessageToString(net), again)
    assert again == net and len(net.layer) > 5
    with pytest.raises(text_format.ParseError):
        text_format.Parse("layer { no_such_field: 1 }", pb.NetParameter())


def test_messages_as_scripts_handle_them() -> None:
    net = pb.NetParameter(name="n")
    net.layer.extend([pb.LayerParameter(name="a"), pb.LayerParameter(name="b")])
    net.layer.add(name="c").CopyFrom(net.layer[0])
    assert [layer.name for layer in net.layer] == ["a", "b", "a"]
    del net.layer[1]
    net.layer[0].ClearField("name")
    assert not net.layer[0].HasField("name") and net.HasField("name")
    assert pickle.loads(pickle.dumps(net)) == net and copy.deepcopy(net) == net
    nested = pb.LabelMap(item=[pb.LabelMapItem(name="cat", label=1)])
    assert pickle.loads(pickle.dumps(nested.item[0])) == nested.item[0]
    assert {f.name for f in pb.SolverParameter.DESCRIPTOR.fields} > {"base_lr", "net"}


def test_pool_is_private() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")


def everything() -> pb.NetParameter:
    """A net with fields of BVLC, of forks, and such as more than one fork has numbers for."""
    text = """
    layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "x" type: "SmoothL1Loss" bottom: "d" smooth_l1_loss_param { sigma: 3 } }
    layer { name: "y" type: "BatchNorm" batch_norm_param { eps: 0.5 disable_mean: true } }
    layer { name: "e" type: "Eltwise" eltwise_param { operation: STOCHASTIC_SUM } }
    layer { name: "p" type: "Pooling" pooling_param { pool: AVE kernel_size: 3 ceil_mode: false } }
    layer { name: "f" type: "FocalLoss" focal_loss_param { alpha: 3 type: LINEAR } }
    layer { name: "q" type: "Permute" permute_param { order: 1 order: 0 } }
    """
    return text_format.Parse(text, pb.NetParameter())


def test_our_reader_accepts_what_is_written(tmp_path: Path) -> None:
    net = everything()
    (tmp_path / "net.caffemodel").write_bytes(net.SerializeToString())
    file = read_net(tmp_path / "net.caffemodel", dialect="bvlc")
    layers = {layer.name: layer for layer in file.message.layer}
    assert layers["x"].smooth_l1_loss_param.sigma == 3
    assert layers["y"].batch_norm_param.disable_mean and layers["y"].batch_norm_param.eps == 0.5
    assert layers["e"].eltwise_param.operation == type(layers["e"].eltwise_param).STOCHASTIC_SUM
    assert list(layers["p"].pooling_param.kernel_size) == [3]
    assert layers["p"].pooling_param.HasField("ceil_mode")
    assert layers["f"].focal_loss_param.alpha == 3
    text = tmp_path / "net.prototxt"
    text.write_text(str(net))
    assert {layer.name: layer for layer in read_net(text).message.layer} == layers | {
        "q": read_net(text).message.layer[-1]
    }


def test_weights_that_a_script_wrote(tmp_path: Path) -> None:
    net = pb.NetParameter()
    blob = net.layer.add(name="ip", type="InnerProduct").blobs.add(data=range(6))
    blob.shape.dim.extend([2, 3])
    (tmp_path / "w.caffemodel").write_bytes(net.SerializeToString())
    assert load_weights(tmp_path / "w.caffemodel")["ip"][0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_dialect_of_choice() -> None:
    code = (
        "from caffeio.pycaffe.proto import caffe_pb2 as pb; "
        "print(pb.DIALECT, pb.LayerParameter.DESCRIPTOR.fields_by_name['forward_type'].number, "
        "type(pb.PoolingParameter().kernel_size).__name__)"
    )
    wanted = schema.load("nvidia").messages["LayerParameter"]["forward_type"].number
    environment = {**os.environ, "CAFFEIO_DIALECT": "nvidia"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"nvidia {wanted} int\n", done.stderr


def test_torch_is_not_loaded() -> None:
    code = "import sys; import caffeio.pycaffe.proto.caffe_pb2; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "False\n", done.stderr


def test_nets_of_a_caffe_with_other_numbers_warn() -> None:
    net = canonical.NetParameter(name="n")
    layer = net.layer.add(name="c", type="Convolution", forward_type=canonical.FLOAT16)
    layer.convolution_param.num_output = 2
    data = encode(net, "nvidia")
    wanted = (
        "^this net is nvidia's, whose numbers for LayerParameter.forward_type.* mean other fields "
        "here: set CAFFEIO_DIALECT=nvidia before you import caffe$"
    )
    for read in (pb.NetParameter().ParseFromString, pb.NetParameter.FromString):
        with pytest.warns(UserWarning, match=wanted):
            read(data)
    assert foreign_names(data, "nvidia") == ("nvidia", [])
    same = pb.NetParameter(name="n")
    same.layer.add(name="p", type="Permute").permute_param.order.append(1)
    again = pb.NetParameter()
    assert again.MergeFromString(same.SerializeToString()) >= 0 and again == same
    with pytest.raises(DecodeError):
        again.ParseFromString(b"\xff\xff")
