"""Run the benchmarks one after the other and put what they print into docs/performance.md.

    python benchmarks/run_all.py [NAME ...] [--page docs/performance.md]

NAME is a script's without `bench_` and `.py`: `text`, `train` ..., or `compile`, `scaling`; without
names all run, on all cores, which takes 25 minutes on two idle ones, and the table that sums them
up is written, too: one row a figure, from this run alone. A script that fails is named at the end
and in the table (exit code 1), and the others run all the same. bench_caffe.py needs a real Caffe
(the variable CAFFE_ROOT) and is left out without. The page keeps what it has of scripts that did
not run; the machine and the versions stand beside each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from summary import ROWS, table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "numba", "protobuf", "numpy")
MARKS = ("<!-- make bench -->\n", "<!-- /make bench -->\n")
SUMMARY = ("<!-- summary -->\n", "<!-- /summary -->\n")
ORDER = ("caffe", "inference", "train", "compile", "solver", "data", "ddp", "scaling")
MORE = {  # what runs beside `bench_NAME.py` with its defaults
    "compile": ("bench_train.py", "--compile", "--nets", "lenet,mobilenet,resnet50",
                "--precision", "fp32"),
    "scaling": ("scaling.py", "measure"),
}  # fmt: skip
LONGEST = 900.0  # s that a script may take


def scripts() -> dict[str, tuple[str, ...]]:
    """The commands by name: what the summary needs first, then the others."""
    found = {p.stem.removeprefix("bench_"): (p.name,) for p in sorted(HERE.glob("bench_*.py"))}
    found |= {name: command for name, command in MORE.items() if (HERE / command[0]).exists()}
    first = {name: found[name] for name in ORDER if name in found}
    return first | found


def machine() -> str:
    """The processor, what of it may be used, and the versions of what computes."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*: (.+)", info.read_text())):
        name = found[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    return f"{name}, {cores} cores; {', '.join(versions)}"


def put(page: str, name: str, text: str) -> str:
    """The page with `text` as what `name` printed; others' stay, in their order."""
    begin, end = (page.index(mark) for mark in MARKS)
    old = page[begin + len(MARKS[0]) : end]
    parts = dict(re.findall(r"(?ms)^### (\S+)\n(.*?)(?=^### |\Z)", old))
    parts[name] = text
    new = "".join(f"### {key}\n{parts[key].rstrip()}\n\n" for key in sorted(parts))
    return f"{page[:begin]}{MARKS[0]}\n{new}{page[end:]}"


def sum_up(page: str, text: str) -> str:
    """The page with `text` as its summary."""
    begin, end = (page.index(mark) for mark in SUMMARY)
    return f"{page[:begin]}{SUMMARY[0]}\n{text}\n\n{page[end:]}"


def run(command: tuple[str, ...], rows: Path) -> str | None:
    """What the script printed, shown while it runs; None if it failed or took too long."""
    print(f"== {' '.join(command)}", flush=True)
    own = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {ROWS: str(rows)}
    lines = []
    whole = [sys.executable, str(HERE / command[0]), *command[1:]]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, env=own) as process:
        guard = threading.Timer(LONGEST, process.kill)
        guard.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
        process.wait()
        guard.cancel()
    return None if process.returncode else "\n".join(lines).strip("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    known = scripts()
    if unknown := set(args.names) - known.keys():
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(known)}")
    failed, left_out, began = [], [], time.time()
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows"
        for name in [n for n in known if not args.names or n in args.names]:
            if name == "caffe" and not os.environ.get("CAFFE_ROOT"):
                left_out = ["bench_caffe.py (CAFFE_ROOT names no real Caffe)"]
                print(f"== left out: {left_out[0]}")
                continue
            start = time.time()
            said = run(known[name], rows)
            if said is None:
                failed.append(" ".join(known[name]))
                continue
            text = f"\n{machine()}; {time.time() - start:.0f} s\n\n```text\n{said}\n```\n"
            title = known[name][0] + ("" if name in known[name][0] else f":{name}")
            args.page.write_text(put(args.page.read_text(), title, text))
        found = [json.loads(x) for x in rows.read_text().splitlines()] if rows.exists() else []
    if not args.names:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        text = f"{day}, {(time.time() - began) / 60:.0f} minutes: {machine()}.\n\n{table(found)}"
        missing = ", ".join([*failed, *left_out])
        text += f"\n\nNot in it: {missing}." if missing else ""
        args.page.write_text(sum_up(args.page.read_text(), text))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
