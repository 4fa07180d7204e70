"""`caffeio scale`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffeio.cli._options import caffe as caffe_option

EPILOG = """\b
Examples:
  caffeio scale solver_cyc1.prototxt --from 128 --workers 16
  caffeio scale solver.prototxt --workers 8 --rule sqrt -o scaled/
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("solvers", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option(
    "--workers", type=click.IntRange(1), required=True, metavar="N", help="Workers to scale to."
)
@click.option(
    "--from",
    "before",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="M",
    help="Workers that the solvers were written for.",
)
@click.option(
    "--rule",
    type=click.Choice(["linear", "sqrt", "none"]),
    default="linear",
    show_default=True,
    help="How the rates grow with the images in an update.",
)
@caffe_option(text="Whose Caffe trains")
@click.option("--output", "-o", type=click.Path(), metavar="DIR", help="Write the solvers here.")
@click.option("--in-place", "-i", is_flag=True, help="Write the solvers back.")
def command(
    solvers: tuple[str, ...], workers: int, before: int, rule: str, output: str | None,
    in_place: bool, caffe: str | None,
) -> None:  # fmt: skip
    """Rewrite solvers for another number of workers, and show what changes.

    batch_size is that of one worker, so N workers make updates of N times as many images: rates
    grow by the rule, and iterations, steps and warm-up shrink so that as many images are seen
    (test_iter too, where all workers test: Intel's Caffe). NVIDIA's Caffe shares batch_size out
    among its workers: nothing changes there. Of several solvers the first starts the training, the
    others continue it: the first keeps the rate that its warm-up starts from. Comments stay.
    Nothing is written without --output or --in-place.
    """
    if output and in_place:
        raise click.UsageError("--in-place and --output exclude each other.")
    from caffeio.cli._files import show_diff, write_output
    from caffeio.cli._given import require_solver
    from caffeio.proto.files import encode_text

    for name in solvers:
        require_solver(name, "scale")
    if output and len({Path(name).name for name in solvers}) < len(solvers):
        raise click.UsageError("two of the solvers have one file name: --output would mix them up")
    scaled = [
        _scaled(name, workers / before, rule, caffe, starts=i == 0)
        for i, name in enumerate(solvers)
    ]
    for name, old, new, notes in scaled:
        show_diff(old, new, name)
        for note in notes:
            click.echo(f"{name}: {note}", err=True)
        if old == new:
            click.echo(f"{name}: nothing changes")
    if output:
        Path(output).mkdir(parents=True, exist_ok=True)
    for name, old, new, _ in scaled:
        target = str(Path(output) / Path(name).name) if output else name
        if output or (in_place and new != old):
            write_output(target, [encode_text(new)])


def _scaled(
    path: str, factor: float, rule: str, caffe: str | None, *, starts: bool
) -> tuple[str, Any, Any, Any]:
    """The file's name, its text before and after, and what deserves a word."""
    from caffeio.proto.files import decode_file_text, read_bytes, read_solver
    from caffeio.proto.rewrite import edit_text
    from caffeio.solver.scaling import scale_solver

    file = read_solver(path)
    solver, profile = file.message, _profile(file, caffe)
    old = decode_file_text(read_bytes(path), path)
    if profile.divides_batch:
        return path, old, old, [_SHARED.format(profile.name)]
    changes = scale_solver(
        solver,
        factor,
        rule=rule,
        starts=starts and not solver.weights,
        tests_shared=profile.tests_on_all_workers,
    )
    new, _ = edit_text(old, [change.assignment() for change in changes], path=path)
    notes = [f"{change.key}: {change.note}" for change in changes if change.note]
    notes += _too_large(solver, changes)
    grown = next((c.new / c.old for c in changes if c.field == "base_lr"), 1.0)
    warms = solver.HasField("warmup_iter") or solver.HasField("rampup_interval")
    if starts and grown >= 2 and not warms:
        notes.append(
            f"base_lr grows {grown:g} x and the solver has no warm-up: large updates from fillers "
            f"diverge easily; add warmup_iter and warmup_start_lr (5 epochs are usual)"
        )
    return path, old, new, notes


_SHARED = (
    "batch_size is that of all workers together (Caffe {!r}): an update has as many images on any "
    "number of workers, each takes its part; larger updates need a larger batch_size"
)


def _profile(file: Any, caffe: str | None) -> Any:
    """The profile that a training of this solver would have; its net need not be here."""
    from caffeio.errors import CaffeIOError
    from caffeio.profiles import choose_profile
    from caffeio.training.net_specs import train_spec

    try:
        dialect = None if caffe else train_spec(file).dialect
    except CaffeIOError:
        dialect = None
    return choose_profile(caffe, file.dialect, file.message, dialect)


def _too_large(solver: Any, changes: Any) -> list[str]:
    """A word where linear scaling leaves what is known to train: base_lr 6.4, 16,384 images."""
    rate = next((c.new for c in changes if c.field == "base_lr"), 0.0)
    layerwise = solver.local_lr_auto or solver.larc
    if rate <= 6.4 or rate <= solver.base_lr or layerwise or solver.type not in ("SGD", "Nesterov"):
        return []
    note = (
        f"base_lr {rate:g}: rates that grow with the images in an update are known to work for "
        "ResNet-50 up to 6.4 or so; beyond, use each layer's own rate (local_lr_auto of Intel's "
        "Caffe, larc of NVIDIA's), --rule sqrt, or a longer warm-up"
    )
    return [note]
