"""Several workers: gradients are averaged, signals reach all, one failure ends the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from caffeio import load_weights
from caffeio.data.cores import local_world
from caffeio.training import launch as launch_module
from caffeio.training.launch import launch
from tests import warm
from tests.paths import GOLDEN

SOLVERS = GOLDEN / "solvers"


def command(*arguments: str) -> dict[str, Any]:
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return warm.caffeio(*arguments) | pipes


def caffeio(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(*arguments), timeout=120, check=False)


def halve_batches(path: Path) -> None:
    net = path / "net.prototxt"
    text = net.read_text()
    assert "batch_size: 10" in text
    net.write_text(text.replace("batch_size: 10", "batch_size: 5", 1))


WORKER = """
import os, sys
import torch
import torch.distributed as dist
from caffeio.training.distributed import World
from caffeio.training.events import Action

rank = int(os.environ["RANK"])
foreign = sys.argv[1] == "foreign"
if foreign:
    dist.init_process_group("gloo")
world = World.init("cpu")
assert (world.rank, world.size) == (rank, 2)
both = world.all_reduce_actions((Action.SNAPSHOT, Action.STOP)[rank])
assert both == Action.SNAPSHOT | Action.STOP, both
assert world.all_reduce_actions(Action.NONE) is Action.NONE
late = [world.exchange_actions(Action.SNAPSHOT if (rank, i) == (1, 1) else Action.NONE, now=i == 3)
        for i in range(4)]
assert late == [Action.NONE, Action.NONE, Action.SNAPSHOT, Action.NONE], late
late = [world.exchange_actions(Action.STOP if rank == 0 else Action.NONE, now=True)]
assert late + world.wishes.pending == [Action.STOP], late
told = [i for i in range(300)
        if world.exchange_actions(Action(int((rank, i) == (1, 100))), now=i == 299)]
assert len(told) == 1 and 100 < told[0] <= 100 + 2 * 64, told
assert world.broadcast((told, world.wishes.every)) == (told, world.wishes.every)
assert 1 <= world.wishes.every <= 64
assert world.all_reduce_any(rank == 1) and not world.all_reduce_any(False)
assert world.broadcast("mine" if rank == 0 else "theirs") == "mine"
numbers = torch.tensor([1.0, 2.0]) * (rank + 1)
world.all_reduce_mean([numbers])
assert numbers.tolist() == [1.5, 3.0]
other = world.on("cpu")
other.barrier()
other.shutdown()
assert dist.is_initialized()
world.shutdown()
world.shutdown()
assert dist.is_initialized() == foreign
"""


@pytest.mark.parametrize("group", ["own", "foreign"])
def test_workers_agree_and_leave_what_is_not_theirs(group: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    workers = []
    for rank in range(2):
        env = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        options = warm.command(str(script), group, env=env)
        workers.append(subprocess.Popen(**options, text=True, stderr=subprocess.PIPE))
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors


class FakeWorker:
    """A process whose exit codes are given; one a rank."""

    pid = 4242

    codes: ClassVar[list[int | None]] = []
    all: ClassVar[list[FakeWorker]] = []

    def __init__(self, command: list[str], env: dict[str, str], **options: Any) -> None:
        if len(self.all) == len(self.codes):
            raise OSError(11, "Resource temporarily unavailable")
        self.code = self.codes[len(self.all)]
        self.signals: list[int] = []
        self.all.append(self)

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.mark.parametrize(
    ("codes", "found"), [([0, 0], 0), ([None, 2], 2), ([None, -9], 137), ([-11, None], 139)]
)
def test_the_code_of_the_first_worker_that_fails_is_that_of_the_run(
    codes: list[int | None], found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a signal ended has 128 and the signal's number, as in a shell; the others end."""
    monkeypatch.setattr(FakeWorker, "codes", codes)
    monkeypatch.setattr(FakeWorker, "all", [])
    monkeypatch.setattr(launch_module, "_LAST_WORDS", 0.1)
    monkeypatch.setattr(launch_module, "_PATIENCE", 0.1)
    monkeypatch.setattr(subprocess, "Popen", FakeWorker)
    assert launch(2, ["train"]) == found
    running = [worker for worker in FakeWorker.all if worker.code is None]
    assert all(worker.signals == [signal.SIGKILL] for worker in running)


def test_workers_end_if_one_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWorker, "codes", [None])
    monkeypatch.setattr(FakeWorker, "all", [])
    monkeypatch.setattr(subprocess, "Popen", FakeWorker)
    with pytest.raises(OSError, match="temporarily"):
        launch(2, ["train"])
    assert [worker.signals for worker in FakeWorker.all] == [[signal.SIGKILL]]


