"""What commands print: text of files is escaped before a terminal sees it."""

from __future__ import annotations

import contextlib
import os
from typing import IO, Any

import click

from caffeio.visible import json_text, visible_lines


def say(text: str, *, err: bool = False, file: IO[Any] | None = None) -> None:
    """Print lines for people; control, escape and bidirectional characters are shown escaped."""
    click.echo(visible_lines(text), err=err, file=file)


def discard(stream: IO[str]) -> None:
    """Let a standard stream that cannot be written to lead nowhere, so that nothing fails later."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say_json(value: Any, *, indent: int | None = 2, file: IO[Any] | None = None) -> None:
    """Print a value as JSON."""
    click.echo(json_text(value, indent), file=file)
