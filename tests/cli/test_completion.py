from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_names_the_command_and_its_variable(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_CAFFEIO_COMPLETE" in result.output


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_script_is_valid() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_completes_commands_and_options() -> None:
    code = "from caffeio.cli.main import main; main(prog_name='caffeio')"

    def completions(words: str, current: int) -> str:
        env = {**os.environ, "_CAFFEIO_COMPLETE": "bash_complete", "COMP_WORDS": words,
               "COMP_CWORD": str(current)}  # fmt: skip
        run = subprocess.run([sys.executable, "-c", code], env=env, text=True,
                             stdout=subprocess.PIPE, check=False)  # fmt: skip
        return run.stdout

    assert "plain,train" in completions("caffeio tr", 1)
    assert "plain,--snapshot" in completions("caffeio train --sn", 2)
