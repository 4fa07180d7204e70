"""`caffeio layers`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._terminal import say, say_json

EPILOG = """\b
Examples:
  caffeio layers
  caffeio layers --json
  caffeio layers --coverage models/
  caffeio layers --coverage train_val.prototxt deploy.prototxt --json
"""


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(exists=True))
@click.option(
    "--coverage", is_flag=True, help="Say which nets of the given files and folders can be built."
)
@click.option("--failed", is_flag=True, help="With --coverage: list only those that cannot.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(paths: tuple[str, ...], coverage: bool, failed: bool, as_json: bool) -> None:
    """List the layer types, family by family, or which nets can be built.

    With --coverage each net is built without memory in every phase that it is written for; where
    its parameters do not say how large the data are, usual sizes are tried. The table says why a
    net cannot be built and which of its layer types nobody defines.
    """
    if coverage != bool(paths):
        raise click.UsageError("give --coverage and the files or folders, or neither")
    if coverage:
        _coverage(paths, failed, as_json)
    else:
        _types(as_json)


def _types(as_json: bool) -> None:
    from caffeio.tools.layer_support import layer_types

    types = layer_types()
    if as_json:
        _json([kind.as_json() for kind in types])
        return
    families: dict[str, list[str]] = {}
    for kind in types:
        families.setdefault(kind.family, []).append(kind.name)
    width = max(map(len, families))
    for family, names in sorted(families.items()):
        say(click.wrap_text(
            f"{family:<{width}}  {' '.join(sorted(names))}", 100,
            subsequent_indent=" " * (width + 2),
        ))  # fmt: skip
    say(f"{len(types)} types")


def _coverage(paths: tuple[str, ...], failed: bool, as_json: bool) -> None:
    from caffeio.tools.layer_support import coverage

    result = coverage(paths)
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
        listed = ", ".join(f"{kind} ({n})" for kind, n in result.unknown.most_common())
        say(f"types that nobody defines, with their nets: {listed}")


def _json(value: Any) -> None:

    say_json(value, indent=1)
