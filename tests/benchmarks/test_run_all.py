"""`make bench`: every script runs, and the page gets what they print, with machine and versions."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import ROOT


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def script(name: str = "run_all") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_scripts_are_found_and_make_runs_them() -> None:
    found = script().scripts()
    assert {"train", "inference", "data", "text", "weights", "solver"} <= found.keys()
    assert list(found)[:4] == ["caffe", "inference", "train", "compile"]
    assert all((ROOT / "benchmarks" / command[0]).exists() for command in found.values())
    assert "benchmarks/run_all.py" in (ROOT / "Makefile").read_text()


def test_the_page_keeps_what_did_not_run() -> None:
    put, marks = script().put, script().MARKS
    page = f"# Speed\n\n{marks[0]}{marks[1]}\n## Further\n"
    page = put(page, "bench_b.py", "\nmachine one\n\n```text\n1.5\n```\n")
    page = put(page, "bench_a.py", "\nmachine two\n\n```text\n0.9\n```\n")
    page = put(page, "bench_b.py", "\nmachine two\n\n```text\n1.7\n```\n")
    assert page.startswith("# Speed\n") and page.endswith("\n## Further\n")
    assert page.index("### bench_a.py") < page.index("0.9") < page.index("### bench_b.py")
    assert "1.7" in page and "1.5" not in page and page.count("machine two") == 2
    assert put(page, "bench_b.py", "\nmachine two\n\n```text\n1.7\n```\n") == page


def test_the_real_page_has_a_place_for_them() -> None:
    module = script()
    page = module.PAGE.read_text()
    assert page.index(module.MARKS[0]) < page.index(module.MARKS[1])
    assert page.index(module.SUMMARY[0]) < page.index(module.SUMMARY[1])
    assert module.sum_up(page, "| a |").count("| a |") == 1
    assert "torch 2" in module.machine() and "cores" in module.machine()


def folder_of(scripts: dict[str, str], place: Path) -> list[str | Path]:
    """Write the scripts of another `benchmarks/` and its page; return the command that runs it."""
    for name, text in scripts.items():
        (place / f"bench_{name}.py").write_text(text)
    for name in ("run_all.py", "summary.py"):
        (place / name).write_text((ROOT / "benchmarks" / name).read_text())
    module = script()
    (place / "page.md").write_text("".join((*module.SUMMARY, *module.MARKS)))
    return [sys.executable, place / "run_all.py", "--page", place / "page.md"]


FIGURES = """
from summary import faster, figure
print("ratio 1.25")
faster("a step", "another", "at least 1.3", [4.0, 5.0, 7.0], [5.0, 6.5, 8.0])
figure("memory", "another", "at most 1.02", 1.024, 1.024)
"""


def test_a_script_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    """Told of the scripts of another folder."""
    command = folder_of({"a": "raise SystemExit(3)", "b": FIGURES}, tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    page = (tmp_path / "page.md").read_text()
    assert done.returncode == 1 and "failed: bench_a.py" in done.stderr
    assert "ratio 1.25" in page and "### bench_a" not in page
    assert "| a step | another | at least 1.3 | 1.25 | 1.30 | by medians |" in page
    assert "| memory | another | at most 1.02 | 1.02 | 1.02 | yes |" in page
    assert "Not in it: bench_a.py." in page


def test_the_summary_is_of_one_whole_run(tmp_path: Path) -> None:
    """Some of the scripts leave it alone; another whole run replaces it."""
    command = folder_of({"a": FIGURES, "b": "print(1)"}, tmp_path)
    page = tmp_path / "page.md"
    subprocess.run([*command, "a"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert "ratio 1.25" in page.read_text() and "a step" not in page.read_text()
    for _ in range(2):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        assert page.read_text().count("| a step |") == 1


@pytest.mark.parametrize(
    ("asked", "low", "middle", "met"),
    [
        ("", 0.1, 0.1, ""),
        ("at least 1.0", 0.996, 1.2, "yes"),  # as printed: 1.00
        ("at least 1.0", 1.01, 0.99, "by minima"),
        ("at least 1.0", 0.99, 1.01, "by medians"),
        ("at least 1.15", 1.14, 1.1, "**short**"),
        ("at most 1.02", 1.03, 1.04, "**short**"),
    ],
)
def test_a_figure_is_held_against_what_was_asked(
    asked: str, low: float, middle: float, met: str
) -> None:
    assert script("summary").verdict(asked, low, middle) == met


def test_added_times_that_noise_turns_around_are_not_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plain loop that an exchange makes faster, ours / it would be below 0."""
    monkeypatch.setenv("BENCH_ROWS", str(tmp_path / "rows"))
    took = {"caffeio alone": 7.0, "plain alone": 6.0, "caffeio": 8.0, "plain": 5.9}
    times = {kind: [(ms, ms)] * 3 for kind, ms in took.items()}
    script("bench_ddp").tell_overhead("lenet", 2, 16, times)
    [row] = map(json.loads, (tmp_path / "rows").read_text().splitlines())
    assert script("summary").verdict(row["asked"], row["low"], row["middle"]) == "**short**"


def test_what_an_exchange_adds_is_told_round_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow spell that meets both in one round adds nothing."""
    monkeypatch.setenv("BENCH_ROWS", str(tmp_path / "rows"))
    spell = [0.0, 9.0, 4.0]
    took = {"caffeio alone": 7.0, "plain alone": 6.0, "caffeio": 10.0, "plain": 8.0}
    times = {kind: [(ms + more, ms) for more in spell] for kind, ms in took.items()}
    script("bench_ddp").tell_overhead("lenet", 2, 16, times)
    [row] = map(json.loads, (tmp_path / "rows").read_text().splitlines())
    assert (row["low"], row["middle"]) == (1.5, 1.5)


def test_the_peak_of_memory_is_the_programs_own() -> None:
    """A program started by a large one does not inherit its peak, as getrusage's does."""
    large = bytearray(300 << 20)
    large[::4096] = b"x" * len(large[::4096])
    code = f"import sys; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}]\n"
    code += "from summary import peak_mb; print(peak_mb())"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert 5 < float(done.stdout) < 100
