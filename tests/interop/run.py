"""Convert public models, run them in other programs, and write docs/interop.md.

python tests/interop/run.py [--models FOLDER] [--python CLIENT=PATH ...] [--write docs/interop.md]

Clients run in processes of their own, with the interpreter that has them: `--python opencv5=...`.
Exit code 1 if a number is off by more than 1e-5 (1e-4 where float32 itself is not nearer).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests import warm
from tests.interop.models import Model, models, prepare
from tests.paths import SHARED

CORPUS = SHARED / "corpus" / "caffemodels"
LIMIT, LOOSE = 1e-5, 1e-4
# column -> client, file it needs, environment
COLUMNS = {
    "onnxruntime": ("onnxruntime", "onnx", "here"),
    "OpenCV 5, ONNX": ("opencv-onnx", "onnx", "opencv5"),
    "OpenCV 4, ONNX": ("opencv-onnx", "onnx", "here"),
    "OpenCV 4, Caffe": ("opencv-caffe", "caffemodel", "here"),
    "OpenVINO, ONNX": ("openvino", "onnx", "openvino"),
    "net.py": ("torch-module", "py", "here"),
    "net.pt2": ("torch-program", "pt2", "here"),
}
# What a client cannot do, as far as its reason is known: part of its message -> in words.
KNOWN = {
    "NonMaxSuppression": "OpenCV 4 has no NonMaxSuppression: give it the Caffe files",
    "slice_layer.cpp": "OpenCV 4 has no Split of a constant (SSD): give it the Caffe files",
    "CV_MAX_DIM": "OpenCV 4 reads no PReLU whose one slope has no axes: `--modern-shapes`",
    "expected: 'end <= dims'": "OpenCV's importer reads no Scale with `axis: -1 num_axes: -1`",
    "crop_center": "OpenCV's Caffe importer has no CropCenter: give it the ONNX file",
}


# Numbers that a client has otherwise, and why.
OTHERWISE = {
    ("c2o_log8", "OpenCV 4, Caffe"): "OpenCV's Log of a negative number is finite; Caffe's is nan",
}


@dataclass
class Cell:
    """What one client made of one model."""

    text: str
    bad: bool = False
    note: str = ""


@dataclass
class Table:
    """Rows by model, columns by client; versions of the clients."""

    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)

    @property
    def bad(self) -> list[str]:
        """Cells with wrong numbers, or a failure that nobody has explained."""
        return [
            f"{model}, {column}: {cell.text} {cell.note}"
            for model, cells in self.rows.items()
            for column, cell in cells.items()
            if cell.bad
        ]


def difference(found: np.ndarray, expected: np.ndarray) -> tuple[float, str]:
    """max|a - b| / max|b|, and a word if only the rows of SSD are in another order."""
    plain = _relative(found, expected)
    if plain <= LOOSE or expected.ndim != 4 or expected.shape[-1] != 7:
        return plain, ""
    return _relative(_rows(found), _rows(expected)), "rows in another order"


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    if found.size != expected.size:
        return float("inf")
    a, b = found.reshape(-1).astype(np.float64), expected.reshape(-1).astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    keep = np.isfinite(b)
    return float(np.abs(a - b)[keep].max(initial=0) / max(np.abs(b[keep]).max(initial=0), 1e-6))


def _rows(detections: np.ndarray) -> np.ndarray:
    """Rows of detections that hold one, by image, label and place; scores to five digits."""
    rows = detections.reshape(-1, 7)
    rows = rows[(rows[:, 1] > 0) & (rows[:, 2] > 0)]
    return rows[np.lexsort((*(rows[:, i].round(4) for i in (6, 5, 4, 3)), rows[:, 1], rows[:, 0]))]


def judge(model: Model, job: dict[str, Any], stem: str) -> Cell:
    """Read what a client has written."""
    failed = Path(f"{job['result']}.{stem}.txt")
    if failed.exists():
        text = " ".join(failed.read_text().split())
        why = next((words for part, words in KNOWN.items() if part in text), "")
        return Cell("fails", bad=not why, note=why or text[-200:])
    with np.load(f"{job['result']}.{stem}.npz") as arrays:
        found = [arrays[name] for name in arrays.files]
    worst, bound, words = 0.0, LIMIT, ""
    for value, (blob, _, _) in zip(found, model.outputs, strict=True):
        off, word = difference(value, model.expected[blob])
        if off >= worst:
            worst, words = off, word
        if model.rounding.get(blob, 0.0) > LIMIT / 10:
            bound = LOOSE
    return Cell(f"{worst:.1e}", bad=not worst <= bound, note=words)


def run(
    chosen: Sequence[str], pythons: Mapping[str, str], folder: Path | None, only: Sequence[str] = ()
) -> Table:
    """Convert all models and run them in the columns `chosen`."""
    table = Table()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        made = [m for m in models(folder, scratch) if not only or m.name in only]
        jobs = {model.name: prepare(model, scratch) for model in made}
        for column in chosen:
            client, kind, where = COLUMNS[column]
            mine = [m for m in made if kind in m.files]
            stem = column.replace(" ", "").replace(",", "")
            listed = [{**jobs[m.name], "result": f"{jobs[m.name]['result']}.{stem}"} for m in mine]
            table.versions[column] = _client(client, listed, pythons[where], scratch / stem)
            for model in made:
                cells = table.rows.setdefault(model.name, {})
                if model not in mine:
                    cells[column] = Cell("refused", note=model.refused.get(kind, ""))
                    continue
                cells[column] = judge(model, jobs[model.name], stem)
                if cells[column].bad and (model.name, column) in OTHERWISE:
                    cells[column] = Cell("differs", note=OTHERWISE[model.name, column])
                if kind == "caffemodel" and model.dialect != "bvlc":
                    said = f"files for {model.dialect}"
                    cells[column].note = f"{cells[column].note}; {said}".removeprefix("; ")
        table.rounding = {m.name: max(m.rounding.values(), default=0.0) for m in made}
    return table


def _client(client: str, jobs: list[dict[str, Any]], python: str, path: Path) -> str:
    path.write_text(json.dumps(jobs))
    words = ["-P", str(Path(__file__).with_name("client.py")), client, str(path)]
    options: dict[str, Any] = {"args": [python, *words]}
    if python == sys.executable:
        options = warm.command(*words)
    done = subprocess.run(**options, capture_output=True, text=True, cwd=path.parent, check=False)
    if done.returncode:
        raise SystemExit(f"{client}: {done.stderr[-2000:]}")
    return re.split(r"[-+]", done.stdout.split()[0])[0]


def markdown(table: Table) -> str:
    """The page, with a footnote for each cell that needs one."""
    columns = list(table.versions)
    notes: dict[str, int] = {}
    lines = []
    for model, cells in table.rows.items():
        words = []
        for column in columns:
            cell = cells[column]
            mark = f" [{notes.setdefault(cell.note, len(notes) + 1)}]" if cell.note else ""
            words.append(f"{cell.text}{mark}")
        lines.append(f"| {model} | {table.rounding[model]:.0e} | {' | '.join(words)} |")
    head = " | ".join(f"{column} ({table.versions[column]})" for column in columns)
    return "\n".join(
        [
            HEAD,
            f"| model | float32 | {head} |",
            "|---" * (len(columns) + 2) + "|",
            *lines,
            "",
            *(f"{number}. {note}" for note, number in notes.items()),
            "",
        ]
    )


HEAD = """# What other programs make of the results

