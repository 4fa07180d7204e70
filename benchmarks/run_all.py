"""Run the benchmarks one after the other and put what they print into docs/performance.md.

    python benchmarks/run_all.py [NAME ...] [--page docs/performance.md]

NAME is a script's without `bench_` and `.py`: `text`, `train` ...; without names all run, which
takes half an hour or more. A script that fails is named at the end (exit code 1), and the others
run all the same. bench_caffe.py needs a real Caffe (the variable CAFFE_ROOT) and is left out
without. The page keeps what it has of scripts that did not run; the machine and the versions stand
beside each.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "protobuf", "numpy")
MARKS = ("<!-- make bench -->\n", "<!-- /make bench -->\n")


def scripts() -> dict[str, Path]:
    """The scripts by name."""
    return {p.stem.removeprefix("bench_"): p for p in sorted(HERE.glob("bench_*.py"))}


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
    """The page with `text` as what the script `name` printed; others' stay, in their order."""
    begin, end = (page.index(mark) for mark in MARKS)
    old = page[begin + len(MARKS[0]) : end]
    parts = dict(re.findall(r"(?ms)^### (\S+)\n(.*?)(?=^### |\Z)", old))
    parts[name] = text
    new = "".join(f"### {key}\n{parts[key].rstrip()}\n\n" for key in sorted(parts))
    return f"{page[:begin]}{MARKS[0]}\n{new}{page[end:]}"


def run(path: Path) -> str | None:
    """What the script printed, shown while it runs; None if it failed."""
    print(f"== {path.name}", flush=True)
    lines = []
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return None if process.returncode else "\n".join(lines).strip("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    if unknown := set(args.names) - scripts().keys():
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(scripts())}")
    failed = []
    for name, path in scripts().items():
        if name == "caffe" and not os.environ.get("CAFFE_ROOT"):
            print("== bench_caffe.py: left out, CAFFE_ROOT names no real Caffe")
            continue
        if args.names and name not in args.names:
            continue
        start = time.time()
        said = run(path)
        if said is None:
            failed.append(path.name)
            continue
        text = f"\n{machine()}; {time.time() - start:.0f} s\n\n```text\n{said}\n```\n"
        args.page.write_text(put(args.page.read_text(), f"bench_{name}.py", text))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
