from __future__ import annotations

import csv
import math
import random
import re
import struct
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caffeio.errors import ParseError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text.printer import format_double, format_float
from caffeio.proto.text.text_format import format_message, parse
from tests.paths import GOLDEN, SHARED, needs_shared
from tests.proto.messages import messages, texts
from tests.proto.oracle import ask
from tests.proto.texts import LINES, MORE

SOLVER_TYPES = ("SolverParameter", "NetState")


def read(text: str) -> bytes | None:
    """The bytes that our reader makes of a solver's text; None if C++ ought to refuse it."""
    try:
        parsed = parse(text, pb.SolverParameter)
    except ParseError:
        return None
    return None if parsed.unknown else parsed.message.SerializeToString(deterministic=True)


def disagreements(texts: list[str], folder: Path) -> list[tuple[str, str]]:
    pytest.importorskip("grpc_tools")
    questions = [
        ("encode", "SolverParameter", text.encode("utf-8", "surrogateescape")) for text in texts
    ]
    out = []
    for text, (taken, data, error) in zip(texts, ask(questions, SOLVER_TYPES, folder), strict=True):
        ours = read(text)
        theirs = pb.SolverParameter.FromString(data) if taken else None
        expected = theirs.SerializeToString(deterministic=True) if theirs is not None else None
        if ours != expected:
            out.append((text, error))
    return out


def test_reads_and_refuses_what_cpp_does(tmp_path: Path) -> None:
    assert disagreements([*LINES, *MORE], tmp_path) == []


def test_reads_and_refuses_random_tokens_as_cpp_does(tmp_path: Path) -> None:
    rng = random.Random(7)
    names = "base_lr max_iter net test_iter test_net train_state test_state solver_mode level foo"
    others = ": : : : { } [ ] < > , ; - 1 2.5 0x1f 017 -3 1e3 1f inf nan 'a' \"b\" GPU true f"
    tokens = [*names.split(), *others.split(), "#c\n"]
    fields = ["base_lr: 1", "max_iter: 3", "test_iter: [1, 2]", "train_state { level: 2 }", "}",
              "test_state < stage: 'x' >", "test_net: 'a' \"b\"", "solver_mode: GPU;"]  # fmt: skip
    texts = []
    for _ in range(400):
        texts.append(rng.choice(["", " "]).join(rng.choices(tokens, k=rng.randrange(1, 7))))
        good = rng.choices(fields, k=rng.randrange(1, 5))
        good.insert(rng.randrange(len(good) + 1), rng.choice(tokens))
        texts.append(" ".join(good))
        line = rng.choice(LINES)
        at = rng.randrange(len(line) + 1)
        texts.append(line[:at] + rng.choice(tokens) + line[at + rng.randrange(2) :])
    assert disagreements(texts, tmp_path) == []


def test_prints_what_cpp_prints(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    rng = random.Random(3)
    floats = [struct.unpack("<f", rng.randbytes(4))[0] for _ in range(300)]
    floats += [0.1, 1e-5, 1e15, 1e16, 123456, 1234567, 0.0078125, 2**24, 1 / 3, -0.0, 3.4e38]
    numbers = [f for f in floats if not math.isnan(f)] + [float("inf"), float("-inf"), float("nan")]
    solver = pb.SolverParameter(
        stagelr=numbers,
        net="a\n\t\r\"'\\\x00\x7f\x01é\U0001f600?",
        test_iter=[1, -2],
        test_state=[pb.NetState(stage=["x"]), pb.NetState()],
        solver_mode="GPU",
        debug_info=True,
    )
    net = pb.BlobProto(
        double_data=[rng.uniform(-1, 1) * 10 ** rng.randrange(-20, 20) for _ in "x" * 99]
    )
    questions = [
        ("decode", "SolverParameter", solver.SerializeToString()),
        ("decode", "BlobProto", net.SerializeToString()),
    ]
    answers = ask(questions, (*SOLVER_TYPES, "BlobProto", "BlobShape"), tmp_path)
    assert [answer[1].decode() for answer in answers] == [format_message(m) for m in (solver, net)]


@given(messages(pb.SolverParameter))
@settings(max_examples=60, deadline=None)
def test_round_trip_of_random_solvers(message: pb.SolverParameter) -> None:
    text = format_message(message)
    assert parse(text, pb.SolverParameter).message == message
    assert text_format.Parse(text, pb.SolverParameter()) == message


@given(messages(pb.NetParameter))
@settings(max_examples=60, deadline=None)
def test_round_trip_of_random_nets(message: pb.NetParameter) -> None:
    assert parse(format_message(message), pb.NetParameter).message == message
    for style in ({"as_one_line": True}, {"use_short_repeated_primitives": True}):
        text = text_format.MessageToString(message, **style)
        assert parse(text, pb.NetParameter).message == message


@given(texts(pb.NetParameter))
@settings(max_examples=100, deadline=None)
def test_all_styles_are_read(styled: tuple[str, pb.NetParameter]) -> None:
    text, message = styled
    parsed = parse(text, pb.NetParameter)
    assert parsed.message == message
    assert not parsed.unknown


@given(st.text())
@example("layer { name: 'a' } \ud800")
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text, pb.NetParameter)
    except ParseError as error:
        assert re.match(r"<text>:\d+:\d+: .*\n", str(error))


