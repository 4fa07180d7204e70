"""The work on a net grows with its length, and no faster: each function's lines are counted."""

from __future__ import annotations

import contextlib
import gc
import io
import os
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
nightly = pytest.mark.skipif("CAFFEIO_NIGHTLY" not in os.environ, reason="runs at night")


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
    plain = re.compile(r"\x1b\[[0-9;]*m")  # rich colours the spaces too
    assert plain.sub("", fast) == plain.sub("", short)


def test_the_collector_is_as_before() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
