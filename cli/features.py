"""`caffeio features`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._files import read_names, require_picture, require_readable_picture, write_picture
from caffeio.cli._options import caffe, forms, input_shape, max_pixels
from caffeio.cli._python import permit
from caffeio.cli._terminal import say, say_json
from caffeio.proto.io.opened import opened_once

EPILOG = """\b
Examples:
  caffeio features net.prototxt x.caffemodel cat.jpg --classes names.txt
  caffeio features deploy.prototxt x.caffemodel cat.jpg --mean 104,117,123
  caffeio features ssd.prototxt ssd.caffemodel street.jpg --threshold 0.3
"""


def _mean(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | tuple[float, ...] | None:
    from caffeio.converters.preprocessing import parse_mean

    return None if value is None else parse_mean(value)


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.argument("weights", type=click.Path())
@click.argument("picture", type=click.Path())
@click.option("--output", "-o", default="features.png", show_default=True, metavar="FILE",
              type=click.Path(), help="The picture that is written (.png, .jpg).")  # fmt: skip
@click.option("--blob", "blobs", multiple=True, metavar="NAME",
              help="Draw its maps; may be repeated. Default: some of all depths.")  # fmt: skip
@click.option("--mean", callback=_mean, metavar="B,G,R|FILE",
              help="Subtract this. Default: what the net's data layer says.")  # fmt: skip
@click.option("--scale", type=float, metavar="X", help="Multiply by this, after the mean.")
@click.option("--rgb", is_flag=True, help="The net takes RGB, not Caffe's BGR.")
@click.option("--classes", metavar="FILE", type=click.Path(),
              help="Names of the classes, one a line, from class 0 on.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, metavar="N",
              help="How many classes are said.")  # fmt: skip
@click.option("--threshold", type=float, default=0.5, show_default=True, metavar="X",
              help="Least score of a box (SSD).")  # fmt: skip
@click.option("--saliency/--no-saliency", default=True, show_default=True,
              help="Draw which pixels the best class depends on (one backward pass).")  # fmt: skip
@input_shape("shapes", "The shape of the input, where the net does not tell it")
@caffe("profile")
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@max_pixels
@forms(json="Print the result as JSON.")
@opened_once()
def command(model: str, weights: str, picture: str, output: str, form: str, **options: Any) -> None:
    """Show what a net sees in one picture: classes, boxes, feature maps, the pixels that matter.

    MODEL is a net with data layers, whose transform_param is used, or a deploy net. The picture is
    resized to the net's input.
    """
    from caffeio.cli import _given

    example = f"caffeio features {weights} {model} {picture}"
    mean = options["mean"]
    named = [name for name in (mean, options["classes"]) if isinstance(name, str)]
    _given.there(model, weights, picture, *named)
    _given.apart(output)
    require_picture(output)
    swapped = _given.is_one(model, _given.WEIGHTS) and _given.is_one(weights, _given.NET)
    _given.require_net(model, "features", example=example if swapped else "")
    _given.require_weights(weights, "features")
    _given.require_blobs(model, options["blobs"])
    from caffeio.converters.request import parse_input_shape

    shapes = dict(map(parse_input_shape, options["shapes"]))
    require_readable_picture(picture)
    names = read_names(options["classes"])
    from caffeio.converters.features import Preprocessing, see

    seen = see(
        model, weights, picture,
        preprocessing=Preprocessing(mean, options["scale"], options["rgb"]),
        blobs=options["blobs"], names=names, top=options["top"], threshold=options["threshold"],
        saliency=options["saliency"], input_shapes=shapes,
        profile=options["profile"], allow_python=permit(options["allow_python"]),
    )  # fmt: skip
    assert seen.picture is not None
    write_picture(output, seen.picture)
    if form == "json":
        say_json(_data(seen, output))
        return
    say(f"{picture}: {seen.preparation}")
    for note in seen.notes:
        say(f"note: {note}", err=True)
    for number, name, score in seen.classes:
        say(f"{score:8.4f}  {name}" + (f" (class {number})" if number < len(names) else ""))
    for box, score, name in seen.boxes:
        corners = ", ".join(f"{v:.3f}" for v in (box.xmin, box.ymin, box.xmax, box.ymax))
        say(f"{score:8.4f}  {name}: {corners}")
    say(f"Written: {output}")


def _data(seen: Any, output: str) -> dict[str, Any]:
    return {
        "prepared": seen.preparation,
        "classes": [{"class": i, "name": n, "score": s} for i, n, s in seen.classes],
        "boxes": [
            {"label": box.group_label, "name": name, "score": score,
             "box": [box.xmin, box.ymin, box.xmax, box.ymax]}
            for box, score, name in seen.boxes
        ],
        "maps": seen.maps,
        "notes": seen.notes,
        "written": output,
    }  # fmt: skip
