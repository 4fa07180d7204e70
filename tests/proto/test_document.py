from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caffeio.errors import CaffeIOError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text.document import Document, TreeNode
from caffeio.proto.text.overrides import apply_overrides
from caffeio.proto.text.printer import format_scalar
from caffeio.proto.text.text_format import parse
from tests.proto.messages import texts

NET = """\
# net\r
name: "x"  # the name\r
layer {\r
  name: 'conv1' type: "Convolution" top: "a" top: "b"\r
  convolution_param { num_output: 3, kernel_size: [3, 5] ; pad: 1 }  # c\r
  foo_param { a: "x" b: 3 }\r
  param {}\r
}\r
layer: [{ name: "l1" }, < name: "l2" >]"""

CONV = "layer[conv1].convolution_param"


def edited(text: str, action: str, *args: str, kind: Any = pb.NetParameter) -> str:
    document = Document(text, kind)
    assert getattr(document, action)(*args) > 0
    parse(document.text, kind)
    return document.text


@pytest.mark.parametrize(
    ("action", "args", "old", "new"),
    [
        ("set", ("name", "y"), '"x"  #', '"y"  #'),
        ("set", ("name", 'a "b" \\'), '"x"  #', '"a \\"b\\" \\\\"  #'),
        ("set", ("name", "'q'"), '"x"  #', "'q'  #"),
        ("set", (f"{CONV}.num_output", "64"), "num_output: 3,", "num_output: 64,"),
        ("set", (f"{CONV}.kernel_size[1]", "7"), "[3, 5]", "[3, 7]"),
        ("set", (f"{CONV}.kernel_size", "7"), "[3, 5]", "[7]"),
        ("set", (f"{CONV}.kernel_size", "[1,2,3]"), "[3, 5]", "[1, 2, 3]"),
        ("set", (f"{CONV}.stride", "2"), "pad: 1 }", "pad: 1 stride: 2 }"),
        ("set", (f"{CONV}.pad", "[2,3]"), "pad: 1 }", "pad: 2 pad: 3 }"),
        ("set", (f"{CONV}.engine", "CAFFE"), "pad: 1 }", "pad: 1 engine: CAFFE }"),
        ("set", ("layer[conv1].top[b]", "c"), 'top: "b"', 'top: "c"'),
        ("set", ("layer[conv1].top", '["q"]'), 'top: "a" top: "b"', 'top: "q"'),
        ("set", ("layer[type=Convolution].name", "z"), "'conv1'", '"z"'),
        ("set", ("layer[2].name", "l3"), '"l2"', '"l3"'),
        ("set", ("layer[-1].name", "l3"), '"l2"', '"l3"'),
        ("set", ("layer[l2].type", "ReLU"), '"l2" >', '"l2" type: "ReLU" >'),
        ("set", ("layer[conv1].param.lr_mult", "3"), "param {}", "param { lr_mult: 3 }"),
        (
            "set",
            ("layer[conv1].param[1].lr_mult", "3"),
            "param {}\r\n",
            "param {}\r\n  param {\r\n    lr_mult: 3\r\n  }\r\n",
        ),
        (
            "set",
            (f"{CONV}.weight_filler.type", "xavier"),
            "pad: 1 }",
            'pad: 1 weight_filler { type: "xavier" } }',
        ),
        (
            "set",
            (f"{CONV}.weight_filler", '{ type: "xavier" }'),
            "pad: 1 }",
            'pad: 1 weight_filler { type: "xavier" } }',
        ),
        ("set", ("layer[conv1].foo_param.a", "y"), 'a: "x"', 'a: "y"'),
        ("set", ("layer[conv1].foo_param.b", "4"), "b: 3", "b: 4"),
        ("set", ("force_backward", "true"), "l2\" >]", 'l2" >]\r\nforce_backward: true'),
        ("add", ("layer[conv1].top", "c"), 'top: "b"', 'top: "b" top: "c"'),
        ("remove", ("name",), 'name: "x"  #', "  #"),
        ("remove", ("layer[conv1].name",), "name: 'conv1' ", ""),
        ("remove", ("layer[conv1].top[a]",), ' top: "a"', ""),
        ("remove", ("layer[conv1].top",), ' top: "a" top: "b"', ""),
        ("remove", (f"{CONV}.num_output",), " num_output: 3,", ""),
        ("remove", (f"{CONV}.kernel_size",), " kernel_size: [3, 5] ;", ""),
        ("remove", (f"{CONV}.kernel_size[0]",), "3, 5", "5"),
        ("remove", (f"{CONV}.kernel_size[1]",), "3, 5", "3"),
        ("remove", ("layer[conv1].foo_param",), '  foo_param { a: "x" b: 3 }\r\n', ""),
        ("remove", ("layer[1]",), '{ name: "l1" }, ', ""),
        ("remove", ("layer[l2]",), ', < name: "l2" >', ""),
    ],
)  # fmt: skip
def test_edits_touch_nothing_else(action: str, args: tuple[str, ...], old: str, new: str) -> None:
    assert NET.count(old) == 1
    assert edited(NET, action, *args) == NET.replace(old, new)


