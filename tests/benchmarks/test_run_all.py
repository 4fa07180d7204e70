"""`make bench`: every script runs, and the page gets what they print, with machine and versions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from tests.paths import ROOT


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "benchmarks" / "run_all.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_scripts_are_found_and_make_runs_them() -> None:
    found = script().scripts()
    assert {"train", "inference", "data", "text", "weights", "solver"} <= found.keys()
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
    assert "torch 2" in module.machine() and "cores" in module.machine()


def test_a_script_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    """Told of the scripts of another folder."""
    for name, text in (("a", "raise SystemExit(3)"), ("b", "print('ratio 1.25')")):
        (tmp_path / f"bench_{name}.py").write_text(text)
    page = tmp_path / "page.md"
    marks = script().MARKS
    page.write_text(f"{marks[0]}{marks[1]}")
    text = (ROOT / "benchmarks" / "run_all.py").read_text()
    (tmp_path / "run_all.py").write_text(text)
    done = subprocess.run(
        [sys.executable, tmp_path / "run_all.py", "--page", page], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and "failed: bench_a.py" in done.stderr
    assert "ratio 1.25" in page.read_text() and "bench_a" not in page.read_text()
