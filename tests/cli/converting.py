"""`caffeio convert` as a user calls it: right, or with one message."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from caffeio.cli.main import main


def run(*args: str | Path, command: str = "convert", stdin: bytes | None = None) -> Result:
    """Call the command; a traceback fails the test."""
    result = CliRunner().invoke(main, [command, *map(str, args)], input=stdin)
    assert "Traceback" not in result.output
    return result


def good(*args: str | Path, stdin: bytes | None = None) -> Result:
    """Convert: it must end well."""
    result = run(*args, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


def bad(*args: str | Path) -> str:
    """Convert: it must refuse; returns what it says."""
    result = run(*args)
    assert result.exit_code == 2, result.output
    return result.stderr