@pytest.mark.parametrize(
    ("action", "args", "message"),
    [
        ("set", ("nam", "y"), "NetParameter has no field 'nam'; did you mean name?"),
        ("set", ("layer[nope].type", "x"), "nothing matches"),
        ("set", ("layer[7].type", "x"), "nothing matches"),
        ("set", (f"{CONV}.num_output", "x"), "expected an integer, found x"),
        ("set", (f"{CONV}.num_output", "-1"), "not negative"),
        ("set", (f"{CONV}.num_output[0]", "1"), "is not repeated"),
        ("set", (f"{CONV}.engine", "CUDN"), "has no value CUDN; did you mean CUDNN?"),
        ("set", (f"{CONV}.kernel_size[0]", "[1, 2]"), "one value belongs there, not 2"),
        ("set", (f"{CONV}.weight_filler", "xavier"), "is a message: write { FIELD: VALUE"),
        ("set", (f"{CONV}.weight_filler", "{ typ: 3 }"), "FillerParameter does not know 'typ: 3'"),
        ("set", (f"{CONV}.weight_filler", "{ std: }"), "expected the value of std"),
        ("set", ("name.x", "1"), "name has no fields"),
        ("set", (f"{CONV}.kernel_size[5]", "7"), "nothing matches"),
        ("set", ("layer[conv1].foo_param.c", "1"), "the schema does not know it"),
        ("set", ("layer[conv1].foo_param.b", "a b"), "'a b' is not a value"),
        ("set", ("layer[conv1].foo_param", "{}"), "edit the fields in it"),
        ("set", ("a b", "1"), "is not the path of a field"),
        ("add", ("name", "x"), "+= appends to a repeated field"),
        ("remove", ("state",), "nothing matches"),
        ("remove", ("stat",), "did you mean state?"),
    ],
)
def test_refused_edits_change_nothing(action: str, args: tuple[str, ...], message: str) -> None:
    document = Document(NET, pb.NetParameter)
    with pytest.raises(CaffeIOError, match=re.escape(message)):
        getattr(document, action)(*args)
    assert document.text == NET


@pytest.mark.parametrize("text", ["", "# only a comment", "\ufeff", "max_iter: 1", "max_iter: 1\n"])
def test_new_fields_at_the_end(text: str) -> None:
    document = Document(text, pb.SolverParameter)
    document.set("base_lr", "0.1")
    document.add("stepvalue", "3")
    document.add("stepvalue", "4")
    document.set("train_state.level", "1")
    expected = "base_lr: 0.1\nstepvalue: 3\nstepvalue: 4\ntrain_state {\n  level: 1\n}"
    gap = "\n" if text.strip("\ufeff") and not text.endswith("\n") else ""
    assert document.text.removesuffix("\n") == text + gap + expected


def test_lines_stay_where_a_field_goes() -> None:
    text = "a {\n}\nlayer {\n  top: 'a' # one\n  top: 'b'\n  top: 'c'; top: 'd'\n}\n"
    assert edited(text, "remove", "layer.top[b]") == text.replace("  top: 'b'\n", "")
    assert edited(text, "remove", "layer.top[a]") == text.replace("top: 'a' #", " #")
    assert edited(text, "remove", "layer.top") == text.replace("top: 'a' #", " #").replace(
        "  top: 'b'\n  top: 'c'; top: 'd'\n", ""
    )


def test_find() -> None:
    document = Document(NET, pb.NetParameter)
    assert [node.value for node in document.find("layer.name")] == ["'conv1'", '"l1"', '"l2"']
    assert [node.value for node in document.find("layer[*].top[-1]")] == ['"b"']
    assert [node.path for node in document.find(f"{CONV}.kernel_size")] == [
        "layer[0].convolution_param.kernel_size[0]",
        "layer[0].convolution_param.kernel_size[1]",
    ]
    assert document.find("layer[convolution_param.pad=1][name=conv1]")[0].name == "layer"
    assert document.find('layer["conv1"]') == document.find("layer[0]")
    assert document.find("layer[9]") == document.find("nothing.there") == []
    assert document.place(document.find("layer[l2].name")[0]) == "<text>:9:27"


