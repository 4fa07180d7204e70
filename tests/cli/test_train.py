"""`caffeio train`: metrics, progress bar, workers, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffeio.cli import _train
from caffeio.cli._watch import as_json
from caffeio.cli.main import main
from tests import warm
from tests.fresh import modules_of
from tests.paths import GOLDEN


@pytest.fixture(autouse=True)
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    shutil.copytree(GOLDEN / "solvers" / "sgd_fixed", tmp_path / "solvers" / "case")
    monkeypatch.chdir(tmp_path / "solvers" / "case")
    for path in Path().glob("snap_iter_*"):
        path.unlink()


def train(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments])


def trained(*arguments: str) -> Result:
    result = train("solver.prototxt", *arguments)
    assert result.exit_code == 0, result.output
    return result


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def entries(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def iterations(path: str) -> list[int]:
    return [entry["iter"] for entry in entries(path) if "lr" in entry]


@pytest.mark.parametrize("solvers", [["solver.prototxt"], ["other.prototxt", "solver.prototxt"]])
def test_a_solvers_gpu_is_missed_at_once(
    solvers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before torch is loaded, and before a chain trains the phases that run on the CPU."""
    text = Path("solver.prototxt").read_text()
    Path("other.prototxt").write_text(text.replace('"snap"', '"other"'))
    Path("solver.prototxt").write_text(text.replace("solver_mode: CPU", "solver_mode: GPU"))
    monkeypatch.setattr("caffeio.gpus.DEVICES", ())
    monkeypatch.setattr(_train, "worker_count", lambda options: pytest.fail("went on"))
    result = train(*solvers)
    assert result.exit_code == 2, result.output
    assert "a GPU is asked for (solver_mode: GPU at solver.prototxt:" in result.stderr


# -- metrics -----------------------------------------------------------------------------------


