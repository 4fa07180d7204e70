from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

import caffeio.proto
from caffeio.errors import CaffeIOError, DialectError, ParseError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.guess_text import _MAIN_LINE, ONE_IN_BVLC, facts, guess_dialect
from caffeio.proto.dialect.schema import canonical, dialect_names, load
from caffeio.proto.files import decode_text, encode_text, read_bytes, read_net, read_solver
from caffeio.proto.rewrite import message_type_of
from caffeio.proto.text.overrides import apply_overrides
from caffeio.proto.upgrade.upgrade import _KEEP_BATCH_NORM_SPECS
from tests.paths import GOLDEN, SHARED, needs_shared

V1 = GOLDEN / "logs" / "upgrade" / "v1_0.prototxt"
MIXED = GOLDEN / "logs" / "upgrade" / "mixed_0.prototxt"


def test_path_or_text() -> None:
    by_path = read_net(V1)
    by_text = read_net(V1.read_text())
    assert by_path.message == by_text.message == read_net(str(V1)).message
    assert (by_path.path, by_text.path) == (V1, None)
    assert by_path.text == V1.read_text()
    assert read_net('name: "n"').message.name == "n"
    assert read_solver("base_lr: 1").message.base_lr == 1
    assert read_net("layer { }").message.layer[0] == pb.LayerParameter()


def test_upgrade_is_a_choice() -> None:
    assert read_net(V1).upgraded is not None
    assert read_net(V1).message.layer
    raw = read_net(V1, upgrade=False)
    assert raw.upgraded is None
    assert raw.message.layers
    assert read_solver("solver_type: ADAM").message.type == "Adam"


def test_places_are_those_of_the_file() -> None:
    lines = V1.read_text().splitlines()
    file = read_net(V1)
    for index, layer in enumerate(file.message.layer):
        _, line, _ = file.locate("layer", index).rsplit(":", 2)
        assert f'"{layer.name}"' in lines[int(line) - 1]
    mixed = read_net(MIXED)
    assert mixed.locate("layer", 0) == f"{MIXED}:2:1"  # the Input layer comes from `input`
    assert mixed.locate("layer", 1, "param", 1, "lr_mult").startswith(f"{MIXED}:6:")
    assert mixed.locate("layer", 99) == f"{MIXED}:1:1"
    solver = read_solver("base_lr: 1\n  max_iter: 3")
    assert solver.locate("max_iter") == "<text>:2:3"


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "train_val.prototxt").write_text('name: "x"')
    with pytest.raises(CaffeIOError, match=r"no such file; did you mean .*train_val.prototxt\?"):
        read_net(tmp_path / "trainval.prototxt")
    with pytest.raises(CaffeIOError, match=r"there is no such file: the folder .* is missing"):
        read_net(str(tmp_path / "nowhere" / "x.prototxt"))
    with pytest.raises(CaffeIOError, match="is a folder"):
        read_net(tmp_path)
    with pytest.raises(CaffeIOError, match="no such file"):
        read_net("models/resnet:50.prototxt")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text("base_lr: 1\nmax_iter: x")
    with pytest.raises(ParseError) as caught:
        read_solver(path)
    assert str(caught.value).startswith(f"{path}:2:11: expected an integer, found x\n")
    with pytest.raises(DialectError, match="unknown dialect 'caffe2'; known are bvlc"):
        read_solver(path, dialect="caffe2")
    path.write_bytes(b"\x08\x01\x02")
    with pytest.raises(CaffeIOError, match="must be text"):
        read_solver(path)


def test_binary_nets_are_read_without_weights() -> None:
    path = GOLDEN / "logs" / "upgrade" / "old_v1.caffemodel"
    file = read_net(path, dialect="bvlc")
    assert [layer.type for layer in file.message.layer] == ["Convolution", "InnerProduct"]
    assert not file.message.layer[0].blobs[0].data
    assert file.locate("layer", 0) == str(path)
    assert file.text is file.parsed is None


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('layer { type: "Convolution" convolution_param { kernel_size: 3 } }', "bvlc"),
        ("layer { batch_norm_param { engine: MKLDNN } }", "sara"),
        ("layer { pooling_param { kernel_size: 3 kernel_size: 5 } }", "bvlc-opencl"),
        ("layer { pooling_param { engine: 4 } }", "sara"),
        ("default_forward_type: FLOAT16", "nvidia"),
        ("layer { permute_param { order: 0 } }", "ssd"),
        ('layer { type: "ShuffleChannel" }', "deepdetect"),
        ("layer { foo_param { } }", "bvlc"),
    ],
)
def test_dialect_of_a_text(text: str, dialect: str) -> None:
    file = read_net(text)
    assert file.dialect == dialect
    assert bool(file.guess.evidence) == (dialect != "bvlc")