def test_seven_is_a_number_or_a_name() -> None:
    text = 'layer { name: "7" } layer { name: "a.b]/c=d" }'
    assert edited(text, "set", 'layer["7"].type', "X").count("X") == 1
    assert edited(text, "set", "layer['a.b]/c=d'].type", "X").count("X") == 1
    with pytest.raises(CaffeIOError, match="nothing matches"):
        Document(text, pb.NetParameter).set("layer[7].type", "X")


def scalars(node: TreeNode) -> list[TreeNode]:
    """The nodes of values below a node that stand for fields the schema knows."""
    out = []
    for child in node.children or ():
        if child.is_message:
            out += scalars(child)
        elif node.descriptor is not None and child.name in node.descriptor.fields_by_name:
            out.append(child)
    return out


VALUES = {1: "2.5", 2: "2.5", 3: "7", 4: "7", 5: "-7", 8: "true", 9: "new text", 13: "7"}


@given(texts(pb.NetParameter), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_setting_a_value_is_what_it_is_on_the_message(
    styled: tuple[str, pb.NetParameter], rng: Any
) -> None:
    text, message = styled
    document = Document(text, pb.NetParameter)
    nodes = scalars(document.root)
    assume(nodes)
    node = rng.choice(nodes)
    assert node.parent is not None
    field = node.parent.descriptor.fields_by_name[node.name]
    if field.enum_type is not None:
        value = rng.choice(field.enum_type.values).name
    else:
        value = VALUES.get(field.type, "x")
    path = node.path
    if field.is_repeated and not path.endswith("]"):
        path += "[0]"
    before, after = text[: node.begin], text[node.end :]
    document.set(path, value)
    written = f'"{value}"' if field.type in (9, 12) else value
    assert document.text == before + written + after
    assert apply_overrides(message, [f"{path}={value}"]) == [1]
    assert parse(document.text, pb.NetParameter).message == message
    again = document.find(path)
    assert len(again) == 1
    assert again[0].reads(value)


@given(texts(pb.NetParameter), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_removing_a_field_leaves_the_rest(styled: tuple[str, pb.NetParameter], rng: Any) -> None:
    text, message = styled
    document = Document(text, pb.NetParameter)
    nodes = [node for node in document.walk() if node.is_message or node.group is None]
    assume(nodes)
    node = rng.choice(nodes)
    assert node.parent is not None
    same = node.parent.named(node.name)
    steps = path_of(node)
    around = text[: node.start] + text[node.end :]
    document.remove(node.path)
    owner: Any = message
    for name, index in steps[:-1]:
        field = owner.DESCRIPTOR.fields_by_name[name]
        owner = getattr(owner, name)[index] if field.is_repeated else getattr(owner, name)
    name, index = steps[-1]
    if owner.DESCRIPTOR.fields_by_name[name].is_repeated:
        del getattr(owner, name)[index]
    else:
        owner.ClearField(name)
    assert len(same) > index
    assert parse(document.text, pb.NetParameter).message == message
    if node.group is None:  # a comment between the items of a list goes with them
        for comment in ("# it's", "# x: 1"):
            assert document.text.count(comment) == around.count(comment)


def path_of(node: TreeNode) -> list[tuple[str, int]]:
    steps: list[tuple[str, int]] = []
    while node.parent is not None:
        steps.insert(0, (node.name, node.parent.named(node.name).index(node)))
        node = node.parent
    return steps


def test_fork_fields_may_be_set() -> None:
    text = edited("layer { name: 'a' }", "set", "layer[a].reorg_param.stride", "2")
    assert parse(text, pb.NetParameter).message.layer[0].reorg_param.stride == 2


def test_every_scalar_type_is_spelled() -> None:
    for field in pb.BlobProto.DESCRIPTOR.fields:
        if field.message_type is None and not field.is_repeated:
            value = VALUES.get(field.type, "x")
            if field.enum_type is not None:
                value = field.enum_type.values[0].name
            message = parse(
                edited("", "set", field.name, value, kind=pb.BlobProto), pb.BlobProto
            ).message
            shown = format_scalar(field, getattr(message, field.name))
            assert shown.strip('"') == value
