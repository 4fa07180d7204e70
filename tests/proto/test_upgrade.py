from __future__ import annotations

import csv
from pathlib import Path

import pytest

from caffeio.errors import NetError, SolverError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.rewrite import upgrade_bytes
from caffeio.proto.text.text_format import parse
from caffeio.proto.upgrade.upgrade import upgrade_net, upgrade_solver
from caffeio.proto.upgrade.v0 import V0_TYPES, remove_padding_layers, upgrade_v0_net
from caffeio.proto.upgrade.v1 import V1_TYPES
from tests.paths import GOLDEN, SHARED, needs_shared

FOLDER = GOLDEN / "logs" / "upgrade"
PADDING = "input: 'd' layers { layer { type: 'padding' } bottom: 'd' top: 'p' } "


def net(text: str) -> pb.NetParameter:
    return parse(text, pb.NetParameter).message


def where(*path: str | int) -> str:
    return ".".join(map(str, path))


def log_lines(path: Path) -> list[tuple[str, str]]:
    """Severity and text of the lines that the upgrade itself logs, not the tool around it."""
    lines = [line.rstrip("\n") for line in path.read_text(encoding="utf-8").splitlines()]
    split = [(line[0], *line.partition("] ")[::2]) for line in lines]
    return [(letter, text) for letter, head, text in split if " upgrade_proto.cpp" in head]


@pytest.mark.parametrize("name", ["current", "mixed_0", "v0_0", "v1_0"])
def test_nets_are_upgraded_as_by_caffes_tool(name: str) -> None:
    path = FOLDER / f"{name}.prototxt"
    done = upgrade_net(net(path.read_text()), path=path.name)
    assert done.message == net((FOLDER / f"{name}.upgraded.prototxt").read_text())
    assert done.log == log_lines(FOLDER / f"{name}.log.txt")
    assert not done.problems
    assert len(done.origin) == len(done.message.layer)


@pytest.mark.parametrize("name", ["solver_0", "solver_1", "solver_2"])
def test_solvers_are_upgraded_as_by_caffes_tool(name: str) -> None:
    path = FOLDER / f"{name}.prototxt"
    done = upgrade_solver(parse(path.read_text(), pb.SolverParameter).message, path=path.name)
    expected = (FOLDER / f"{name}.upgraded.prototxt").read_text()
    assert done.message == parse(expected, pb.SolverParameter).message
    assert done.log == log_lines(FOLDER / f"{name}.log.txt")


@pytest.mark.parametrize("name", ["v0_0", "v1_0", "mixed_0", "solver_0", "solver_1"])
def test_upgraded_texts_are_caffes_byte_for_byte(name: str) -> None:
    data = (FOLDER / f"{name}.prototxt").read_bytes()
    result = upgrade_bytes(data, name)
    assert b"".join(result.parts) == (FOLDER / f"{name}.upgraded.prototxt").read_bytes()
    assert result.done


@pytest.mark.parametrize("name", ["old_v0", "old_v1"])
def test_upgraded_weights_are_caffes_byte_for_byte(name: str) -> None:
    result = upgrade_bytes((FOLDER / f"{name}.caffemodel").read_bytes(), name, "bvlc")
    expected = (FOLDER / f"{name}.upgraded.caffemodel").read_bytes()
    assert b"".join(map(bytes, result.parts)) == expected


def test_what_needs_nothing_is_the_same_message() -> None:
    message = net('layer { name: "a" type: "BatchNorm" param { lr_mult: 1 } }')
    done = upgrade_net(message)
    assert done.message is message
    assert done.done == done.log == []
    assert done.origin == [0]
    data = b'# kept\r\nlayer { name: "a" foo: 3 }'
    assert b"".join(upgrade_bytes(data, "x").parts) == data


def test_the_given_message_is_left_alone() -> None:
    for name in ("mixed_0", "v0_0", "v1_0"):
        message = net((FOLDER / f"{name}.prototxt").read_text())
        before = message.SerializeToString(deterministic=True)
        upgrade_net(message)
        assert message.SerializeToString(deterministic=True) == before


def test_origins_lead_back() -> None:
    done = upgrade_net(net((FOLDER / "mixed_0.prototxt").read_text()))
    assert (done.field, done.origin) == ("layer", [None, 0, 1, 2])
    done = upgrade_net(net((FOLDER / "v0_0.prototxt").read_text()))
    assert (done.field, done.origin) == ("layers", [0, *range(2, 11)])  # 1 was a padding layer


@pytest.mark.parametrize("dialect", ["sara", "intel", "nvidia", "nvidia-0.15"])
def test_only_bvlc_freezes_batch_norm(dialect: str) -> None:
    message = net('layer { type: "BatchNorm" ' + "param { lr_mult: 1 } " * 3 + "}")
    assert upgrade_net(message, dialect=dialect).message is message
    frozen = upgrade_net(message, dialect=dialect, batch_norm=True).message
    assert frozen == upgrade_net(message).message
    assert [(p.lr_mult, p.decay_mult) for p in frozen.layer[0].param] == [(0, 0)] * 3


def test_a_frozen_batch_norm_is_logged_but_not_changed() -> None:
    message = net('layer { type: "BatchNorm" ' + "param { lr_mult: 0 decay_mult: 0 } " * 3 + "}")
    done = upgrade_net(message)
    assert done.message is message
    assert len(done.log) == 2
    assert not done.done