def test_workers_of_one_machine_know_how_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes its share of the cores for decoding, not all of them."""
    environments: list[dict[str, str]] = []

    class Worker:
        returncode = pid = 0

        def __init__(self, command: list[str], env: dict[str, str], **options: Any) -> None:
            environments.append(env)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Worker)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch(3, ["train"]) == 0
    assert [env["OMP_NUM_THREADS"] for env in environments] == ["2"] * 3
    assert [env["LOCAL_WORLD_SIZE"] for env in environments] == ["3"] * 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", environments[0]["LOCAL_WORLD_SIZE"])
    assert local_world() == 3


def test_two_workers_are_one_with_twice_the_batch(training_case: Path) -> None:
    """BVLC deals records out one by one: two workers of 5 see what one of 10 sees."""
    arguments = ("train", "solver.prototxt", "--weights", "init.caffemodel")
    one = caffeio(*arguments, "--metrics", "one.jsonl")
    assert one.returncode == 0, one.stderr
    final = next(Path().glob("snap_iter_*5.caffemodel"))
    alone = {k: [b.copy() for b in v] for k, v in load_weights(final).items()}
    halve_batches(training_case)
    two = caffeio(*arguments, "--nproc", "2", "--metrics", "two.jsonl")
    assert two.returncode == 0, two.stderr
    for layer, blobs in load_weights(final).items():
        for mine, wanted in zip(blobs, alone[layer], strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-6)
    lines = [json.loads(line) for line in Path("two.jsonl").read_text().splitlines()]
    assert sum("lr" in line for line in lines) == 25


def test_gradients_travel_in_sixteen_bits(training_case: Path) -> None:
    """The mean gradient is rounded to the type's 8 or 11 bits, in buckets of all sizes."""
    settings = ("max_iter=1", "momentum=0", "weight_decay=0", "lr_policy=fixed", "base_lr=1",
                "test_interval=1000", "test_initialization=false", "snapshot=0")  # fmt: skip
    changes = [word for setting in settings for word in ("--set", setting)]
    arguments = ("train", "solver.prototxt", "--weights", "init.caffemodel", "--nproc", "2")
    found = {}
    for kind in ("fp32", "bf16", "fp16"):
        run = caffeio(*arguments, *changes, "--set", f"snapshot_prefix={kind}", "--gradients", kind)
        assert run.returncode == 0, run.stderr
        found[kind] = load_weights(f"{kind}_iter_1.caffemodel")
    first = load_weights("init.caffemodel")
    for kind, loose in (("bf16", 2e-2), ("fp16", 2e-3)):
        different = 0.0
        for layer, blobs in found["fp32"].items():
            for exact, rounded, old in zip(blobs, found[kind][layer], first[layer], strict=True):
                update = np.abs(exact - old).max()
                np.testing.assert_allclose(rounded, exact, rtol=0, atol=loose * update + 1e-7)
                different = max(different, float(np.abs(rounded - exact).max()))
        assert different > 0


def test_error_of_all_workers_ends_the_run(training_case: Path) -> None:
    """One that is found before there are workers is said once; another by each of them."""
    run = caffeio("train", "solver.prototxt", "--weights", "none.caffemodel", "--nproc", "2")
    assert run.returncode == 2
    assert re.search(r"^Error: .*none\.caffemodel", run.stderr, re.MULTILINE)
    crop = "layer[data].transform_param.crop_size=9999"
    run = caffeio("train", "solver.prototxt", "--set", crop, "--nproc", "2")
    assert run.returncode == 2
    assert re.search(r"^Error \(worker [01]\): .*crop_size", run.stderr, re.MULTILINE)


