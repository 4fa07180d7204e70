from __future__ import annotations

from pathlib import Path

import pytest

from caffeio.proto.dialect import schema, tabulate

pytest.importorskip("grpc_tools.protoc")

PROTO = """
syntax = "proto2";
package caffe;
message LayerParameter {
  required string name = 1;
  optional Phase phase = 10;
  repeated float ratio = 300 [packed = true];
  optional NewParameter new_param = 301;
}
enum Phase { TRAIN = 0; TEST = 1; }
message NewParameter {
  enum Kind { A = 1; B = 2; }
  message Inner { optional uint32 n = 1 [default = 3]; }
  optional Kind kind = 1 [default = B];
  repeated Inner inner = 2;
  optional string text = 3 [default = ""];
}
"""


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "caffe.proto").write_text(PROTO)
    layers = tmp_path / "layers"
    (layers / "test").mkdir(parents=True)
    (layers / "new_layer.cpp").write_text(
        "REGISTER_LAYER_CLASS(New);\nREGISTER_LAYER_CREATOR(ReLU, GetReLULayer);\n"
    )
    (layers / "test" / "x.cpp").write_text("REGISTER_LAYER_CLASS(Fake);")
    return tmp_path


def test_what_a_proto_declares(fork: Path) -> None:
    found = tabulate.compile_proto(fork / "proto" / "caffe.proto")
    assert found.enums == {"Phase": {"TRAIN": 0, "TEST": 1}, "NewParameter.Kind": {"A": 1, "B": 2}}
    assert [tuple(vars_of(f)) for f in found.messages["NewParameter"].values()] == [
        ("kind", 1, "optional", "enum:NewParameter.Kind", "B", False),
        ("inner", 2, "repeated", "message:NewParameter.Inner", None, False),
        ("text", 3, "optional", "string", None, False),
    ]
    assert vars_of(found.messages["LayerParameter"]["ratio"])[5] is True


def vars_of(entry: schema.Field) -> list[object]:
    return [getattr(entry, name) for name in entry.__slots__]


def test_layer_types_of_the_sources(fork: Path) -> None:
    assert tabulate.registered_types(fork / "layers") == {"New", "ReLU"}


def test_a_table_gives_back_what_it_was_made_of(
    fork: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = schema.load("bvlc")
    found = tabulate.compile_proto(fork / "proto" / "caffe.proto")
    found.layer_types = {"New"}
    text = tabulate.table(found, base, "mine: a fork")
    folder = fork / "tables"
    folder.mkdir(parents=True)
    bvlc = (schema.FOLDER / "tables" / "bvlc.tsv").read_text()
    (folder / "bvlc.tsv").write_text(bvlc)
    (folder / "mine.tsv").write_text(text)
    monkeypatch.setattr(schema, "FOLDER", fork)
    mine = schema.load.__wrapped__("mine")
    assert mine.about == "mine: a fork"
    assert mine.messages == found.messages
    assert {enum: mine.enums[enum] for enum in found.enums} == found.enums
    assert mine.layer_types == {"New"}


def test_the_command_line(fork: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "waifu2x"
    (fork / "tables").mkdir()
    monkeypatch.setattr(schema, "FOLDER", fork)
    proto = str(fork / "proto" / "caffe.proto")
    argv = ["tabulate", proto, name, "--source", str(fork / "layers"), "--about", "about it"]
    monkeypatch.setattr("sys.argv", argv)
    tabulate.main()
    lines = (fork / "tables" / f"{name}.tsv").read_text().splitlines()
    assert lines[0] == "# about it"
    assert "field\tLayerParameter\tname\t1\trequired\tstring" in lines
    assert "lacks\tNetParameter" in lines
    assert lines[-2:] == ["layer\tNew", "layer\tReLU"]
