"""`caffeio caffe`: the program `caffe` and its neighbours, for scripts that call them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from caffeio.cli._gflags import CAFFE, GLOG
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio caffe train -solver solver.prototxt -weights x.caffemodel
  caffeio caffe device_query
  caffeio caffe --install ~/bin
"""
# Caffe's program -> the command of ours that does its work.
PROGRAMS = {
    "caffe": "caffe",
    "convert_imageset": "convert-imageset",
    "compute_image_mean": "image-mean",
    "extract_features": "extract-features",
    "upgrade_net_proto_text": "upgrade",
    "upgrade_net_proto_binary": "upgrade",
    "upgrade_solver_proto_text": "upgrade",
}
ACTIONS = {"train": "train", "test": "test", "time": "time", "device_query": "device_query"}


@click.command(
    epilog=EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--install", type=click.Path(file_okay=False), metavar="DIR",
              help="Put programs called caffe, convert_imageset ... into DIR.")  # fmt: skip
@click.option("--force", is_flag=True, help="With --install: replace programs that are there.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context, install: str | None, force: bool, arguments: tuple[str, ...]
) -> None:
    """Run ACTION train, test, time or device_query with Caffe's own command line.

    Flags may stand before or behind the action, with one dash or two. --install makes small
    programs with the names of Caffe's tools, so that old shell scripts run unchanged.
    """
    if install:
        for path in install_programs(Path(install), force=force):
            say(str(path))
        return
    action, rest = split_action(arguments)
    if action is None:
        names = [token.lstrip("-").partition("=")[0].replace("-", "_") for token in arguments]
        unknown = [n for n, token in zip(names, arguments, strict=True) if token[:1] == "-"
                   and n not in CAFFE | GLOG]  # fmt: skip
        if unknown:
            raise click.UsageError(f"unknown command line flag '{unknown[0]}'")
        say(ctx.get_help())
        return
    if action not in ACTIONS:
        known = "".join(f"\n    {name}" for name in ACTIONS)
        raise click.UsageError(f"Unknown action: {action}\nAvailable caffe actions:{known}")
    target = import_module(f"caffeio.cli.{ACTIONS[action]}").command
    with target.make_context(action, rest, parent=ctx) as inner:
        target.invoke(inner)


def split_action(arguments: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """The first argument that is no flag and no flag's value, and all others."""
    skip = False
    for i, token in enumerate(arguments):
        if skip:
            skip = False
        elif token.startswith("-") and token != "-":
            name, equals, _ = token.lstrip("-").partition("=")
            takes_value = (CAFFE | GLOG).get(name.replace("-", "_")) is False
            skip = takes_value and not equals
        else:
            return token, [*arguments[:i], *arguments[i + 1 :]]
    return None, list(arguments)


def install_programs(folder: Path, *, force: bool = False) -> list[Path]:
    """Write a small shell program for each of Caffe's names; nothing that is there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {folder / name: ours for name, ours in PROGRAMS.items()}
    there = [str(path) for path in made if os.path.lexists(path)]
    if there and not force:
        raise click.UsageError(f"{', '.join(there)}: there already; --force replaces them")
    from caffeio.proto.io.atomic import atomic_write

    for path, ours in made.items():
        script = f'#!/bin/sh\nexec "{sys.executable}" -m caffeio {ours} "$@"\n'
        with atomic_write(path) as file:
            file.write(script.encode())
        path.chmod(0o755)
    return list(made)
