from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from caffeio.cli.main import main
from tests.paths import GOLDEN

FOLDER = GOLDEN / "logs" / "upgrade"


def run(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["upgrade", *args], input=stdin)


@pytest.mark.parametrize(
    "name",
    [
        "v0_0.prototxt", "v1_0.prototxt", "mixed_0.prototxt", "solver_0.prototxt",
        "solver_1.prototxt", "old_v0.caffemodel", "old_v1.caffemodel",
    ],
)  # fmt: skip
def test_files_are_those_of_caffes_tools(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    result = run(str(FOLDER / name), str(out))
    assert result.exit_code == 0
    stem, _, suffix = name.partition(".")
    assert out.read_bytes() == (FOLDER / f"{stem}.upgraded.{suffix}").read_bytes()
    assert f"{name}: " in result.stderr


def test_says_what_it_did(tmp_path: Path) -> None:
    result = run(str(FOLDER / "mixed_0.prototxt"), str(tmp_path / "out"))
    assert [line.partition(": ")[2] for line in result.stderr.splitlines()] == [
        "2 input fields to an Input layer",
        "1 BatchNorm layers: lr_mult 0 and decay_mult 0 for statistics",
    ]
    assert run("-q", str(FOLDER / "mixed_0.prototxt"), str(tmp_path / "out")).output == ""
    quiet = run("-q", str(FOLDER / "v1_0.prototxt"), str(tmp_path / "out"), "--dialect", "sara")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_what_needs_nothing_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    data = b"# a comment\r\nlayer { name: 'a' } # \xff"
    path.write_bytes(data)
    result = run(str(path), str(path))
    assert "is in today's form: copied as it is" in result.stderr
    assert path.read_bytes() == data
    assert run("-", "-", stdin=data).stdout_bytes == data


def test_pipe() -> None:
    result = run("-", "-", stdin=b"solver_type: ADAM")
    assert result.stdout == 'type: "Adam"\n'
    data = (FOLDER / "old_v1.caffemodel").read_bytes()
    result = run("-", "-", stdin=data)
    assert result.stdout_bytes == (FOLDER / "old_v1.upgraded.caffemodel").read_bytes()


def test_problems_are_told_and_give_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("layers { layer { type: 'relu' name: 'r' num_output: 3 } }")
    result = run(str(path), str(path))
    assert result.exit_code == 1
    assert "warning: Unknown parameter num_output for layer type relu" in result.stderr
    assert path.read_text() == 'layer {\n  name: "r"\n  type: "ReLU"\n}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers { } layer { }", "both `layer` (current) and `layers`"),
        ("layers { type: FOO", 'expected "}" to close layers'),
        ("type: 'SGD' solver_type: ADAM", "both solver_type"),
        ("item { name: 'a' }", "is a label map"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    result = run(str(path), str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == [path]
    assert str(path) in result.stderr
