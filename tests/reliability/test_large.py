"""The work on a net, or its weights, grows with the length, and no faster: lines are counted."""

from __future__ import annotations

import contextlib
import gc
import io
import re
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest
from rich.color import ColorSystem

from caffeio.cli.main import main
from caffeio.converters.report import text as report_text
from caffeio.converters.report.model import Cell, Table
from caffeio.memory import collector_paused
from caffeio.net import load_net
from caffeio.proto.io.varint import varint
from caffeio.proto.io.wire import FIXED32, bytes_field, bytes_header, tag
from caffeio.proto.weights.load import load_weights
from tests.paths import nightly
from tests.reliability import large

KINDS = [*large.KINDS, "wide", "stages"]
COMMANDS: dict[str, list[str]] = {
    "show": ["show", "a.prototxt"],
    "tree": ["show", "a.prototxt", "--tree"],
    "json": ["show", "a.prototxt", "--json"],
    "html": ["show", "a.prototxt", "--html", "-o", "o.html"],
    "svg": ["show", "a.prototxt", "--svg", "-o", "o.svg"],
    "dot": ["show", "a.prototxt", "--dot", "-o", "o.dot"],
    "lint": ["lint", "a.prototxt"],
    "sarif": ["lint", "a.prototxt", "--format", "sarif"],
    "target": ["lint", "a.prototxt", "--target", "bvlc-1.0"],
    "diff": ["diff", "a.prototxt", "b.prototxt"],
    "page": ["diff", "a.prototxt", "b.prototxt", "--format", "html"],
    "upgrade": ["upgrade", "a.prototxt", "o.prototxt"],
    "edit": ["edit", "a.prototxt", "name=x", "-o", "o.prototxt"],
    "deploy": ["convert", "a.prototxt", "o.prototxt", "--deploy", "--force"],
    "dialect": ["convert", "a.prototxt", "o.prototxt", "--to-dialect", "bvlc", "--force"],
    "weights": ["convert", "a.prototxt", "o.caffemodel", "--untrained", "--force"],
    "onnx": ["convert", "a.prototxt", "o.onnx", "--untrained", "--force"],
    "coverage": ["layers", "--coverage", "a.prototxt"],
    "load": [],
}
PUSHED = ("show", "lint", "diff", "load")


def write(kind: str, count: int) -> None:
    """Nets of that length; the second has other layers here and there."""
    text = getattr(large, kind)(count) if kind in ("wide", "stages") else large.net(kind, count)
    Path("a.prototxt").write_text(text)
    changed = text.replace('"ReLU"', '"TanH"').replace("num_output: 3", "num_output: 4", 7)
    Path("b.prototxt").write_text(changed)


def command(name: str) -> Callable[[], object]:
    def run() -> object:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if name == "load":
                return load_net("a.prototxt", phase="TRAIN")
            try:
                main([*COMMANDS[name]], prog_name="caffeio")
            except SystemExit as end:
                assert end.code in (0, 1, 2, None)
        return None

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(c, marks=() if c in PUSHED else nightly) for c in COMMANDS]
)
def test_no_function_looks_at_all_for_each(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def make(kind: str, count: int) -> Callable[[], object]:
        write(kind, count)
        return command(name)

    for kind in KINDS:
        assert large.grows(lambda count, kind=kind: make(kind, count)) == [], kind  # type: ignore[misc]


def test_the_count_finds_what_is_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffeio.visible import visible

    def all_for_each(count: int) -> Callable[[], object]:
        return lambda: [visible("a\n" * count) for _ in range(count)]

    [found] = large.grows(all_for_each)
    assert "visible" in found


@nightly
@pytest.mark.parametrize("kind", large.KINDS)
@pytest.mark.parametrize("name", PUSHED)
def test_time(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a count of lines does not see: lists that are copied, looked through, joined."""
    monkeypatch.chdir(tmp_path)
    spent = []
    for count in (200, 4_000, 16_000):
        write(kind, count)
        begin = process_time()
        command(name)()
        spent.append(process_time() - begin)
    assert spent[2] < 7 * spent[1]


def blob(count: int, *, odd: bool = False) -> bytes:
    """A BlobProto of `count` floats; `odd`: one by one, packed and unpacked in turn."""
    shape = bytes_field(7, bytes_field(1, varint(count)))
    if not odd:
        return shape + bytes_field(5, bytes(4 * count))
    return shape + b"".join(
        bytes_field(5, bytes(4)) if i % 2 else tag(5, FIXED32) + bytes(4) for i in range(count)
    )


def layer(name: str, blobs: list[bytes]) -> bytes:
    parts = bytes_field(1, name.encode()) + bytes_field(2, b"InnerProduct")
    return bytes_field(100, parts + b"".join(bytes_field(7, one) for one in blobs))


ODD = {
    "unpacked floats": lambda n: layer("a", [blob(n, odd=True)]),
    "blobs": lambda n: layer("a", [blob(1)] * n),
    "layers": lambda n: b"".join(layer(f"l{i}", [blob(2)]) for i in range(n)),
    "layers of one name": lambda n: b"".join(layer("l", [blob(2)]) for _ in range(n)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_weights_take_linear_work(name: str, tmp_path: Path) -> None:
    def used(count: int) -> dict[object, int]:
        path = tmp_path / f"{count}.caffemodel"
        path.write_bytes(ODD[name](count))

        def read() -> None:
            weights = load_weights(path)
            for index in range(len(weights.layers)):
                weights.arrays(index)

        return dict(large.work(read))

    used(50)
    few, many = used(200), used(800)
    for code, count in many.items():
        assert count < 2000 or count < 5 * few.get(code, 1), code


def test_weights_of_four_gigabytes(tmp_path: Path) -> None:
    """A legal file that is nearly all hole is opened at once, and its blob is a view of it."""
    count = (1 << 30) - 1000
    head = bytes_field(7, bytes_field(1, varint(count))) + bytes_header(5, 4 * count)
    name = bytes_field(1, b"a") + bytes_field(2, b"InnerProduct")
    inner = name + bytes_header(7, len(head) + 4 * count) + head
    start = bytes_header(100, len(inner) + 4 * count) + inner
    with (tmp_path / "big.caffemodel").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * count)
    weights = load_weights(tmp_path / "big.caffemodel")
    [values] = weights.arrays(0)
    assert values.shape == (count,) and not values.flags.owndata
    assert values[0] == values[-1] == 0


TABLE = Table(
    columns=("name", "count", "what"),
    rows=[
        (Cell(f"layer{i} " * (i % 3 + 1), "bad"), Cell(str(7 * i)), Cell("日本" if i % 5 else "x"))
        for i in range(40)
    ],
    right=frozenset({1}),
)


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("width", [100, 24])
def test_long_tables_look_like_short_ones(
    width: int, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = []
    for many in (1000, 0):
        monkeypatch.setattr(report_text, "_MANY", many)
        outs.append(io.StringIO())
        console = report_text.make_console(outs[-1], width)
        if colours:
            console._color_system = ColorSystem.STANDARD
        report_text._print_table(console, TABLE, 20)
    short, fast = (out.getvalue() for out in outs)
    assert ("\x1b[1;31mlayer" in fast) == colours
    hidden = re.compile(r"\x1b\[[0-9;]*m")  # rich colours the spaces too
    ends = re.compile(" +$", re.MULTILINE)  # and some of its releases pad the last column
    plain = [ends.sub("", hidden.sub("", text)) for text in (fast, short)]
    assert plain[0] == plain[1] and plain[0].count("\n") > 20


def test_the_collector_is_as_before() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