def test_enum_numbers_follow_the_dialect() -> None:
    text = "layer { loss_param { normalization: 3 } %s }"
    mode = pb.LossParameter.NormalizationMode
    message = read_net(text % "").message
    assert message.layer[0].loss_param.normalization == mode.Value("NONE")
    message = read_net(text % "batch_norm_param { filler { } }").message
    assert message.layer[0].loss_param.normalization == mode.Value("PRE_FIXED")
    file = read_net("layer { pooling_param { engine: 4 } }")  # which no BVLC has
    engine = pb.PoolingParameter.Engine.Value("MKLDNN")
    assert (file.message.layer[0].pooling_param.engine, file.unknown) == (engine, [])
    with pytest.raises(ParseError, match="ClipParameter must have max in the dialect bvlc"):
        read_net("layer { clip_param { min: 0 } }")


def test_facts_are_those_of_the_tables() -> None:
    for name in dialect_names():
        table = load(name)
        fields = {f"{m}.{f}" for m, fields in table.messages.items() for f in fields}
        found = {f for f in facts(name) if "." in f and f[-1] not in "]!"}
        values = {f"{e}.{v}" for e, values in table.enums.items() for v in values}
        assert fields | values <= found
        types = {f[5:] for f in facts(name) if f.startswith("type ")}
        assert types == (table.layer_types or load("bvlc").layer_types)
        required = {
            f"{m}.{f}!"
            for m, fields in table.messages.items()
            for f, entry in fields.items()
            if entry.label == "required"
        }
        assert {f for f in facts(name) if f.endswith("!")} == required


def test_fields_that_only_bvlc_has_once() -> None:
    bvlc = load("bvlc").messages
    found = {
        (message, name)
        for message, fields in canonical().messages.items()
        for name, entry in fields.items()
        if entry.label == "repeated"
        and name in bvlc.get(message, {})
        and bvlc[message][name].label != "repeated"
    }
    assert found == ONE_IN_BVLC


def test_names_of_dialects_are_right() -> None:
    known = set(dialect_names())
    assert set(_MAIN_LINE) | set(_MAIN_LINE.values()) <= known
    assert set(_KEEP_BATCH_NORM_SPECS) <= known


def test_nothing_known_is_no_evidence() -> None:
    assert guess_dialect({"LayerParameter.nobody_knows_this"}).dialect == "bvlc"


def test_text_survives_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    data = b"# \xc4\xe3\xba\xc3 \xff\r\nbase_lr: 1\r\n"
    path = tmp_path / "gbk.prototxt"
    path.write_bytes(data)
    assert read_solver(path).message.base_lr == 1
    assert encode_text(decode_text(data)) == bytes(read_bytes(path)) == data


def test_messages_are_found_in_the_package() -> None:
    assert caffeio.proto.NetParameter is pb.NetParameter
    assert caffeio.proto.TRAIN == pb.TRAIN
    with pytest.raises(AttributeError):
        _ = caffeio.proto.NoSuchParameter
    assert caffeio.proto.caffe_pb2 is pb


def test_kind_of_a_text() -> None:
    assert message_type_of("base_lr: 1 net: 'x' type: 'SGD'") is pb.SolverParameter
    assert message_type_of("name: 'x' layer { base_lr: 1 }") is pb.NetParameter
    assert message_type_of("layers { net: 1 } debug_info: true") is pb.NetParameter
    assert message_type_of("item { name: 'x' label: 1 }") is pb.LabelMap


def test_reading_loads_no_heavy_modules() -> None:
    code = (
        "import sys; from caffeio.proto.files import read_net, read_solver; "
        "read_solver('base_lr: 1'); read_net('layer { name: \"a\" }'); "
        "print([m for m in ('torch', 'numpy', 'caffeio.proto.io.wire') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_overrides() -> None:
    message = pb.SolverParameter(test_iter=[1, 2])
    changes = [
        "base_lr=0.1", "lr_policy=poly", "stepvalue=[1, 2]", "stepvalue+=3", "stepvalue[0]=7",
        "solver_mode=CPU", "net=/x y.prototxt", "test_net=['a', \"b\"]", "train_state.level=-2",
        "test_state[0].stage+=x", "test_iter[-1]=5", "net_param={ name: 'n' layer { } }",
        "net_param.layer[0].name=a=b", "debug_info = true", "net_param.layer+={ name: 'c' }",
        "test_iter[2]=6",
    ]  # fmt: skip
    assert apply_overrides(message, changes) == [1] * len(changes)
    assert message == pb.SolverParameter(
        base_lr=0.1, lr_policy="poly", stepvalue=[7, 2, 3], solver_mode="CPU",
        net="/x y.prototxt", test_net=["a", "b"], train_state=pb.NetState(level=-2),
        test_state=[pb.NetState(stage=["x"])], test_iter=[1, 5, 6], debug_info=True,
        net_param=pb.NetParameter(
            name="n", layer=[pb.LayerParameter(name="a=b"), pb.LayerParameter(name="c")]
        ),
    )  # fmt: skip


def test_overrides_of_layers() -> None:
    net = pb.NetParameter()
    for phase in ("TRAIN", "TEST"):
        layer = net.layer.add(name="data", type="Data", top=["data", "label"])
        layer.include.add(phase=phase)
    net.layer.add(name="conv1", type="Convolution")
    assert apply_overrides(net, ["layer[data].data_param.source=/x"]) == [2]
    assert apply_overrides(net, ["layer[data][include.phase=TEST].data_param.batch_size=3"]) == [1]
    assert [x.data_param.batch_size for x in net.layer] == [0, 3, 0]
    assert apply_overrides(net, ["layer[type=Data].top[label]=y", "layer[*].phase=TEST"]) == [2, 3]
    assert net.layer[1].top == ["data", "y"]
    assert apply_overrides(net, ["layer[pool].name=x"], missing_ok=True) == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bas_lr=3", "SolverParameter has no field 'bas_lr'; did you mean base_lr"),
        ("base_lr", "expected KEY=VALUE"),
        ("base_lr=x", "expected a number, found x"),
        ("base_lr[0]=3", "not repeated"),
        ("base_lr+=3", "appends to a repeated field"),
        ("solver_mode=gpuu", "SolverMode has no value gpuu; did you mean GPU"),
        ("solver_mode=x", "has no value x; known are CPU, GPU"),
        ("net.x=3", "net has no fields"),
        ("train_state={a: 3}", "does not know 'a: 3'"),
        ("train_state=3", "is a message"),
        ("max_iter=1.5", "expected an integer"),
        ("test_iter[7]=1", "nothing matches"),
        ("net_param.layer[a].name=x", "nothing matches: layer.a. is not there"),
        ("=3", "is not the path of a field"),
        ("base_lr=1 max_iter: 3", "'1 max_iter: 3' is not a value of base_lr"),
        ("base_lr=", "'' is not a value of base_lr"),
    ],
)
def test_refused_overrides(change: str, message: str) -> None:
    with pytest.raises(CaffeIOError, match=message):
        apply_overrides(pb.SolverParameter(), [change])


@needs_shared
def test_dialects_of_the_seed() -> None:
    for path in sorted((SHARED / "seed").glob("*.prototxt")):
        file = (read_solver if path.name.startswith("solver") else read_net)(path)
        expected = "bvlc" if path.name == "solver_collapse.prototxt" else "sara"
        assert (path.name, file.dialect) == (path.name, expected)
        assert not file.unknown


@needs_shared
def test_dialects_of_the_corpus() -> None:
    families = {
        "BVLC": {"bvlc"},
        "sara-nl": {"bvlc", "sara"},
        "intel": {"bvlc", "sara", "intel", "ssd", "rfcn", "faster-rcnn"},
        "NVIDIA": {"bvlc", "nvidia"},
        "alexgkendall/caffe-segnet": {"bvlc", "segnet"},
        "eric612 YOLO": {"bvlc", "eric612-yolo", "ssd"},
        "BVLC + ducha-aiki/caffe": {"bvlc", "ducha-aiki"},
    }
    index = SHARED / "corpus" / "index.csv"
    for row in csv.DictReader(index.read_text().splitlines()):
        if row["kind"] not in ("net", "solver") or row["fork_declared"] not in families:
            continue
        path = SHARED / "corpus" / row["path"]
        file = (read_net if row["kind"] == "net" else read_solver)(path)
        assert file.dialect in families[row["fork_declared"]], path
        if row["bvlc_cxx"] == "yes":
            assert not [e for e in file.guess.evidence if not e.startswith("type ")], path


def test_fields_of_the_message_are_at_hand() -> None:
    solver = read_solver('net: "n.prototxt"\nbase_lr: 0.5\n')
    assert solver.base_lr == 0.5
    assert solver.message.net == solver.net == "n.prototxt"
    with pytest.raises(AttributeError):
        solver.no_such_field  # noqa: B018