@given(st.floats(width=32))
def test_printed_floats_are_read_back(value: float) -> None:
    text = format_float(value)
    parsed = parse(f"base_lr: {text}", pb.SolverParameter).message.base_lr
    assert parsed == value or math.isnan(parsed)


@given(st.floats())
def test_printed_doubles_are_read_back(value: float) -> None:
    parsed = parse(f"double_data: {format_double(value)}", pb.BlobProto).message.double_data[0]
    assert parsed == value or math.isnan(parsed)


def blocks() -> list[tuple[str, str, str]]:
    """The messages in the logs of real Caffes, as printed there."""
    out = []
    for path in sorted(GOLDEN.rglob("*")):
        if path.suffix not in (".txt", ".log"):
            continue
        text = path.read_text(errors="replace")
        found = re.finditer(
            r"Initializing (solver|net) from parameters: ?\n(.*?)(?=^[IWEF]\d{4,8} )",
            text,
            re.MULTILINE | re.DOTALL,
        )
        out += [(str(path.relative_to(GOLDEN)), match[1], match[2].lstrip("\n")) for match in found]
    return out


def test_prints_as_the_logs_of_real_caffes() -> None:
    found = blocks()
    assert len(found) > 50
    for path, kind, text in found:
        parsed = parse(text, pb.SolverParameter if kind == "solver" else pb.NetParameter)
        dialect = "sara" if path.startswith("fork") and "bvlc" not in path else "bvlc"
        assert format_message(parsed.message, dialect=dialect) == text, path


def test_order_of_fields_is_the_dialects() -> None:
    message = pb.PoolingParameter(kernel_size=[2], pad=[1], stride=[3])
    assert format_message(message) == "kernel_size: 2\nstride: 3\npad: 1\n"
    assert format_message(message, dialect="sara") == "pad: 1\nkernel_size: 2\nstride: 3\n"
    assert format_message(message, indent=1).startswith("  kernel_size")


@pytest.mark.parametrize(
    ("case", "place", "text"),
    [
        ("syntax_missing_brace", "3:1", 'expected "}" to close layer of line 2, found the end'),
        ("wrong_value_type", "2:95", 'expected a number, found the string "three"'),
    ],
)
def test_broken_files(case: str, place: str, text: str) -> None:
    path = GOLDEN / "errors" / case / "net.prototxt"
    with pytest.raises(ParseError) as caught:
        parse(path.read_text(), pb.NetParameter, path="net.prototxt")
    assert str(caught.value).startswith(f"net.prototxt:{place}: {text}")
    assert str(caught.value).endswith("^")


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "unknown_field",
            "net.prototxt:2:83: unknown field 'num_outputs' in layer[1].convolution_param (did you"
            + " mean num_output?)",
        ),
        (
            "bad_enum",
            "net.prototxt:2:81: unknown value MEDIAN of layer[1].pooling_param.pool",
        ),
    ],
)
def test_what_the_schema_lacks_is_kept_and_reported(case: str, text: str) -> None:
    path = GOLDEN / "errors" / case / "net.prototxt"
    parsed = parse(path.read_text(), pb.NetParameter, path="net.prototxt")
    assert [str(unknown) for unknown in parsed.unknown] == [text]
    assert parsed.unknown[0].text in path.read_text()
    assert len(parsed.message.layer) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base_lr: 1 base_lr: 2", "1:12: base_lr is given twice"),
        ("base_lr:\n\n  abc", "3:3: expected a number, found abc"),
        ("train_state {\n level: 1 )", '2:11: expected a field name, found ")"'),
        ("train_state {\n level: 1 >", '2:11: expected "}" to close train_state of line 1'),
        ("net: 'abc\n'", "1:6: the string is not closed on its line"),
        ("net: 'a\\qb'", "1:8: unknown escape \\q"),
        ("max_iter: 4294967296", "1:11: 4294967296 is out of range"),
        ("device_id: 1\ndisplay 20", '2:9: expected ":" or "{" after display, found "20"'),
        ("solver_mode", "found the end of the file"),
        ("test_iter: [1, x]", "1:16: expected an integer, found x"),
        ("net: '\\377'", "1:6: the string is not UTF-8"),
        ("\ufeffbase_lr: x", "1:10: expected a number"),
        ("a: 1\nnet: \u00e4", "U+00E4"),
        ("device_id: [0, 1]", "1:12: device_id takes one value, not a list"),
        ("train_state { " * 200, "nested deeper than 100"),
        ("foo { " * 200, "nested deeper than 100"),
        ("max_iter: " + "9" * 5000, "out of range"),
    ],
)
def test_errors_name_the_place(text: str, expected: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, pb.SolverParameter)
    assert expected in str(caught.value)


