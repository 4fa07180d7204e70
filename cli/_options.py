"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def _limit_pixels(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    if value is not None:
        import os

        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(value)  # before OpenCV is loaded
        from caffeio.data.transform.image_header import set_max_pixels

        set_max_pixels(value)


def max_pixels(function: Command) -> Command:
    """Add --max-pixels, which holds for the whole process."""
    return click.option(
        "--max-pixels", type=click.IntRange(1), metavar="N", expose_value=False,
        callback=_limit_pixels,
        help="Refuse pictures of more pixels (width x height); default: 178,956,970, as Pillow.",
    )(function)  # fmt: skip


def on_bad_record(function: Command) -> Command:
    """Add --on-bad-record."""
    return click.option(
        "--on-bad-record", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
        help="A record that cannot be read: stop, or take the one behind it, with a warning.",
    )(function)  # fmt: skip