def test_metrics_hold_every_iteration_at_full_precision() -> None:
    trained("--weights", "init.caffemodel", "--metrics", "m.jsonl")
    lines = entries("m.jsonl")
    rows = [line for line in lines if "lr" in line]
    assert set(rows[0]) == {"iter", "lr", "loss", "images_per_s", "seconds", "phase"}
    assert iterations("m.jsonl") == list(range(25))
    wanted = np.load(GOLDEN / "solvers" / "sgd_fixed" / "losses.npy")
    np.testing.assert_allclose([row["loss"] for row in rows], wanted, rtol=1e-5)
    assert {row["lr"] for row in rows} == {0.05}  # as it is written in the solver
    tests = [line for line in lines if "test_net" in line]
    assert [line["iter"] for line in tests] == [0, 5, 10, 15, 20, 25]
    assert set(tests[0]["outputs"]) == {"accuracy", "loss"}
    assert all(row["images_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("bits", [0x3DCCCCCD, 0x00000001, 0x7F7FFFFF, 0x3F9D70A4, 0x80000000])
def test_numbers_read_back_as_the_same_float32(bits: int) -> None:
    value = np.array([bits], np.uint32).view(np.float32)[0]
    again = np.float32(json.loads(json.dumps(as_json(float(value)))))
    assert again.view(np.uint32) == bits
    assert as_json(np.array([[0.1, 2]], np.float32)) == [[0.1, 2.0]]


def test_resumed_run_replaces_what_it_does_again() -> None:
    options = ["--metrics", "m.jsonl", "--snapshot", "auto", *sets("snapshot=4", "max_iter=10")]
    trained(*options)
    first = entries("m.jsonl")
    for path in Path().glob("snap_iter_10.*"):
        path.unlink()
    with open("m.jsonl", "a") as file:
        file.write('{"iter": 99, "lr')  # killed while it wrote
    trained(*options)
    assert iterations("m.jsonl") == list(range(10))
    again = entries("m.jsonl")
    assert [e["iter"] for e in again if "test_net" in e] == [0, 5, 10]
    assert again[: len([e for e in first if e["iter"] < 8])] == [e for e in first if e["iter"] < 8]


def test_metrics_that_cannot_be_written() -> None:
    result = train("solver.prototxt", "--metrics", "no/such/folder.jsonl")
    assert result.exit_code == 2
    assert "no/such/folder.jsonl: cannot write" in result.stderr


# -- what is shown -----------------------------------------------------------------------------


def test_torchs_compiler_is_not_loaded() -> None:
    """It takes half the seconds in which a training starts, and nothing is compiled."""
    loaded = modules_of("train", "solver.prototxt", "--set", "max_iter=1", "--set", "snapshot=0")
    assert loaded.isdisjoint({"torch._dynamo", "sympy", "onnx"})
    assert sum(name.startswith("caffeio.") for name in loaded) > 50


def on_terminal(*arguments: str) -> str:
    """What the command writes to a terminal of its own."""
    outer, inner = pty.openpty()
    options = warm.caffeio(
        "train", "solver.prototxt", *arguments, env={"TERM": "xterm", "COLUMNS": "120"}
    )
    with subprocess.Popen(**options, stdout=inner, stderr=inner, stdin=inner) as process:
        os.close(inner)
        text = b""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if select.select([outer], [], [], 0.1)[0]:
                try:
                    chunk = os.read(outer, 65536)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                text += chunk
            elif process.poll() is not None:
                break
        assert process.wait(60) == 0, text.decode()
    os.close(outer)
    return text.decode()


def test_progress_bar_on_a_terminal_only() -> None:
    shown = on_terminal(
        "--log", "caffe", *sets("max_iter=800", "test_interval=100000", "display=200")
    )  # fmt: skip
    assert re.search(r"solver\.prototxt.*\d+/800.*[\d.]+ images/s.*\d:\d\d:\d\d", shown)
    assert "Iteration 200 (" in shown  # log lines are above the bar
    piped = trained(*sets("max_iter=5", "snapshot=0"))
    assert "images/s" not in piped.output
    assert "\x1b" not in piped.output


def test_quiet() -> None:
    assert trained("--quiet").output == ""
    result = train("solver.prototxt", "-q", "--weights", "none.caffemodel")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_the_log_names_the_profile() -> None:
    assert "Numbers of Caffe 'bvlc'" in trained(*sets("max_iter=1")).stderr
    result = trained("--caffe", "intel", *sets("max_iter=1"))
    assert "Numbers of Caffe 'intel'" in result.stderr
    assert "Snapshot begin" in result.stderr


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which solver?"),
        (["s", "--snapshot", "x.solverstate", "--weights", "w"], "but not both"),
        (["s", "t", "--snapshot", "auto"], "finds its snapshots by itself"),
        (["s", "-gpu", "x"], "-gpu takes 'all' or numbers"),
        (["s", "-gpu", "0,1", "--nproc", "3"], "means 2 workers"),
        (["s", "-gpu", "0", "--device", "cpu"], "contradict"),
        (["s", "--sigint-effect", "explode"], "explode"),
        (["solver.prototxt", "--set", "base_lrr=1"], "base_lrr"),
        (["solver.prototxt", "--set", "layer[nope].name=x"], "nope"),
        (["solver.prototxt", "--caffe", "torch"], "unknown profile"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str) -> None:
    result = train(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_caffes_own_spelling() -> None:
    result = train(
        "-solver", "solver.prototxt", "-weights", "init.caffemodel", "-sigint_effect", "none",
        "-stage", "a,b", "-level", "3", *sets("max_iter=1"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert '  level: 3\n  stage: "a"\n  stage: "b"\n' in result.stderr


def test_device_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "Use CPU." in trained("--device", "auto", *sets("max_iter=1", "solver_mode=GPU")).stderr
    result = train("solver.prototxt", "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cpu" in result.stderr


def test_gpus_are_counted_among_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"gpu": "1,0", "nproc": None, "device": None}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _train.worker_count(options) == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert _train.worker_count({**options, "gpu": "1"}) == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(click.UsageError, match="only 1 GPUs are visible"):
        _train.worker_count({**options, "gpu": "1"})
    assert _train.worker_count({**options, "gpu": "", "nproc": 3}) == 3


def test_a_loss_that_is_no_number_is_said_once() -> None:
    for display in ("1", "0"):
        result = train("solver.prototxt", *sets("base_lr=1e30", f"display={display}", "max_iter=6"))
        assert result.exit_code == 0, result.stderr
        said = [line for line in result.stderr.splitlines() if "NOT A NUMBER" in line]
        assert len(said) == 1
        assert "since iteration " in said[0]
