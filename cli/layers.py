"""`caffeio layers`."""

from __future__ import annotations

import os
from typing import Any

import click

from caffeio.cli._options import LAYER_TYPE, forms
from caffeio.cli._terminal import say, say_json
from caffeio.errors import CaffeIOError

EPILOG = """\b
Examples:
  caffeio layers
  caffeio layers Convolution
  caffeio layers --json
  caffeio layers --coverage models/
  caffeio layers --coverage train_val.prototxt deploy.prototxt --json
"""


@click.command(epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[TYPE]... | --coverage PATH...", type=LAYER_TYPE)
@click.option(
    "--coverage", is_flag=True, help="Say which nets of the given files and folders can be built."
)
@click.option("--failed", is_flag=True, help="With --coverage: list only those that cannot.")
@forms(json="Write JSON.")
def command(names: tuple[str, ...], coverage: bool, failed: bool, form: str) -> None:
    """List the layer types, explain some of them, or say which nets can be built.

    With a TYPE: what it computes, its bottoms and tops, its fields with their defaults.

    With --coverage each net is built without memory in every phase that it is written for; where
    its parameters do not say how large the data are, usual sizes are tried. The table says why a
    net cannot be built and which of its layer types nobody defines.
    """
    if coverage and not names:
        raise click.UsageError("give --coverage and the files or folders to look at")
    if coverage:
        for name in names:
            if not os.path.exists(name):
                raise CaffeIOError("there is no such file", where=name)
        _coverage(names, failed, form == "json")
    elif names:
        _explain(names, form == "json")
    else:
        _types(form == "json")


def _explain(names: tuple[str, ...], as_json: bool) -> None:
    from caffeio.tools.layer_page import layer_page

    for name in names:
        if os.path.exists(name):
            raise click.UsageError(
                f"{name} is a file: give --coverage and the files: caffeio layers --coverage {name}"
            )
    pages = [layer_page(name) for name in names]
    if as_json:
        _json([page.as_json() for page in pages])
        return
    for page in pages:
        say(f"{page.type_name}: {page.bottoms} bottoms, {page.tops} tops\n\n{page.text}\n")
        wide = max((len(field) for _, field, _, _ in page.fields), default=0)
        message = ""
        for owner, field, kind, default in page.fields:
            if owner != message:
                say(f"{owner} {{ ... }}")
                message = owner
            end = f" (default {default})" if default else ""
            say(f"  {field:<{wide}}  {kind}{end}")


def _types(as_json: bool) -> None:
    from caffeio.tools.layer_support import layer_types

    types = layer_types()
    if as_json:
        _json([row.as_json() for row in types])
        return
    families: dict[str, list[str]] = {}
    for row in types:
        families.setdefault(row.family, []).append(row.name)
    width = max(map(len, families))
    for family, names in sorted(families.items()):
        say(click.wrap_text(
            f"{family:<{width}}  {' '.join(sorted(names))}", 100,
            subsequent_indent=" " * (width + 2),
        ))  # fmt: skip
    say(f"{len(types)} types")


def _coverage(paths: tuple[str, ...], failed: bool, as_json: bool) -> None:
    from caffeio.tools.layer_support import check_nets

    result = check_nets(paths)
    nets = [net for net in result.nets if not (failed and net.built)]
    if as_json:
        totals = {"nets": len(result.nets), "built": result.built, "unknown": dict(result.unknown)}
        _json({**totals, "files": [net.as_json() for net in nets]})
        return
    for net in nets:
        say(f"{'built' if net.built else 'FAILS'}  {net.path}")
        if net.reason:
            say(f"       {net.reason}")
        for phase, outcome in net.phases.items():
            if outcome.guess:
                shapes = ", ".join(f"{k} {' '.join(map(str, v))}" for k, v in outcome.guess.items())
                say(f"       {phase}: with data of other shapes than guessed: {shapes}")
            if not outcome.built:
                say(f"       {phase}: {outcome.reason}")
            if outcome.unknown:
                say(f"       {phase}: unknown types: {', '.join(outcome.unknown)}")
    share = 100 * result.built / len(result.nets) if result.nets else 100.0
    say(f"{result.built} of {len(result.nets)} nets build ({share:.1f} %)")
    if result.unknown:
        listed = ", ".join(f"{name} ({n})" for name, n in result.unknown.most_common())
        say(f"types that nobody defines, with their nets: {listed}")


def _json(value: Any) -> None:

    say_json(value, indent=1)
