"""`caffeio demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="\b\nExamples:\n  caffeio demo -o demo\n  caffeio show demo")
@click.option(
    "--output", "-o", "folder", default="demo", show_default=True,
    type=click.Path(file_okay=False, path_type=Path), help="Where everything is written.",
)  # fmt: skip
def command(folder: Path) -> None:
    """Train a small five-phase recipe on data made on the spot, export it, and show the result.

    Takes a few minutes on two cores and needs no download. Real Caffe's log goes to train.log.
    """
    import time

    from rich.console import Console
    from rich.table import Table

    from caffeio.demo.run import run
    from caffeio.log.glog import Log

    console = Console(highlight=False)
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "train.log").open("w", encoding="utf-8") as file,
        console.status("") as status,
    ):
        report = run(
            folder,
            lambda text: console.print(f"- {text}"),
            Log(lambda line: print(line, file=file)),
            lambda phase, i, n: status.update(f"training phase {phase}: {i} of {n}"),
        )
    table = Table("phase", "test accuracy")
    for phase, value in report.accuracy.items():
        table.add_row(phase, f"{100 * value:.1f} %")
    console.print(table)
    console.print("- Guessing would be right in 5 % of the cases.")
    console.print("- The ensemble is the mean of the three collapsed models' class probabilities.")
    console.print(f"- The trained weights, for any Caffe: {report.caffemodel}")
    compared = "not compared: pip install 'caffeio[onnx]'"
    if report.onnx_error is not None:
        error = f"{report.onnx_error:.1e}"
        compared = f"onnxruntime's outputs differ from ours by at most {error} of the largest"
    console.print(f"- The same net as ONNX: {report.onnx} ({compared})", markup=False)
    drawn = report.picture or "not drawn: pip install 'caffeio[plot]'"
    console.print(f"- Learning rate and loss of all phases: {drawn}", markup=False)
    console.print(f"- Done in {time.perf_counter() - began:.0f} s.")
