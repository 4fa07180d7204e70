from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from caffeio.cli.main import main

SOLVER = "# a solver\r\nnet: 'n.prototxt'\r\nbase_lr: 0.1   # the rate\r\nstepvalue: 10\r\n"


def run(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["edit", *args], input=stdin)


@pytest.fixture
def solver(tmp_path: Path) -> Path:
    path = tmp_path / "solver.prototxt"
    path.write_bytes(SOLVER.encode())
    return path


def test_writes_back_only_what_is_asked_for(solver: Path) -> None:
    result = run(str(solver), "base_lr=0.5", "stepvalue+=20", "--remove", "net")
    assert (result.exit_code, result.output) == (0, "")
    expected = "# a solver\r\nbase_lr: 0.5   # the rate\r\nstepvalue: 10\r\nstepvalue: 20\r\n"
    assert solver.read_bytes() == expected.encode()
    assert list(solver.parent.iterdir()) == [solver]


def test_output_to_another_file(solver: Path) -> None:
    out = solver.with_name("new.prototxt")
    assert run(str(solver), "base_lr=0.5", "-o", str(out)).exit_code == 0
    assert solver.read_bytes() == SOLVER.encode()
    assert out.read_bytes() == SOLVER.replace("0.1", "0.5").encode()
    assert run(str(solver), "base_lr=0.7", "-o", "-").stdout_bytes == out.read_bytes().replace(
        b"0.5", b"0.7"
    )


def test_pipe() -> None:
    result = run("-", "base_lr=1e-3", stdin=SOLVER.encode() + b"# \xff\xfe\r\n")
    assert result.stdout_bytes == SOLVER.replace("0.1", "1e-3").encode() + b"# \xff\xfe\r\n"


def test_diff_writes_nothing(solver: Path) -> None:
    result = run(str(solver), "base_lr=0.5", "--diff")
    assert result.exit_code == 0
    assert "-base_lr: 0.1   # the rate" in result.output
    assert "+base_lr: 0.5   # the rate" in result.output
    assert solver.read_bytes() == SOLVER.encode()
    assert run(str(solver), "base_lr=0.1", "--diff").output == ""


def test_same_value_leaves_the_file_alone(solver: Path) -> None:
    before = solver.stat().st_ino
    assert run(str(solver), "base_lr=0.1", "--in-place").exit_code == 0
    assert solver.stat().st_ino == before


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["base_lr=x"], 2, "base_lr: expected a number, found x"),
        (["bas_lr=1"], 2, "did you mean base_lr?"),
        (["layer[a].name=x"], 2, "SolverParameter has no field 'layer'"),
        (["base_lr"], 2, "expected KEY=VALUE"),
        (["--remove", "gamma"], 2, "gamma: nothing matches"),
        ([], 2, "Nothing to do"),
        (["base_lr=1", "-i", "-o", "x"], 2, "exclude each other"),
    ],
)
def test_mistakes(solver: Path, args: list[str], code: int, message: str) -> None:
    result = run(str(solver), *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert solver.read_bytes() == SOLVER.encode()


def test_broken_or_missing_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.prototxt"
    broken.write_text("layer {\n  name: 'a'\n")
    result = run(str(broken), "name=x")
    assert result.exit_code == 2
    assert f'{broken}:3:1: expected "}}" to close layer of line 1' in result.stderr
    assert "there is no such file" in run(str(tmp_path / "nope"), "name=x").stderr
    (tmp_path / "bin").write_bytes(b"\x00\x01")
    assert "is a binary file" in run(str(tmp_path / "bin"), "name=x").stderr


def test_nets_and_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "a" } # x\nlayer { name: "b" foo: 1 }')
    assert run(str(path), "layer[b].foo=2", "layer[a].type=ReLU", "name=n").exit_code == 0
    expected = 'layer { name: "a" type: "ReLU" } # x\nlayer { name: "b" foo: 2 }\nname: "n"'
    assert path.read_text() == expected
    path.write_text("item { name: 'a' label: 1 }")
    assert run(str(path), "item[a].label=2").exit_code == 0
    assert path.read_text() == "item { name: 'a' label: 2 }"


def test_help_shows_keys() -> None:
    text = run("--help").output
    assert "layer[conv1].name" in text
    assert "Examples:" in text


def test_loads_nothing_heavy(solver: Path) -> None:
    code = (
        "import sys; from caffeio.cli.main import main\n"
        f"try: main(['edit', {str(solver)!r}, 'base_lr=0.2'])\n"
        "except SystemExit as e: assert not e.code\n"
        "print([m for m in ('torch', 'onnx', 'numpy', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
