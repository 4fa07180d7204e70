"""caffe.draw: the graph, and the picture where Graphviz is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffeio.errors import UnsupportedError
from caffeio.pycaffe import draw
from caffeio.pycaffe.proto import caffe_pb2

TEXT = """
name: "n:1"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 64 } }
layer { name: "c/1" type: "Convolution" bottom: "data" top: "c/1" param { lr_mult: 3 }
  convolution_param { num_output: 20 kernel_size: 5 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "c/1" top: "c/1" }
layer { name: "pool" type: "Pooling" bottom: "c/1" top: "p:q"
  pooling_param { pool: AVE kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "p:q" top: "ip"
  inner_product_param { num_output: 10 } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  exclude { phase: TEST } }
"""
NET = text_format.Parse(TEXT, caffe_pb2.NetParameter())


def text(**options: object) -> str:
    return draw.get_pydot_graph(NET, "LR", **options).to_string()


def test_graph() -> None:
    found = text()
    assert 'digraph "n:1" {' in found and "rankdir=LR" in found
    label = r'"c/1\n(Convolution)\nkernel size: 5\nstride: 2\npad: 0"'
    assert f'{label} [shape=record, fillcolor="#FF5050", style=filled];' in found
    assert r'"relu\n(ReLU)" [shape=record, fillcolor="#90EE90"' in found  # in place
    pool = r'"pool\n(Pooling AVE)\nkernel size: 3\nstride: 1\npad: 0"'
    assert f'{pool} [shape=record, fillcolor="#FF9900"' in found
    assert r'"ip\n(InnerProduct)" [shape=record, fillcolor="#CC33FF"' in found
    assert r'"data\n(Data)" -> "data" [label="Batch 64"];' in found
    assert f'{label} -> "c/1" [label=20];' in found
    assert r'"p:q" [shape=octagon, fillcolor="#E0E0E0", style=filled];' in found
    assert r'"ip\n(InnerProduct)" -> "ip" [label=10];' in found
    assert "label=20" not in text(label_edges=False)


def test_phases_and_directions() -> None:
    assert "(Accuracy)" in text(phase=caffe_pb2.TEST) and "Loss" not in text(phase=caffe_pb2.TEST)
    assert "Loss" in text(phase=caffe_pb2.TRAIN) and "(Accuracy)" not in text(phase=0)
    assert "(Accuracy)" in text() and "Loss" in text()
    wide = draw.get_pydot_graph(NET, "TB", display_lrm=True).to_string()
    assert '"c/1 (Convolution) kernel size: 5 stride: 2 pad: 0 lr mult: 3.0, 1.0"' in wide
    assert "lr mult: 1.0, 1.0" in wide  # ip's
    both = caffe_pb2.NetParameter()
    both.CopyFrom(NET)
    both.layer[0].include.add(phase=0)
    both.layer[0].exclude.add(phase=1)
    with pytest.raises(ValueError, match=r"^layer data has both include and exclude specified\.$"):
        draw.get_pydot_graph(both, "LR", phase=0)


def test_learning_rates() -> None:
    layer = caffe_pb2.LayerParameter(type="InnerProduct")
    assert draw.get_layer_lr_mult(layer) == (1, 1)
    for factor in (2, 5):
        layer.param.add(lr_mult=factor)
    assert draw.get_layer_lr_mult(layer) == (2, 5)
    layer.param.add()
    with pytest.raises(ValueError, match=r"^Could not parse the learning rate multiplier$"):
        draw.get_layer_lr_mult(layer)
    with pytest.raises(ValueError, match=r"^ReLU layers do not have a learning rate multiplier$"):
        draw.get_layer_lr_mult(caffe_pb2.LayerParameter(type="ReLU"))


def test_raw_file(tmp_path: Path) -> None:
    draw.draw_net_to_file(NET, tmp_path / "net.raw", "BT")
    assert (tmp_path / "net.raw").read_text().startswith('digraph "n:1" {')


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_picture(tmp_path: Path) -> None:
    assert draw.draw_net(NET, "LR").startswith(b"\x89PNG")
    draw.draw_net_to_file(NET, str(tmp_path / "net.svg"))
    assert b"kernel size: 5" in (tmp_path / "net.svg").read_bytes()


def test_without_pydot(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(draw, "import_module", missing)
    with pytest.raises(UnsupportedError, match=r"pip install 'caffeio\[draw\]'"):
        draw.get_pydot_graph(NET, "LR")
