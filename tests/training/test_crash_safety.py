"""kill -9 at any moment of training leaves whole pairs only, and the run can go on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio import load_weights
from caffeio.cli.main import main
from caffeio.errors import SnapshotError
from caffeio.proto.weights.solverstate import newest_whole_pair, read_solverstate
from caffeio.training.trainer import Trainer
from tests import warm

LONG = ["--set", "max_iter=100000", "--set", "snapshot=1", "--set", "test_interval=1000000",
        "--set", "test_initialization=false", "--set", "display=0"]  # fmt: skip


def killed_run(seconds: float) -> None:
    process = subprocess.Popen(
        **warm.caffeio("train", "solver.prototxt", "--snapshot", "auto", "-q", *LONG)
    )
    known = set(Path().glob("snap_iter_*.solverstate"))
    deadline = time.monotonic() + 90
    while set(Path().glob("snap_iter_*.solverstate")) <= known:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_kill_9_while_snapshots_are_written(training_case: Path) -> None:
    rng = random.Random(1)
    last = 0
    for _ in range(3):
        killed_run(rng.uniform(0.0, 0.3))
        for path in Path().glob("snap_iter_*.caffemodel"):
            load_weights(path)  # a file under its final name is whole
        pair = newest_whole_pair("snap")
        assert pair is not None
        assert read_solverstate(pair[0]).iter == pair[2] > last
        last = pair[2]


def test_auto_skips_a_half_written_pair(training_case: Path) -> None:
    arguments = ["train", "solver.prototxt", "--weights", "init.caffemodel", "-q"]
    short = ["--set", "max_iter=4", "--set", "snapshot=2"]
    assert CliRunner().invoke(main, [*arguments, *short]).exit_code == 0
    whole = Path("snap_iter_4.solverstate").read_bytes()
    Path("snap_iter_4.solverstate").write_bytes(whole[: len(whole) // 2])
    pair = newest_whole_pair("snap")
    assert pair is not None
    assert pair[2] == 2
    Path("snap_iter_9.solverstate").write_bytes(whole)  # its weights are another iteration's
    pair = newest_whole_pair("snap")
    assert pair is not None
    assert pair[2] == 2


def test_full_disk_is_a_message_and_training_state_survives(
    training_case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer("solver.prototxt", weights=["init.caffemodel"])
    trainer.step(3)
    good = trainer.snapshot()
    before = [Path(path).read_bytes() for path in good]
    trainer.step(2)

    def full(*args: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("write", "writev", "pwrite", "pwritev"):
            patch.setattr(os, name, full, raising=False)
        with pytest.raises(SnapshotError, match=r"[Ss]pace"):
            trainer.snapshot()
    assert [Path(path).read_bytes() for path in good] == before
    assert trainer.iter == 5
    weights, state = trainer.snapshot()
    assert read_solverstate(state).iter == 5
    assert load_weights(weights)
    assert not [p for p in Path().iterdir() if p.name.startswith(".") or p.suffix == ".tmp"]


def test_chain_skips_resumes_and_goes_on(training_case: Path) -> None:
    text = Path("solver.prototxt").read_text()
    names = []
    for i in range(3):
        name = f"solver_{i}.prototxt"
        changed = text.replace('snapshot_prefix: "snap"', f'snapshot_prefix: "p{i}"')
        assert changed != text
        Path(name).write_text(changed)
        names.append(name)
    short = ["--set", "max_iter=6", "--set", "snapshot=2", "--set", "test_interval=1000000", "-q"]
    runner = CliRunner()
    arguments = ["train", *names, "--weights", "init.caffemodel", *short]
    assert runner.invoke(main, [*arguments, "--metrics", "a.jsonl"]).exit_code == 0
    final = Path("p2_iter_6.caffemodel").read_bytes()
    for path in Path().glob("p2_iter_*"):
        path.unlink()
    for path in Path().glob("p1_iter_6.*"):
        path.unlink()
    assert runner.invoke(main, [*arguments, "--metrics", "b.jsonl"]).exit_code == 0
    lines = [json.loads(line) for line in Path("b.jsonl").read_text().splitlines()]
    phases = [(line["phase"], line["iter"]) for line in lines if "lr" in line]
    assert phases == [("solver_1.prototxt", i) for i in (4, 5)] + [
        ("solver_2.prototxt", i) for i in range(6)
    ]
    assert len(Path("p2_iter_6.caffemodel").read_bytes()) == len(final)