def test_caret_stands_under_the_place() -> None:
    with pytest.raises(ParseError) as caught:
        parse("net: 'x'\r\n\tbase_lr: abc # c\r\n", pb.SolverParameter, path="s.prototxt")
    assert str(caught.value).splitlines() == [
        "s.prototxt:2:11: expected a number, found abc",
        "  \tbase_lr: abc # c",
        "  \t         ^",
    ]


def test_long_lines_are_cut_around_the_caret() -> None:
    with pytest.raises(ParseError) as caught:
        parse("test_iter: 1 " * 1000 + "base_lr: x " + "test_iter: 1 " * 1000, pb.SolverParameter)
    line, under = str(caught.value).splitlines()[1:]
    assert len(line) < 140
    assert line[under.index("^")] == "x"


def test_enum_numbers_are_the_dialects() -> None:
    text = "normalization: 3"
    for dialect, name in ((None, "NONE"), ("bvlc", "NONE"), ("sara", "PRE_FIXED")):
        parsed = parse(text, pb.LossParameter, dialect=dialect)
        expected = pb.LossParameter.NormalizationMode.Value(name)
        assert parsed.message.normalization == expected
        assert parsed.enum_numbers
    assert parse("engine: 20000", pb.ConvolutionParameter).unknown  # our own numbers are no text


def test_dialects_labels_hold() -> None:
    assert parse("kernel_size: 1 kernel_size: 2", pb.PoolingParameter).message.kernel_size == [1, 2]
    with pytest.raises(ParseError, match="given twice"):
        parse("kernel_size: 1 kernel_size: 2", pb.PoolingParameter, dialect="bvlc")
    with pytest.raises(ParseError, match="ClipParameter must have max"):
        parse("layer { clip_param { min: 1 } }", pb.NetParameter, dialect="bvlc")


def test_places_are_found() -> None:
    text = 'name: "n"\nlayer { name: "a" }\nlayer {\n  name: "b"\n  top: ["x", "y"]\n}'
    parsed = parse(text, pb.NetParameter, path="net.prototxt")
    assert parsed.locate("layer", 1, "name") == "net.prototxt:4:3"
    assert parsed.locate("layer", 1, "top", 1) == "net.prototxt:5:14"
    assert parsed.locate("layer", 1, "convolution_param", "pad") == "net.prototxt:3:1"
    assert parsed.locate("layer", 7) == "net.prototxt:1:1"


def test_unknown_messages_may_hold_anything() -> None:
    text = "foo { a: 1 a: 2 b { c: [1, 'x'] d: [{e: f}] } } bar: [{x: 1}, <>] base_lr: 1 baz: -inf"
    parsed = parse(text, pb.SolverParameter)
    assert [u.name for u in parsed.unknown] == ["foo", "bar", "baz"]
    assert parsed.message == pb.SolverParameter(base_lr=1)


def test_suggestions_look_past_the_suffix() -> None:
    parsed = parse("layer { apl_param {} pooling_prm {} Name: 'x' }", pb.NetParameter)
    assert [u.suggestion for u in parsed.unknown] == [None, "pooling_param", "name"]


def corpus() -> list[dict[str, str]]:
    path = SHARED / "corpus" / "index.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


# Files of the corpus that real Caffes refuse too, and why.
BROKEN = {
    "MobileNetSSD_test_template.prototxt": "a template: num_output: cls3x",
    "tsn_bn_inception_flow_solver.prototxt": "device_id: [0,1] needs a fork's repeated device_id",
    "tsn_bn_inception_rgb_solver.prototxt": "device_id: [0,1] needs a fork's repeated device_id",
}


@needs_shared
def test_corpus_is_read() -> None:
    types = {"net": pb.NetParameter, "solver": pb.SolverParameter, "labelmap": pb.LabelMap}
    failed, unknown = set(), set()
    for row in corpus():
        path = SHARED / "corpus" / row["path"]
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        try:
            parsed = parse(text, types[row["kind"]])
        except ParseError:
            failed.add(path.name)
            continue
        unknown |= {(u.owner, u.name) for u in parsed.unknown}
        if row["bvlc_cxx"] == "yes":  # a file that real BVLC Caffe reads: all is known to us
            assert not parsed.unknown, path
    assert failed == set(BROKEN)
    assert unknown == {
        ("LayerParameter", "force_backward"),  # in a field of the net by mistake
        ("LayerParameter", "apl_param"),  # ducha-aiki's branch of APL is not public
        ("NoiseParameter", "convert_to_ycrcb"),
        ("PriorBoxParameter", "offset_w"),  # a private branch for TextBoxes
        ("PriorBoxParameter", "offset_h"),
    }


@needs_shared
def test_corpus_agrees_with_protobuf() -> None:
    checked = 0
    for row in corpus():
        path = SHARED / "corpus" / row["path"]
        kind = pb.NetParameter if row["kind"] == "net" else pb.SolverParameter
        if row["bvlc_cxx"] != "yes" or path.stat().st_size > 30_000:
            continue
        text = path.read_bytes().decode()
        assert parse(text, kind).message == text_format.Parse(text, kind())
        checked += 1
    assert checked > 100