def test_fields_of_the_net_survive_v1_but_not_v0() -> None:
    extra = "debug_info: true state { stage: 'x' } force_backward: true name: 'n' "
    v1 = upgrade_net(net(extra + "layers { type: RELU }")).message
    assert v1.debug_info
    assert v1.state.stage == ["x"]
    v0 = upgrade_net(net(extra + "layers { layer { type: 'relu' } }")).message
    assert not v0.HasField("debug_info")
    assert v0.force_backward
    assert v0.name == "n"


def test_v1_specs() -> None:
    text = """layers { type: CONVOLUTION param: "w" param: "b" blob_share_mode: PERMISSIVE
        blobs_lr: 1 blobs_lr: 2 blobs_lr: 3 weight_decay: 0.5 loss_weight: 2 }"""
    layer = upgrade_net(net(text)).message.layer[0]
    assert [p.name for p in layer.param] == ["w", "b", ""]
    assert [p.HasField("share_mode") for p in layer.param] == [True, False, False]
    assert [p.lr_mult for p in layer.param] == [1, 2, 3]
    assert layer.param[0].decay_mult == 0.5
    assert not layer.param[1].HasField("decay_mult")
    assert layer.loss_weight == [2]


def test_every_v1_type_of_bvlc_has_a_name() -> None:
    values = pb.V1LayerParameter.LayerType.items()
    assert {name for name, number in values if number < 20000} <= set(V1_TYPES)
    assert set(V0_TYPES.values()) <= set(V1_TYPES)


def test_problems_of_v0_are_told() -> None:
    done = upgrade_net(net("layers { layer { type: 'relu' num_output: 3 name: 'r' pad: 1 } }"))
    assert done.problems == [
        "Unknown parameter num_output for layer type relu",
        "Unknown parameter pad for layer type relu",
    ]
    assert ("E", done.problems[0]) in done.log
    assert done.message.layer[0].type == "ReLU"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers { } layer { }", "both `layer` .current. and `layers`"),
        ("layers { layer { type: 'conf' name: 'c' } }", "unknown V0 layer type 'conf'"),
        ("layers { bottom: 'x' layer { type: 'conv' name: 'c' } }", "unknown bottom 'x'"),
        (
            PADDING + "layers { layer { name: 'r' type: 'relu' } bottom: 'p' }",
            "a relu layer cannot follow a padding layer",
        ),
        (
            PADDING + "layers { layer { name: 'r' type: 'conv' } bottom: 'p' bottom: 'd' }",
            "need one bottom each",
        ),
        ("input: 'a' input: 'b' input_dim: [1, 2, 3, 4]", "there are 4 input_dim"),
        ("input: 'a' input: 'b' input_shape { dim: 1 }", "there are 1 input_shape"),
        ("layers { type: ELTWISE_AFFINE name: 'e' }", "V1 type ELTWISE_AFFINE has no"),
    ],
)  # fmt: skip
def test_what_caffe_gives_up_on(text: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        upgrade_net(net(text), locate=where)


def test_two_solver_types() -> None:
    solver = pb.SolverParameter(type="SGD", solver_type="ADAM")
    with pytest.raises(SolverError, match=r"^s.prototxt: both solver_type"):
        upgrade_solver(solver, path="s.prototxt")


def test_input_shapes_win_over_dims() -> None:
    text = "input: 'a' input_shape { dim: 7 } input_dim: [1, 2, 3, 4] layer { name: 'x' }"
    done = upgrade_net(net(text)).message
    assert [layer.name for layer in done.layer] == ["input", "x"]
    assert done.layer[0].input_param.shape == [pb.BlobShape(dim=[7])]
    assert not (done.input or done.input_shape or done.input_dim)


def test_unknown_fields_move_along() -> None:
    text = b"""name: "n"  # lost
        layers { type: DATA name: "d" data_param { scale: 2 foo: 1 } bar { a: [1, 2] } }
        layers { type: RELU name: "r" baz: "x" } qux: 3"""
    result = upgrade_bytes(text, "x.prototxt")
    new = b"".join(result.parts).decode()
    parsed = parse(new, pb.NetParameter)
    assert [(u.path, u.text) for u in parsed.unknown] == [
        ("layer[0].data_param.foo", "foo: 1"),
        ("layer[0].bar", "bar { a: [1, 2] }"),
        ("layer[1].baz", 'baz: "x"'),
        ("qux", "qux: 3"),
    ]
    assert not result.problems
    assert parsed.message.layer[0].transform_param.scale == 2


def test_unknown_fields_without_a_place_are_problems() -> None:
    text = b"input: 'd' layers { layer { type: 'padding' foo: 1 } bottom: 'd' top: 'p' }"
    result = upgrade_bytes(text, "x.prototxt")
    assert result.problems == ["x.prototxt:1:45: foo has no place any more: foo: 1"]


@needs_shared
def test_pairs_of_caffes_own_tests() -> None:
    root = SHARED / "corpus" / "upgrade_pairs"
    checked = 0
    for row in csv.DictReader((root / "index.csv").read_text().splitlines()):
        folder = root / row["path"]
        if row["op"] not in ("RunV0UpgradeTest", "RunV1UpgradeTest", "RunPaddingUpgradeTest"):
            continue
        given = net((folder / "input.prototxt").read_text())
        expected = net((folder / "expected.prototxt").read_text())
        if row["op"] == "RunV0UpgradeTest":
            found = upgrade_v0_net(given, where)[0]
        elif row["op"] == "RunV1UpgradeTest":
            found = upgrade_net(given).message
        else:
            found = remove_padding_layers(given, where)[0]
        assert found == expected, row["path"]
        checked += 1
    assert checked == 8