Every model was converted, run in the program named above the column on one random input, and held
against `caffeio.load_net` of the original files: the largest difference over the largest value of
the worst output. "float32" is how far `load_net` itself is from double precision. The bound is
1e-5, or 1e-4 where float32 is not nearer than 1e-6. Numbers in brackets are notes. OpenCV runs with
`enableWinograd(False)`: its quicker convolutions are less exact. The caffemodels hold floats
(`--float32`), and are BVLC's unless a note says otherwise.

`make interop` writes this page; it runs at night. Models with a name of this repository's own
(`vgg_like`, `googlenet_like`) have random weights, the others are public ones.
"""


def _environment(text: str) -> tuple[str, str]:
    """Name and Python of an environment; its own link, not what that leads to."""
    name, _, path = text.partition("=")
    return name, os.path.abspath(path)


def main() -> int:
    """Run; write or print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=CORPUS if CORPUS.exists() else None)
    parser.add_argument("--python", action="append", default=[], metavar="ENVIRONMENT=PATH")
    parser.add_argument("--only", action="append", default=[], metavar="MODEL")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    pythons = {"here": sys.executable, **dict(map(_environment, options.python))}
    chosen = [name for name, (_, _, where) in COLUMNS.items() if where in pythons]
    table = run(chosen, pythons, options.models, options.only)
    page = markdown(table)
    if options.write:
        options.write.write_text(page)
    print(page)
    for line in table.bad:
        print(f"WRONG: {line}")
    return 1 if table.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
