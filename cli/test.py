"""`caffeio test`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from caffeio.cli._complete import Setting
from caffeio.cli._gflags import CaffeCommand
from caffeio.cli._options import caffe, device, forms, max_pixels, on_bad_record, state
from caffeio.cli._python import permit
from caffeio.cli._terminal import say, say_json
from caffeio.proto.io.opened import opened_once

if TYPE_CHECKING:
    from caffeio.net.recipe import NetRecipe

EPILOG = """
\b
Examples:
  caffeio test train_val.prototxt --weights x.caffemodel --iterations 50
  caffeio test net.prototxt --weights a.caffemodel --weights b.caffemodel
  caffeio test -model net.prototxt -weights x.caffemodel -iterations 10
"""


@click.command(epilog=EPILOG, cls=CaffeCommand)
@click.argument("model", required=False, type=click.Path())
@click.argument("more_weights", nargs=-1, type=click.Path())
@click.option("--model", "-model", "model_option", metavar="FILE", help="As an argument.")
@click.option(
    "--weights", "-weights", "-w", multiple=True, metavar="A[,B]",
    help="Weights to score (.caffemodel, .h5, .safetensors, .pt, .npz); several are scored singly "
    "and as an ensemble.",
)  # fmt: skip
@click.option(
    "--iterations", "-iterations", "-n", default=50, type=click.IntRange(0), help="Batches to run."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", type=Setting(),
    help="Change a field of the net: layer[data].data_param.source=/data/lmdb.",
)  # fmt: skip
@device()
@click.option("--gpu", "-gpu", metavar="ID", help="Use this GPU.")
@caffe("profile")
@state()
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@click.option(
    "--ignore-unknown-fields", "ignore_unknown", is_flag=True,
    help="Go on although the prototxt has fields that no known Caffe has.",
)  # fmt: skip
@on_bad_record
@max_pixels
@forms(json="Print the scores as JSON on stdout.")
@click.pass_context
@opened_once()
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
    from caffeio.cli._device import choose

    device = choose(options["device"], options["gpu"])
    recipe = _recipe(ctx, model, weights, options)
    from caffeio.data.base import Options as DataOptions
    from caffeio.log.glog import Log
    from caffeio.tools.score import score
    from caffeio.training.distributed import World

    log = Log(lambda line: say(line, err=True))
    world = World.init(device)
    log.info("caffe.cpp:275", "Use CPU." if world.device.type == "cpu" else f"Use {world.device}.")
    scores = score(
        recipe, weights, iterations=options["iterations"], world=world, log=log,
        data_options=DataOptions(on_bad_record=options["on_bad_record"],
                                 note=partial(log.note, level="W")),
    )  # fmt: skip
    if options["form"] == "json":
        rows = [
            {"model": s.title, "loss": s.loss, **{k: v.tolist() for k, v in s.outputs.items()}}
            for s in scores
        ]
        say_json(rows, indent=None)


def _recipe(
    ctx: click.Context, model: str, weights: list[str], options: dict[str, Any]
) -> NetRecipe:
    """The net to score, read and looked at, with its weights and data; no torch is needed."""
    from caffeio.cli import _given
    from caffeio.net.recipe import NetRecipe

    nets = [name for name in weights if _given.is_one(name, _given.NET)]
    swapped = f"caffeio test {nets[0] if nets else 'NET.prototxt'} --weights {model}"
    _given.require_net(
        model, "test", example=swapped if _given.is_one(model, _given.WEIGHTS) else ""
    )
    if not weights:
        raise click.UsageError("Need model weights to score.", ctx)
    recipe = NetRecipe.of_tool(
        model, phase="TEST", level=options["level"], stages=options["stages"],
        profile=options["profile"], overrides=options["overrides"],
        allow_python=permit(options["allow_python"]), ignore_unknown=options["ignore_unknown"],
    )  # fmt: skip
    for name in weights:
        _given.require_weights(name)
    recipe.check_sources()
    return recipe
