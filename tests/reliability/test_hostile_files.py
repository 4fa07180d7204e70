"""Every command over a folder of hostile files: one message at most, no crash, no hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import SHARED, needs_shared
from tests.reliability import hostile
from tests.reliability.forked import check, one_error, run_all

CASES = SHARED / "findings" / "cases" / "reliability"

COMMANDS: dict[str, list[str]] = {
    "show": ["show", "{}"],
    "html": ["show", "{}", "--html", "-o", "out.html"],
    "json": ["show", "{}", "--json"],
    "diff": ["diff", "{}", "net.prototxt"],
    "diff-lmdb": ["diff", "good_lmdb", "{}"],
    "diff-weights": ["diff", "good.caffemodel", "{}"],
    "lint": ["lint", "{}"],
    "github": ["lint", "--format", "github", "{}"],
    "to-h5": ["convert", "{}", "out.h5"],
    "to-mean": ["convert", "{}", "out.binaryproto"],
    "to-onnx": ["convert", "net.prototxt", "{}", "out.onnx"],
    "upgrade": ["upgrade", "{}", "out.prototxt"],
    "edit": ["edit", "{}", "--set", "name=x", "-o", "out.prototxt"],
    "plot": ["plot", "{}", "-o", "-"],
    "image-mean": ["image-mean", "{}"],
    "verify": ["db", "verify", "{}"],
    "coverage": ["layers", "--coverage", "{}"],
    "imageset": ["convert-imageset", "./", "{}", "out_lmdb"],
    "time": ["time", "{}", "--iterations", "1"],
    "test": ["test", "{}", "good.caffemodel", "-n", "1"],
    "test-weights": ["test", "net.prototxt", "{}", "-n", "1"],
    "train": ["train", "{}"],
    "train-weights": ["train", "solver.prototxt", "--weights", "{}"],
    "train-snapshot": ["train", "solver.prototxt", "--snapshot", "{}"],
    "train-data": ["train", "solver.prototxt", "--set", "layer[data].data_param.source={}"],
    "train-net": ["train", "solver.prototxt", "--set", "net={}"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    place = tmp_path_factory.mktemp("hostile")
    return place, hostile.make(place)


QUICK = ("show", "diff-lmdb", "to-h5", "train-data")  # one way through each reader


@pytest.mark.parametrize(
    "name", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in COMMANDS]
)
def test_every_command(folder: tuple[Path, list[Path]], name: str) -> None:
    place, files = folder
    commands = [[part.replace("{}", file.name) for part in COMMANDS[name]] for file in files]
    for arguments, ended in zip(commands, run_all(commands, cwd=place, seconds=100), strict=True):
        check(ended, f"{arguments}")


@pytest.mark.parametrize("what", ["show", "diff", "image-mean", "db verify"])
def test_damaged_lmdbs_are_errors(folder: tuple[Path, list[Path]], what: str) -> None:
    place, files = folder
    harmless = {"lmdb_empty", "lmdb_words", "lmdb_negative", "lmdb_bomb", "lmdb_huge"}
    damaged = [f.name for f in files if f.name.startswith("lmdb_") and f.name not in harmless]
    assert len(damaged) >= 10
    more = ["good_lmdb"] if what == "diff" else []
    commands = [[*what.split(), name, *more] for name in damaged]
    for name, ended in zip(damaged, run_all(commands, cwd=place), strict=True):
        one_error(ended, name)


@needs_shared
@pytest.mark.parametrize("case", sorted(CASES.iterdir()) if CASES.exists() else [],
                         ids=lambda p: p.name)  # fmt: skip
def test_found_cases(case: Path, tmp_path: Path) -> None:
    """The inputs that broke the first version, under the commands that they broke."""
    (tmp_path / "tnet.prototxt").write_bytes((CASES / "tnet.prototxt").read_bytes())
    commands: list[list[str | Path]] = [["show", case], ["lint", case], ["diff", case, case]]
    if case.is_dir():
        commands += [["image-mean", case], ["db", "verify", case]]
    elif case.name.startswith("s_") or "solver" in case.name:
        commands = [["train", case], *commands]
    elif case.suffix == ".prototxt":
        commands += [["time", case, "--iterations", "1"], ["show", case, "--svg"],
                     ["layers", "--coverage", case]]  # fmt: skip
    for arguments, ended in zip(commands, run_all(commands, cwd=tmp_path), strict=True):
        check(ended, f"{arguments}")
