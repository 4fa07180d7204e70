"""Command lines of Caffe's own programs, in every spelling that gflags takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from caffeio.cli._gflags import CAFFE, GLOG, GflagsCommand, rewrite
from caffeio.cli.caffe import PROGRAMS, split_action
from caffeio.cli.main import COMMANDS, main

FLAGS = [
    click.Option(["--gray"], is_flag=True),
    click.Option(["--resize-height", "--resize_height"], type=int),
    click.Option(["--backend"]),
    click.Option(["--seed", "-s"], type=int),
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-resize_height 8 -gray a b", "--resize-height 8 --gray a b"),
        ("-resize_height=8 --gray=true", "--resize-height 8 --gray"),
        ("--resize-height=8 -gray=1", "--resize-height 8 --gray"),
        ("-gray=false a", "a"),
        ("-nogray a", "a"),
        ("--nogray=no a", "--gray a"),
        ("-backend lmdb x", "--backend lmdb x"),
        ("-backend=", "--backend "),
        ("-s 3 -logtostderr a -v 2 -stderrthreshold=0 b", "-s 3 a b"),
        ("-nologtostderr a -iterations 5 b", "a b"),
        ("a -- -gray", "a -- -gray"),
        ("-unknown 3 -", "-unknown 3 -"),
    ],
)
def test_rewriting(given: str, expected: str) -> None:
    assert " ".join(rewrite(given.split(), FLAGS, CAFFE | GLOG)) == expected


def test_a_boolean_needs_a_boolean() -> None:
    with pytest.raises(click.UsageError, match="illegal value 'maybe' of the flag '-gray=maybe'"):
        rewrite(["-gray=maybe"], FLAGS, {})


@pytest.mark.parametrize("name", ["train", "test", "time", "convert-imageset", "image-mean"])
def test_every_option_can_be_written_as_gflags_do(name: str) -> None:
    """No option of a command is lost by the rewriting, whatever its spelling."""
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, GflagsCommand)
    for param in command.params:
        if not isinstance(param, click.Option):
            continue
        for spelling in param.opts:
            if not spelling.startswith("--"):
                continue
            bare = spelling.lstrip("-").replace("-", "_")
            value = [] if param.is_flag else ["7"]
            [first, *rest] = rewrite([f"-{bare}", *value], command.params, command.other_flags)
            assert first in param.opts and rest == value


def run(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(main, list(arguments))


def test_flags_of_other_actions_are_taken(tmp_path: Path) -> None:
    """gflags knows all flags of the binary in every action."""
    for line in (
        "train -iterations 3 -phase TRAIN",
        "test -snapshot x -phase TEST",
        "time -solver s",
    ):
        action, *flags = line.split()
        result = run("caffe", action, *flags)
        assert result.exit_code == 2 and "No such option" not in result.output


def test_the_action_stands_anywhere() -> None:
    assert split_action(("-gpu", "0", "train", "-solver=s")) == (
        "train",
        ["-gpu", "0", "-solver=s"],
    )
    assert split_action(("-logtostderr", "time", "-v", "1")) == (
        "time",
        ["-logtostderr", "-v", "1"],
    )
    assert split_action(("--gpu=0",)) == (None, ["--gpu=0"])


def test_device_query_without_gpus() -> None:
    for line in (("device-query",), ("caffe", "device_query"), ("caffe", "device_query", "-v=1")):
        result = run(*line)
        assert result.exit_code == 0
        assert result.stderr.rstrip("\n").endswith("caffe.cpp:138] Querying GPUs ")


def test_an_unknown_action_lists_the_known_ones() -> None:
    result = run("caffe", "frobnicate")
    assert result.exit_code == 2
    assert "Unknown action: frobnicate" in result.output and "device_query" in result.output
    assert run("caffe").exit_code == 0


def test_programs_of_caffes_names(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    result = run("caffe", "--install", str(folder))
    assert result.exit_code == 0
    assert {path.name for path in folder.iterdir()} == set(PROGRAMS)
    assert set(PROGRAMS.values()) <= set(COMMANDS)
    done = subprocess.run(
        [folder / "caffe", "device_query"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Querying GPUs" in done.stderr
    again = run("caffe", "--install", str(folder))
    assert again.exit_code == 2 and "--force replaces them" in again.output
    assert run("caffe", "--install", str(folder), "--force").exit_code == 0
