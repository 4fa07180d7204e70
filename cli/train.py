"""`caffeio train`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import Any

import click

from caffeio.cli._complete import Setting
from caffeio.cli._gflags import CaffeCommand
from caffeio.cli._options import caffe, device, forms, max_pixels, on_bad_record, state

EPILOG = """
\b
Examples:
  caffeio train solver.prototxt
  caffeio train solver_cyc1.prototxt --weights start.caffemodel
  caffeio train solver_init.prototxt solver_cyc1.prototxt solver_cyc2.prototxt
  caffeio train solver.prototxt --snapshot auto
  caffeio train solver_init.prototxt solver_cyc1.prototxt --dry-run
  caffeio train solver.prototxt --set 'layer[data].data_param.batch_size=8'
  torchrun --nproc-per-node 8 -m caffeio.cli train solver.prototxt

Caffe's own spelling works too: caffeio train -solver F -weights W -gpu 0,1
"""


@click.command(epilog=EPILOG, cls=CaffeCommand)
@click.argument("solvers", nargs=-1, type=click.Path())
@click.option("--solver", "-solver", "solver_option", metavar="FILE", help="As an argument.")
@click.option(
    "--weights", "-weights", "-w", metavar="A[,B]",
    help="Start from these weights (.caffemodel, .h5, .safetensors, .pt, .npz).",
)  # fmt: skip
@click.option(
    "--snapshot", "-snapshot", metavar="FILE|auto",
    help="Go on from this .solverstate; auto: from the newest whole pair, if there is one.",
)  # fmt: skip
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", type=Setting(),
    help="Change a field of the solver, or of its nets: layer[NAME].data_param.batch_size=8.",
)  # fmt: skip
@click.option("--metrics", type=click.Path(), help="Write one JSON line an iteration to this file.")
@click.option("--tensorboard", type=click.Path(), metavar="DIR", help="Write for TensorBoard too.")
@click.option(
    "--log", type=click.Choice(["short", "caffe"]),
    help="caffe: Caffe's own lines; short: a summary, and Caffe's lines in PREFIX.log "
    "(default: short on a terminal, else caffe).",
)  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE.html",
              help="Write a page at the end: curves, scores, confusions, mistakes.")  # fmt: skip
@click.option("--profile", "profile_to", type=click.Path(dir_okay=False), metavar="FILE.json",
              help="Write a trace of five iterations by torch's profiler.")  # fmt: skip
@click.option("--nproc", type=click.IntRange(1), help="Workers on this machine.")
@device("Where to train (default: what solver_mode says).")
@click.option("--gpu", "-gpu", metavar="all|0,1", help="GPUs to use, one worker each.")
@caffe("profile")
@state(which="the training net")
@click.option(
    "--sigint-effect", "--sigint_effect", "-sigint_effect", default="stop",
    type=click.Choice(["snapshot", "stop", "none"]), help="What SIGINT and SIGTERM do.",
)  # fmt: skip
@click.option(
    "--sighup-effect", "--sighup_effect", "-sighup_effect", default="snapshot",
    type=click.Choice(["snapshot", "stop", "none"]), help="What SIGHUP does.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
    help="bf16 is faster and does not give Caffe's numbers.",
)  # fmt: skip
@click.option("--compile", is_flag=True, help="Trace the net with torch.compile.")
@click.option(
    "--cuda-graph", is_flag=True,
    help="Record an iteration and replay it: one GPU, batches of one shape.",
)  # fmt: skip
@click.option(
    "--gradients", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True,
    help="How workers send gradients: 16 bits halve the traffic, and round.",
)  # fmt: skip
@click.option(
    "--async-snapshots", is_flag=True,
    help="Write snapshots while the training goes on, from a copy in memory.",
)  # fmt: skip
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@click.option(
    "--ignore-unknown-fields", "ignore_unknown", is_flag=True,
    help="Go on although the prototxt has fields that no known Caffe has.",
)  # fmt: skip
@click.option(
    "--max-restarts", type=click.IntRange(0), default=0, show_default=True,
    help="Start all workers again after one failed, from the newest pair of snapshots.",
)  # fmt: skip
@click.option(
    "--worker-timeout", type=click.FloatRange(1), metavar="SECONDS",
    help="A worker that gives no sign of life for so long is lost; default: 300.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say all that would happen, and stop.")
@forms(json="With --dry-run: as JSON.")
@on_bad_record
@max_pixels
@click.option("--quiet", "-q", is_flag=True, help="No log lines, no progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Train SOLVERS one after the other, as real Caffe would.

    Log lines are Caffe's own (on stderr). SIGINT snapshots and stops, SIGHUP snapshots and goes
    on. Several solvers are a chain: each starts from the weights of the last one; finished phases
    are skipped and an interrupted one is resumed, so the same command can be started again.
    """
    solvers = list(options["solvers"])
    if options["solver_option"]:
        solvers.insert(0, options["solver_option"])
    if not solvers:
        raise click.UsageError("which solver? Give a solver prototxt.", ctx)
    if options["snapshot"] not in (None, "auto") and options["weights"]:
        raise click.UsageError(
            "Give a snapshot to resume training or weights to finetune but not both.", ctx
        )
    if options["snapshot"] and len(solvers) > 1:
        raise click.UsageError("A chain finds its snapshots by itself: leave --snapshot out.", ctx)
    if options["log"] is None and ctx.parent is not None and ctx.parent.info_name == "caffe":
        options["log"] = "caffe"  # scripts that call `caffe train` read its log
    if options["form"] == "json" and not options["dry_run"]:
        raise click.UsageError("--json goes with --dry-run; --metrics writes JSON lines.", ctx)
    if options["worker_timeout"] is not None:
        os.environ["CAFFEIO_WORKER_TIMEOUT"] = str(options["worker_timeout"])
    from caffeio.cli import _train
    from caffeio.gpus import require_gpu

    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and len(solvers) == 1:
        options["snapshot"] = "auto"  # torchrun's restart, or ours: go on from the newest pair
    _train.chosen_gpus(options)
    if not options["dry_run"]:
        require_gpu("cuda" if options["gpu"] else options["device"])
    from caffeio.proto.io.opened import opened_once

    with ExitStack() as opened:
        opened.enter_context(opened_once())
        made = _train.plan(solvers, options)
        if options["dry_run"]:
            _train.dry_run(made, options)
            return
        _start(ctx, solvers, options, made, opened)


def _start(
    ctx: click.Context, solvers: list[str], options: dict[str, Any], made: Any, opened: ExitStack
) -> None:
    """Train in this process, or launch the workers that do."""
    from caffeio.cli import _train
    from caffeio.training.phases import check_batches

    _train.require_device(made)
    workers = _train.worker_count(options)
    check_batches(made.jobs, max(workers, int(os.environ.get("WORLD_SIZE", "1"))))
    if workers > 1 and "RANK" not in os.environ:
        from caffeio.training.launch import launch

        opened.close()
        ctx.exit(launch(workers, sys.argv[1:], max_restarts=options["max_restarts"]))
    from caffeio.training.launch import die_with_launcher, record_error

    die_with_launcher()
    try:
        _train.run(made, solvers, options, opened)
    except Exception as error:
        record_error(error)
        raise
