"""Log lines equal real Caffe's, line for line, but for time, thread, source line and speed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.log.glog import Log, stream_float
from tests.paths import GOLDEN

LOGS = GOLDEN / "logs"
PREFIX = re.compile(r"^([IWEF])(?:\d{4}|\d{8}) \d\d:\d\d:\d\d\.\d{6} +\d+ ([\w./]+):\d+\] ")
# What is about this machine and this moment, not about the training
PACE = re.compile(r"\(\S+ iter/s, \S+s/(\d+) iters\)")
SKIP = ("Restarting data prefetching", "Waiting for data", "I caffeio] ", "Datatype class")


def normalized(text: str, *, skip: tuple[str, ...] = SKIP) -> list[str]:
    """Lines without time, thread and line number; the pace of training is blanked out."""
    out = []
    for line in text.splitlines():
        line = PACE.sub(r"(PACE/\1 iters)", PREFIX.sub(r"\1 \2] ", line))
        if not any(word in line for word in skip):
            out.append(line.rstrip())
    return out


NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def assert_same_log(mine: str, theirs: str, absolute: float = 0.0) -> None:
    """Every line the same; numbers may differ by the rounding of float32 sums (1e-5)."""
    ours, caffes = normalized(mine), normalized(theirs)
    for a, b in zip(ours, caffes, strict=False):
        assert NUMBER.sub("#", a) == NUMBER.sub("#", b)
        numbers = [[float(x) for x in NUMBER.findall(line)] for line in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=absolute), (a, b)
    assert len(ours) == len(caffes)


def run(folder: Path, work: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copytree(GOLDEN / "solvers" / "lmdb", work / "solvers" / "lmdb")
    shutil.copytree(GOLDEN / "solvers" / "lmdb", work / "logs" / "lmdb")
    here = work / "logs" / folder.name
    shutil.copytree(folder, here)
    for path in here.glob("snap_iter_*"):
        path.unlink()
    monkeypatch.chdir(here)
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.mark.parametrize(
    "name", ["train_basic", "train_multistep_hdf5", "train_debug_info", "train_random_init"]
)
def test_training_log(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in json.loads((LOGS / "index.json").read_text())
                 if e["log"] == f"{name}/log.txt")  # fmt: skip
    mine = run(LOGS / name, tmp_path, entry["command"].split()[1:], monkeypatch)
    assert_same_log(mine, (LOGS / name / "log.txt").read_text())


def test_solver_logs_with_sharing_and_two_test_nets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shared_sgd", "two_test_nets", "iter_size3_clip"):
        folder = GOLDEN / "solvers" / name
        info = json.loads((folder / "info.json").read_text())
        work = tmp_path / name
        mine = run(folder, work, info["command"].split()[1:], monkeypatch)
        assert_same_log(mine, (folder / "log.txt").read_text())


def test_test_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for log, model in (("test.txt", "net.prototxt"), ("test_multi.txt", "multi_output.prototxt")):
        entry = next(e for e in json.loads((LOGS / "index.json").read_text())
                     if e["log"] == f"test_and_time/{log}")  # fmt: skip
        work = tmp_path / model
        mine = run(LOGS / "test_and_time", work, entry["command"].split()[1:], monkeypatch)
        assert_same_log(mine, (LOGS / "test_and_time" / log).read_text())


def test_time_log_has_caffes_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["time", "-model", "net.prototxt", "-iterations", "3"]
    mine = run(LOGS / "test_and_time", tmp_path, arguments, monkeypatch)
    theirs = (LOGS / "test_and_time" / "time.txt").read_text()

    def texts(log: str) -> list[str]:
        return [NUMBER.sub("#", line) for line in normalized(log) if "I caffe.cpp" in line]

    assert texts(mine) == texts(theirs)


def test_number_is_printed_as_cpp_streams_do() -> None:
    values = [0.0001, 1e-05, 87.33654, float("nan"), float("inf"), 1e10, 123456789.0, 0.1, -2.5]
    wanted = ["0.0001", "1e-05", "87.3365", "nan", "inf", "1e+10", "1.23457e+08", "0.1", "-2.5"]
    assert [stream_float(v) for v in values] == wanted


def test_line_has_the_prefix_that_parsers_expect() -> None:
    lines: list[str] = []
    Log(lines.append).info("solver.cpp:239", "Iteration 0, loss = 1")
    assert re.fullmatch(
        r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ solver\.cpp:239\] Iteration 0, loss = 1", lines[0]
    )


class TestParseLogContract:
    """What Caffe's tools/extra/parse_log.py reads out of a log: its own regular expressions."""

    ITERATION = re.compile(r"Iteration (\d+)")
    TRAIN = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
    TEST = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
    RATE = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")

    def read(self, text: str) -> tuple[list[tuple[int, str, float]], list[float], bool]:
        """(iteration, output, value) of all outputs, the rates, and whether a start is found."""
        iteration, rows, rates = -1, [], []
        for line in text.splitlines():
            if found := self.ITERATION.search(line):
                iteration = int(found.group(1))
            for pattern in (self.TRAIN, self.TEST):
                if found := pattern.search(line):
                    rows.append((iteration, found.group(2), float(found.group(3))))
            if found := self.RATE.search(line):
                rates.append(float(found.group(1)))
        started = any("Solving" in line and line[1:5].isdigit() for line in text.splitlines())
        return rows, rates, started

    def test_our_log_reads_as_caffes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = ["train", "-solver", "solver.prototxt", "-weights", "init.caffemodel"]
        mine = run(LOGS / "train_basic", tmp_path, arguments, monkeypatch)
        theirs = (LOGS / "train_basic" / "log.txt").read_text()
        rows, caffes = self.read(mine)[0], self.read(theirs)[0]
        assert [row[:2] for row in rows] == [row[:2] for row in caffes]
        assert [row[2] for row in rows] == pytest.approx([row[2] for row in caffes], rel=1e-5)
        assert self.read(mine)[1] == self.read(theirs)[1]
        assert self.read(mine)[2]
        assert len(self.read(mine)[0]) > 10


