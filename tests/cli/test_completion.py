from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.demo import recipe


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


def completed(command: str, arguments: list[str], incomplete: str) -> list[str]:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(main, {}, "caffeio", "_CAFFEIO_COMPLETE")
    return [item.value for item in complete.get_completions([command, *arguments], incomplete)]


def test_names_of_rules_formats_profiles_and_layer_types() -> None:
    assert completed("lint", ["--ignore"], "CIO50") == [f"CIO50{n}" for n in range(1, 10)]
    assert completed("convert", ["--to"], "ca") == ["caffemodel"]
    assert completed("train", ["--caffe"], "intel-m") == ["intel-mkldnn", "intel-mlsl"]
    assert "Convolution" in completed("layers", [], "Conv")
    assert completed("convert", ["--target"], "nn") == ["nnie"]
    assert completed("show", ["--dialect"], "bvlc-o") == ["bvlc-opencl"]


def test_names_of_layers(tmp_path: Path) -> None:
    """Of the net that stands on the command line, or that its solver names."""
    recipe.write(tmp_path)
    net, solver = str(tmp_path / "train_val.prototxt"), str(tmp_path / "solver_init.prototxt")
    assert completed("train", [solver, "--set"], "base_") == ["base_lr="]
    for command, arguments in (
        ("train", [solver, "--set"]), ("test", [net, "--set"]), ("edit", [net]),
    ):  # fmt: skip
        assert completed(command, arguments, "layer[conv") == ["layer[conv1]."]
    assert completed("train", [str(tmp_path / "none"), "--set"], "layer[") == []