def test_signal_stops_all_workers_with_a_snapshot(training_case: Path) -> None:
    settings = ["max_iter=1000000", "display=0", "test_interval=1000000", "snapshot=0"]
    changes = [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen(
        **command("train", "solver.prototxt", "--nproc", "2", "--metrics", "m.jsonl", *changes)
    )
    deadline = time.monotonic() + 60
    while not (Path("m.jsonl").exists() and Path("m.jsonl").stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    [state] = Path().glob("snap_iter_*.solverstate")
    assert state.with_suffix(".caffemodel").exists()


def test_intels_workers_test_shares_and_save_their_mean_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rate 0, a chain of two workers sees what one of twice the batch sees."""
    shutil.copytree(SOLVERS / "bn_sgd", tmp_path / "solvers" / "bn_sgd")
    shutil.copytree(SOLVERS / "lmdb", tmp_path / "solvers" / "lmdb")
    monkeypatch.chdir(tmp_path / "solvers" / "bn_sgd")
    text = Path("solver.prototxt").read_text()
    assert text.count('snapshot_prefix: "snap"') == 1
    for i in range(2):
        Path(f"s{i}.prototxt").write_text(text.replace('"snap"', f'"p{i}"'))
    common = ["train", "--weights", "init.caffemodel", "--caffe", "intel", "--set", "base_lr=0"]
    common += ["--set", "max_iter=1", "--set", "snapshot=0", "--set", "test_interval=1"]
    one = caffeio(*common, "s0.prototxt", "--set", "test_iter[0]=6", "--metrics", "one.jsonl")
    assert one.returncode == 0, one.stderr
    alone = [np.array(blob) for blob in load_weights("p0_iter_1.caffemodel")["bn1"]]
    Path("p0_iter_1.caffemodel").unlink()
    halve_batches(Path())
    both = ["s0.prototxt", "s1.prototxt", "--nproc", "2", "--set", "test_iter[0]=3"]
    two = caffeio(*common, *both, "--metrics", "two.jsonl")
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("Iteration 0, lr = 0") == 2  # the root alone writes, once a phase
    together = load_weights("p0_iter_1.caffemodel")["bn1"]
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)
    np.testing.assert_array_equal(together[2], alone[2])
    assert not np.allclose(together[1], alone[1], rtol=1e-5)  # the spread of the means is lost
    results = []
    for name in ("one.jsonl", "two.jsonl"):
        lines = [json.loads(line) for line in Path(name).read_text().splitlines()]
        results.append(next(line for line in lines if "test_net" in line)["outputs"])
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("profile", "shared"), [("nvidia", True), ("bvlc", False)])
def test_who_tests(training_case: Path, profile: str, shared: bool) -> None:
    """NVIDIA's workers test shares of the records; BVLC's root tests alone, on all of them."""
    common = ["train", "solver.prototxt", "--weights", "init.caffemodel", "--caffe", profile]
    common += ["--set", "base_lr=0", "--set", "max_iter=1", "--set", "snapshot_after_train=false"]
    common += ["--set", "test_interval=1", "--device", "cpu"]
    counts = (10, 10) if shared else (6, 6)  # 10 batches are all records, from whichever on
    for workers, count, name in zip(("1", "2"), counts, ("one", "two"), strict=True):
        more = ["--set", f"test_iter[0]={count}", "--metrics", f"{name}.jsonl"]
        run = caffeio(*common, *more, "--nproc", workers)
        assert run.returncode == 0, run.stderr
    results = []
    for name in ("one.jsonl", "two.jsonl"):
        lines = [json.loads(line) for line in Path(name).read_text().splitlines()]
        results.append([line for line in lines if "test_net" in line][-1]["outputs"])
    assert len(results[0]) > 1
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=1e-5 if shared else 1e-7)


def test_nvidias_workers_share_a_batch(training_case: Path) -> None:
    """Two of them train and test as one does, with the same files; three are refused."""
    common = ["train", "solver.prototxt", "--weights", "init.caffemodel", "--caffe", "nvidia"]
    found, tests = [], []
    for workers in ("1", "2"):
        metrics = Path(f"{workers}.jsonl")
        run = caffeio(*common, "--nproc", workers, "--metrics", str(metrics))
        assert run.returncode == 0, run.stderr
        said = "batch_size is that of all 2 workers together"
        assert (said in run.stderr) == (workers == "2")
        final = next(Path().glob("snap_iter_*5.caffemodel"))
        found.append({k: [np.array(b) for b in v] for k, v in load_weights(final).items()})
        final.unlink()
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        steps = [line for line in lines if "lr" in line]
        assert len(steps) == 25
        for step in steps:
            assert step["images_per_s"] * step["seconds"] == pytest.approx(10, rel=1e-2)
        tests.append([line["outputs"] for line in lines if "test_net" in line])
    for layer, blobs in found[1].items():
        for mine, wanted in zip(blobs, found[0][layer], strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-6)
    assert len(tests[0]) == len(tests[1]) > 3
    for alone, together in zip(*tests, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    before = set(Path().iterdir())
    run = caffeio(*common, "--nproc", "3")
    assert run.returncode == 2
    assert run.stderr.count("Error") == 1
    assert "layer 'data': data_param.batch_size 10 is the batch of all workers" in run.stderr
    assert set(Path().iterdir()) == before


def test_a_later_phase_that_cannot_share_its_batch_is_refused_first(training_case: Path) -> None:
    """Before the first phase trains: also where torchrun counts the workers."""
    text, net = Path("solver.prototxt").read_text(), Path("net.prototxt").read_text()
    Path("net1.prototxt").write_text(net.replace("batch_size: 20", "batch_size: 21"))
    Path("s1.prototxt").write_text(
        text.replace('"net.prototxt"', '"net1.prototxt"').replace('"snap"', '"p1"')
    )
    common = ("train", "solver.prototxt", "s1.prototxt", "--caffe", "nvidia", "--nproc", "2")
    for more in ((), ("--dry-run",)):
        run = caffeio(*common, *more)
        assert run.returncode == 2
        assert "net1.prototxt:3:1: layer 'data': data_param.batch_size 21" in run.stderr
    assert not list(Path().glob("*_iter_*.solverstate"))