# -- the fork's logs ---------------------------------------------------------------------------

CHAIN = GOLDEN / "fork" / "chain" / "given"
DIALECT = GOLDEN / "fork" / "dialect" / "main"


def run_fork(
    folder: Path, work: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    shutil.copytree(folder, work / folder.name)
    monkeypatch.chdir(work / folder.name)
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stderr


def without_machine(log: str) -> str:
    return "".join(line for line in log.splitlines(keepends=True) if " cpu_info.cpp:" not in line)


def test_fork_training_log_with_folded_test_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net is printed with its splits; TEST nets are folded, at every test once more."""
    arguments = ["train", "-solver", "solver_init.prototxt", "-weights", "start.caffemodel"]
    mine = run_fork(CHAIN, tmp_path, arguments, monkeypatch)
    assert_same_log(mine, without_machine((CHAIN / "log" / "init.log").read_text()))


def test_fork_log_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = without_machine((CHAIN / "resume" / "resume_from_39.log").read_text())
    arguments = ["train", "-solver", "solver_init.prototxt"]
    arguments += ["-snapshot", "snap/init_iter_39.solverstate"]
    mine = run_fork(CHAIN, tmp_path, arguments, monkeypatch)
    assert "SGDSolver: restoring history" in mine
    cut = "Iteration 45, lr"  # the rest is as in the run above
    assert_same_log(mine.partition(cut)[0], theirs.partition(cut)[0])


def test_fork_scoring_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["test", "-model", "net.prototxt", "-weights", "start.caffemodel"]
    mine = run_fork(CHAIN, tmp_path, [*arguments, "-iterations", "4"], monkeypatch)
    assert_same_log(mine, without_machine((CHAIN / "log" / "caffe_test_start.log").read_text()))


def net_text(log: str) -> str:
    """The text of the net, which the fork writes to stdout: it is not in the recorded log."""
    start = re.search(r"net\.cpp:207\] \n", log)
    end = re.search(r"^I\d{4} .* Creating layer data$", log, re.MULTILINE)
    assert start is not None
    assert end is not None
    return log[start.end() : end.start()]


@pytest.mark.parametrize("name", ["fork", "bvlc"])
def test_log_of_the_same_run_by_both_caffes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six iterations from a random start; the loss falls to 1e-4, where 1e-7 is a rounding."""
    mine = run_fork(DIALECT / name, tmp_path, ["train", "-solver", "solver.prototxt"], monkeypatch)
    theirs = without_machine((DIALECT / name / "train.log").read_text())
    if name == "fork":
        text = net_text(mine)
        assert text.startswith('name: "dialect"\nstate {\n  phase: TRAIN')
        pads = "    pool: AVE\n    pad: 1\n    kernel_size: 3"  # the fork's own order of fields
        assert pads in text
        mine = mine.replace(text, "")
    assert_same_log(mine, theirs, absolute=1e-6)
