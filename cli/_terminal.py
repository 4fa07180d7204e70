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


def write_report(report: Any, form: str, output: str | None, *, most: int | None = None) -> None:
    """Write a report as text, JSON, HTML or Markdown, to a file or to standard output.

    `most`: the rows of long tables that a text on standard output shows.
    """
    if form == "text":
        import io
        import sys

        from caffeio.converters.report import text

        if not output:
            text.write(report, sys.stdout, most=most)
            return
        stream = io.StringIO()
        text.write(report, stream)
        body = stream.getvalue()
    elif form == "json":
        body = json_text(report.data, 2) + "\n"
    elif form == "html":
        from caffeio.converters.report import html

        body = html.render(report)
    else:
        from caffeio.converters.report import markdown

        body = markdown.render(report)
    if output:
        from caffeio.cli._files import write_output

        write_output(output, [body.encode("utf-8", "backslashreplace")])
    else:
        click.echo(body, nl=False)


def say_json(value: Any, *, indent: int | None = 2, file: IO[Any] | None = None) -> None:
    """Print a value as JSON."""
    click.echo(json_text(value, indent), file=file)
