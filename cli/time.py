"""`caffeio time`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from caffeio.cli._complete import Setting
from caffeio.cli._gflags import CaffeCommand
from caffeio.cli._options import caffe, device, forms, phase, state
from caffeio.cli._python import permit
from caffeio.cli._terminal import say, say_json

if TYPE_CHECKING:
    from caffeio.net.recipe import NetRecipe

EPILOG = """
\b
Examples:
  caffeio time train_val.prototxt --iterations 10 --synthetic
  caffeio time -model deploy.prototxt -phase TEST
"""


@click.command(epilog=EPILOG, cls=CaffeCommand)
@click.argument("model", required=False, type=click.Path())
@click.option("--model", "-model", "model_option", metavar="FILE", help="As an argument.")
@click.option(
    "--iterations", "-iterations", "-n", default=50, type=click.IntRange(1), help="Passes to time."
)
@phase("TRAIN")
@device()
@click.option("--gpu", "-gpu", metavar="ID", help="Use this GPU.")
@caffe("profile")
@state()
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", type=Setting(),
    help="Change a field of the net: layer[data].data_param.batch_size=8.",
)  # fmt: skip
@click.option("--synthetic", is_flag=True, help="Feed data layers with noise.")
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@click.option(
    "--ignore-unknown-fields", "ignore_unknown", is_flag=True,
    help="Go on although the prototxt has fields that no known Caffe has.",
)  # fmt: skip
@forms(json="Print the times as JSON on stdout.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Time MODEL layer by layer, as `caffe time` does; log lines go to stderr.

    Data layers read their source; --synthetic feeds noise, so that no data are needed.
    """
    model = options["model_option"] or options["model"]
    if not model:
        raise click.UsageError("Need a model definition to time.", ctx)
    from caffeio.cli._device import choose

    chosen = choose(options["device"], options["gpu"])
    recipe = _recipe(model, options)
    from caffeio.log.glog import Log
    from caffeio.tools.benchmark import time_net

    log = Log(lambda line: say(line, err=True))
    log.info("caffe.cpp:339", "Use CPU." if chosen == "cpu" else f"Use {chosen}.")
    timing = time_net(
        recipe, iterations=options["iterations"], device=chosen, log=log,
        synthetic=options["synthetic"],
    )  # fmt: skip
    if options["form"] == "json":
        say_json({**asdict(timing), "images_per_s": timing.images_per_s})
    elif timing.images:
        say(f"{timing.images_per_s:.2f} images/s (batch {timing.images})")


def _recipe(model: str, options: dict[str, Any]) -> NetRecipe:
    """The net that is to be timed, read and looked at; no torch is needed."""
    from caffeio.cli._given import require_kind
    from caffeio.errors import DataError
    from caffeio.net.recipe import NetRecipe

    require_kind(model, ("net", "caffemodel"), "time takes a net")
    recipe = NetRecipe.of_tool(
        model, phase=options["phase"], level=options["level"], stages=options["stages"],
        profile=options["profile"], overrides=options["overrides"],
        allow_python=permit(options["allow_python"]), ignore_unknown=options["ignore_unknown"],
    )  # fmt: skip
    if not options["synthetic"]:
        try:
            recipe.check_sources()
        except DataError as error:
            hint = "To time the net on noise instead: --synthetic"
            raise DataError(f"{error.message}. {hint}", where=error.where) from None
    return recipe
