"""`caffeio time`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._gflags import CaffeCommand
from caffeio.cli._python import permit
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio time train_val.prototxt --iterations 10 --synthetic
  caffeio time -model deploy.prototxt -phase TEST
"""


@click.command(epilog=EPILOG, cls=CaffeCommand)
@click.argument("model", required=False, type=click.Path())
@click.option("--model", "-model", "model_option", metavar="FILE", help="As an argument.")
@click.option("--iterations", "-iterations", "-n", default=50, help="Passes to time.")
@click.option(
    "--phase", "-phase", default="TRAIN", type=click.Choice(["TRAIN", "TEST"]), help="Phase."
)
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Default: cpu.")
@click.option("--gpu", "-gpu", metavar="ID", help="Use this GPU.")
@click.option("--caffe", "profile", metavar="bvlc|intel|nvidia", help="Whose numbers are wanted.")
@click.option("--stage", "-stage", default="", metavar="A,B", help="Stages of the net.")
@click.option("--level", "-level", default=0, help="Level of the net.")
@click.option("--synthetic", is_flag=True, help="Feed data layers with noise.")
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@click.option(
    "--ignore-unknown-fields", "ignore_unknown", is_flag=True,
    help="Go on although the prototxt has fields that no known Caffe has.",
)  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Time MODEL layer by layer, as `caffe time` does; log lines go to stderr.

    Data layers read their source; --synthetic feeds noise, so that no data are needed.
    """
    model = options["model_option"] or options["model"]
    if not model:
        raise click.UsageError("Need a model definition to time.", ctx)
    from caffeio.cli._device import choose
    from caffeio.log.glog import Log
    from caffeio.tools.benchmark import time_net

    device = choose(options["device"], options["gpu"])
    log = Log(lambda line: say(line, err=True))
    log.info("caffe.cpp:339", "Use CPU." if device == "cpu" else f"Use {device}.")
    timing = time_net(
        model, iterations=options["iterations"], phase=options["phase"], profile=options["profile"],
        stages=[s for s in options["stage"].split(",") if s], level=options["level"],
        device=device, log=log, allow_python=permit(options["allow_python"]),
        synthetic=options["synthetic"], ignore_unknown=options["ignore_unknown"],
    )  # fmt: skip
    if timing.images:
        say(f"{timing.images_per_s:.2f} images/s (batch {timing.images})")
