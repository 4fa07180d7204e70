"""Runs the small recipe: data, five phases, ensemble, exports, a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.demo import glyphs, recipe
from caffeio.log.glog import Log
from caffeio.tools.score import score
from caffeio.training.trainer import Events, Trainer

Say = Callable[[str], None]
TRAIN, TEST = 6400, 1280  # images


@dataclass
class DemoReport:
    """What the demo found."""

    accuracy: dict[str, float] = field(default_factory=dict)  # by phase, and "ensemble"
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # (rate, loss)
    picture: Path | None = None
    caffemodel: Path | None = None
    onnx: Path | None = None
    onnx_error: float | None = None  # not compared: onnxruntime is not installed
    images_per_s: float = 0.0


def run(folder: Path, say: Say, log: Log, progress: Callable[[str, int, int], None]) -> DemoReport:
    """Do everything in `folder`; `say` gets plain sentences, `log` Caffe's lines."""
    report = DemoReport()
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train_lmdb", TRAIN, 1), ("test_lmdb", TEST, 2)):
        if not (folder / name).exists():
            glyphs.make_lmdb(folder / name, count, seed)
    say(
        f"Made {TRAIN} training and {TEST} test JPEGs of {len(glyphs.CLASSES)} letters, in two "
        f"LMDBs below {folder}."
    )
    solvers = recipe.write(folder)
    say("Wrote a small ResNet and its solvers: warm-up and decay, three cycles, a collapse.")
    started, images = time.perf_counter(), 0
    weights: dict[str, Path] = {}
    for phase, before in (
        ("init", None), ("cyc1", "init"), ("collapse1", "cyc1"), ("cyc2", "cyc1"),
        ("collapse2", "cyc2"), ("cyc3", "cyc2"), ("collapse", "cyc3"),
    ):  # fmt: skip
        start = [weights[before]] if before else []
        weights[phase], count = _train(solvers[phase], phase, start, report, log, progress)
        images += count
    report.images_per_s = images / (time.perf_counter() - started)
    say(f"Trained {images} images in all phases, {report.images_per_s:.0f} images/s.")
    _score(folder, weights, report, log)
    _export(folder, weights["collapse"], report)
    report.picture = _draw(folder, report)
    return report


def _train(
    solver: Path,
    phase: str,
    weights: list[Path],
    report: DemoReport,
    log: Log,
    progress: Callable[[str, int, int], None],
) -> tuple[Path, int]:
    rows: list[tuple[float, float]] = []
    report.curves[phase] = rows
    images = 0

    def watch(entry: dict[str, Any]) -> None:
        nonlocal images
        images += entry["images"]
        rows.append((entry["lr"], float(entry["loss"])))
        progress(phase, entry["iter"], trainer.param.max_iter)

    trainer = Trainer(solver, weights=weights, log=log, events=Events(iteration=watch))
    try:
        trainer.solve()
    finally:
        trainer.close()
    return Path(trainer.snapshots.names(trainer.iter)[0]), images


def _score(folder: Path, weights: dict[str, Path], report: DemoReport, log: Log) -> None:
    model = folder / "train_val.prototxt"
    batches = TEST // recipe.BATCH
    for phase in ("init", "cyc1", "cyc2", "cyc3"):
        [only] = score(model, [weights[phase]], iterations=batches, log=log)
        report.accuracy[phase] = float(only.outputs["top-1"])
    collapsed = ("collapse1", "collapse2", "collapse")
    scores = score(model, [weights[p] for p in collapsed], iterations=batches, log=log)
    for phase, result in zip((*collapsed, "ensemble"), scores, strict=True):
        report.accuracy[phase] = float(result.outputs["top-1"])


def _export(folder: Path, weights: Path, report: DemoReport) -> None:
    from caffeio.converters.onnx.export import export_onnx, verify_onnx

    report.caffemodel = weights
    report.onnx = folder / "glyph-resnet.onnx"
    export_onnx(folder / "train_val.prototxt", weights, report.onnx)
    if find_spec("onnxruntime") is not None:
        report.onnx_error = verify_onnx(folder / "train_val.prototxt", weights, report.onnx)


def _draw(folder: Path, report: DemoReport) -> Path | None:
    """Learning rate and loss of all phases, end to end, and the accuracies; None undrawn."""
    if find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    phases = ("init", "cyc1", "cyc2", "cyc3", "collapse")
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True)
    start = 0
    for phase in phases:
        rows = np.array(report.curves[phase])
        x = np.arange(start, start + len(rows))
        above.plot(x, rows[:, 0], label=f"{phase} ({100 * report.accuracy[phase]:.1f} %)")
        below.plot(x, rows[:, 1], linewidth=0.6, alpha=0.4, color=above.lines[-1].get_color())
        window = np.ones(15) / 15
        smooth = np.convolve(np.pad(rows[:, 1], 7, mode="edge"), window, mode="valid")
        below.plot(x, smooth, color=above.lines[-1].get_color())
        start += len(rows)
    above.set_ylabel("learning rate")
    above.legend(title="phase (test accuracy after it)", fontsize=8)
    below.set_ylabel("training loss")
    below.set_yscale("log")
    below.set_xlabel("iteration")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    figure.suptitle("The five-phase recipe on rendered letters")
    figure.tight_layout()
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
