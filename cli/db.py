"""`caffeio db`: what is done with databases."""

from __future__ import annotations

import click

from caffeio.cli._options import max_pixels
from caffeio.cli._terminal import say, say_json

VERIFY = """
\b
Examples:
  caffeio db verify train_lmdb
  caffeio db verify train_leveldb --backend leveldb
"""


@click.group("db")
def command() -> None:
    """Check databases of records (LMDB, LevelDB)."""


@command.command(epilog=VERIFY)
@click.argument("database", metavar="DB", type=click.Path())
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb",
              show_default=True, help="The kind of database.")  # fmt: skip
@click.option("--annotated", is_flag=True, help="The records are AnnotatedDatums (SSD).")
@click.option("--threads", type=click.IntRange(1), help="Default: as many as there are cores.")
@max_pixels
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    database: str,
    backend: str,
    annotated: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Read and decode every record of DB; list the bad ones by key.

    The exit code is 1 if there are bad records, 2 if the database itself is damaged.
    """
    from caffeio.tools.verify_db import verify_db

    found = verify_db(database, backend.upper(), threads=threads, annotated=annotated)
    names = [(key.decode("utf-8", "backslashreplace"), reason) for key, reason in found.bad]
    if as_json:
        rows = [{"key": key, "reason": reason} for key, reason in names]
        shapes = {"x".join(map(str, shape)): n for shape, n in found.shapes.most_common()}
        say_json({"records": found.records, "shapes": shapes, "bad": rows})
    else:
        for key, reason in names:
            say(f"{database}, key {key}: {reason}")
        say(f"{database}: {found.records:,} records, {len(names):,} bad")
    if names:
        ctx.exit(1)
