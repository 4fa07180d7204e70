"""What a full disk says: the file's own name, the space, one line; and the old file stays."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffeio.net import load_net
from tests import warm
from tests.paths import ROOT
from tests.reliability.forked import one_error, run

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 300 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 300 weight_filler { type: "xavier" } } }
"""


def small_disk() -> None:
    """No file may become larger than 50 kB, in this process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("full")
    (place / "net.prototxt").write_text(NET)
    load_net(NET).save(place / "w.caffemodel")
    return place


@pytest.mark.parametrize("kind", ["pt", "h5", "safetensors", "npz", "caffemodel", "onnx"])
def test_conversions(kind: str, files: Path) -> None:
    target = f"out.{kind}"
    (files / target).write_bytes(b"old")
    sources = ["net.prototxt", "w.caffemodel"] if kind == "onnx" else ["w.caffemodel"]
    more = ["--to-dialect", "intel"] if kind == "caffemodel" else []
    before = {path.name for path in files.iterdir()}
    ended = run("convert", *sources, target, *more, "--force", cwd=files, before=small_disk)
    message = one_error(ended, target)
    assert "cannot be written" in message and "caffeio-" not in message, message
    assert (files / target).read_bytes() == b"old"
    assert {path.name for path in files.iterdir()} == before


def test_databases(files: Path) -> None:
    """An LMDB that does not fit is no LMDB, and has its name in the message."""
    import cv2

    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    cv2.imwrite(str(files / "a.png"), picture)
    (files / "list.txt").write_text("a.png 0\n" * 20)
    ended = run("convert-imageset", "./", "list.txt", "new_lmdb", cwd=files, before=small_disk)
    message = one_error(ended, "new_lmdb")
    assert "mdb_txn" not in message, message
    assert not (files / "new_lmdb").exists()


def test_a_prefix_with_a_nul(files: Path) -> None:
    solver = 'train_net: "data.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1 '
    (files / "data.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 1 } } }'
        'layer { name: "p" type: "InnerProduct" bottom: "d" top: "l" loss_weight: 1 '
        "inner_product_param { num_output: 1 axis: 0 } }"
    )
    (files / "nul.prototxt").write_text(solver + 'solver_mode: CPU snapshot_prefix: "a\\000b"')
    one_error(run("train", "nul.prototxt", cwd=files), "snapshot prefix", "NUL")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("kind", ["h5", "pt"])
def test_a_process_of_its_own_ends_with_one_line(kind: str, files: Path) -> None:
    """The HDF5 library crashed at the end of a process whose disk took no more."""
    command = [sys.executable, "-m", "caffeio", "convert", "w.caffemodel", f"own.{kind}"]

    def tiny() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=files, env=env, preexec_fn=tiny, capture_output=True,
                           text=True, check=False)  # fmt: skip
    assert ended.returncode == 2, ended
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"Error: own.{kind}: cannot be written: File too large (")
    assert not (files / f"own.{kind}").exists()


def test_a_trace_that_cannot_be_written(training_case: Path) -> None:
    """The training ends as if nothing had been asked for; torch died of a second stop."""
    script = "from caffeio.cli._profiler import Profiler; from caffeio import Trainer; " + (
        "import types; said = []; p = Profiler('no/such/place.json', said.append); "
        "t = Trainer('solver.prototxt', overrides=['max_iter=9']); p.begin(t); "
        "[(t.step(1), p.iteration({})) for _ in range(8)]; p.close(); p.close(); "
        "assert len(said) == 1 and 'cannot be written' in said[0], said"
    )
    ended = subprocess.run(
        **warm.command("-c", script), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended
