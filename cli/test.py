"""`caffeio test`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from caffeio.cli._gflags import CaffeCommand
from caffeio.cli._options import max_pixels, on_bad_record
from caffeio.cli._python import permit
from caffeio.cli._terminal import say, say_json

EPILOG = """
\b
Examples:
  caffeio test train_val.prototxt --weights snap_iter_78.caffemodel --iterations 50
  caffeio test train_val.prototxt --weights a.caffemodel --weights b.caffemodel
  caffeio test -model train_val.prototxt -weights a.caffemodel,b.caffemodel -iterations 10
"""


@click.command(epilog=EPILOG, cls=CaffeCommand)
@click.argument("model", required=False, type=click.Path())
@click.argument("more_weights", nargs=-1, type=click.Path())
@click.option("--model", "-model", "model_option", metavar="FILE", help="As an argument.")
@click.option(
    "--weights", "-weights", "-w", multiple=True, metavar="A[,B]",
    help="Weights to score; several are scored singly and as an ensemble.",
)  # fmt: skip
@click.option("--iterations", "-iterations", "-n", default=50, help="Batches to run.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a field of the net: layer[data].data_param.source=/data/lmdb.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Default: cpu.")
@click.option("--gpu", "-gpu", metavar="ID", help="Use this GPU.")
@click.option("--caffe", "profile", metavar="bvlc|intel|nvidia", help="Whose numbers are wanted.")
@click.option("--stage", "-stage", default="", metavar="A,B", help="Stages of the net.")
@click.option("--level", "-level", default=0, help="Level of the net.")
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@click.option(
    "--ignore-unknown-fields", "ignore_unknown", is_flag=True,
    help="Go on although the prototxt has fields that no known Caffe has.",
)  # fmt: skip
@on_bad_record
@max_pixels
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON on stdout.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Score MODEL in phase TEST, as `caffe test` does; log lines go to stderr.

    Several weights are scored on the same batches, one after the other, and then as an ensemble:
    the mean of their class probabilities.
    """
    model = options["model_option"] or options["model"]
    if not model:
        raise click.UsageError("Need a model definition to score.", ctx)
    listed = [*options["weights"], *options["more_weights"]]
    if options["model_option"] and options["model"]:
        listed.append(options["model"])
    weights = [w.strip() for entry in listed for w in entry.split(",") if w.strip()]
    if not weights:
        raise click.UsageError("Need model weights to score.", ctx)
    from caffeio.cli._device import choose
    from caffeio.data.base import Options as DataOptions
    from caffeio.log.glog import Log
    from caffeio.tools.score import score
    from caffeio.training.distributed import World

    log = Log(lambda line: say(line, err=True))
    world = World.join(choose(options["device"], options["gpu"]))
    log.info("caffe.cpp:275", "Use CPU." if world.device.type == "cpu" else f"Use {world.device}.")
    scores = score(
        model, weights, iterations=options["iterations"], overrides=options["overrides"],
        profile=options["profile"], world=world, level=options["level"], log=log,
        stages=[s for s in options["stage"].split(",") if s],
        allow_python=permit(options["allow_python"]),
        ignore_unknown=options["ignore_unknown"],
        data_options=DataOptions(on_bad_record=options["on_bad_record"],
                                 note=partial(log.note, level="W")),
    )  # fmt: skip
    if options["as_json"]:
        rows = [
            {"model": s.title, "loss": s.loss, **{k: v.tolist() for k, v in s.outputs.items()}}
            for s in scores
        ]
        say_json(rows, indent=None)
