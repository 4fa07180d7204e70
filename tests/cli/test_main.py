"""What all commands have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import COMMANDS, main


def test_errors_of_the_system_are_messages(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = CliRunner().invoke(main, ["demo", "-o", str(file / "demo")])
    assert result.exit_code == 2
    assert result.stderr == f"Error: {file / 'demo'}: Not a directory\n"
    result = CliRunner().invoke(main, ["--debug", "demo", "-o", str(file / "demo")])
    assert isinstance(result.exception, NotADirectoryError)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage: main " + name in result.output
