"""What all commands have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import COMMANDS, main
from tests.fresh import modules_of

NET = """
layer { name: "d" type: "Data" top: "x" top: "l" data_param { batch_size: 2 source: "none" }
  transform_param { crop_size: 8 } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 3 kernel_size: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "l" }
"""


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


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_next_to_nothing(arguments: list[str]) -> None:
    heavy = {"numpy", "google.protobuf", "json", "html", "ctypes", "caffeio.memory"}
    assert modules_of(*arguments).isdisjoint(heavy)


@pytest.mark.parametrize("command", ["show", "lint", "diff"])
def test_nets_without_weights_need_no_numpy(tmp_path: Path, command: str) -> None:
    """It is a third of the time that these commands take."""
    net, other = tmp_path / "net.prototxt", tmp_path / "other.prototxt"
    net.write_text(NET)
    other.write_text(NET.replace("num_output: 3", "num_output: 4"))
    files = [str(net), str(other)] if command == "diff" else [str(net)]
    loaded = modules_of(command, *files, code=1 if command == "lint" else 0)  # 1: it finds some
    assert "caffeio.net.shapes" in loaded
    assert "numpy" not in loaded
