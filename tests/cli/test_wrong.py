"""What people type wrong, and what is said: at once, without torch, with what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffeio.cli.main import COMMANDS, main
from caffeio.demo import recipe
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.load import write_caffemodel
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffeio.gpus.DEVICES", ())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a net, its solvers, weights and a state, and no data."""
    from caffeio.proto.weights.solverstate import SolverState, write_solverstate

    monkeypatch.chdir(tmp_path)
    demo = tmp_path / "demo"
    demo.mkdir()
    recipe.write(demo)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "deploy.prototxt").write_text(
        'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 } } }'
    )
    rest = "base_lr: 0.1 max_iter: 3 solver_mode: CPU"
    (odd / "no_policy.prototxt").write_text(f'net: "demo/train_val.prototxt" {rest}')
    (odd / "phases.prototxt").write_text(
        f'params_pair {{ solver_params {{ net: "demo/train_val.prototxt" {rest} }} }}'
    )
    (odd / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (odd / "of_deploy.prototxt").write_text(f'net: "deploy.prototxt" lr_policy: "fixed" {rest}')
    (demo / "train_lmdb").mkdir()
    (demo / "test_lmdb").mkdir()
    net = pb.NetParameter(name="net", layer=[pb.LayerParameter(name="conv1", type="Convolution")])
    write_caffemodel(demo / "w.caffemodel", net, [[np.zeros((2, 3), np.float32)]])
    write_solverstate(demo / "w.solverstate", SolverState(3, "w.caffemodel"))
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments, prog_name="caffeio")
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    return result


SOLVER, NET, WEIGHTS = "demo/solver_cyc1.prototxt", "demo/train_val.prototxt", "demo/w.caffemodel"
STATE = "demo/w.solverstate"

CASES = {
    # words that are no commands
    ("trian",): "Did you mean 'train'?",
    ("covert",): "Did you mean 'convert'?",
    ("export", NET): "caffeio convert",
    ("info", NET): "caffeio show",
    ("version",): "caffeio --version",
    ("help", "train"): "caffeio train --help",
    ("help",): "caffeio COMMAND --help",
    ("device_query",): "caffeio device-query",
    ("inspect", "x"): "caffeio show",
    (NET,): f"caffeio show {NET}",
    ("xyzzy",): "caffeio --help lists the commands",
    # options of other tools
    ("train", SOLVER, "--batch-size", "8"): "--set 'layer[data].data_param.batch_size=8'",
    ("train", SOLVER, "--max-iter", "9"): "--set max_iter=9",
    ("train", SOLVER, "--lr", "0.1"): "--set base_lr=0.1",
    ("train", SOLVER, "--epochs", "9"): "iterations: epochs x images",
    ("train", SOLVER, "--resume", STATE): "Did you mean --snapshot?",
    ("train", SOLVER, "--weight", WEIGHTS): "Did you mean --weights?",
    ("train", "--verbose"): "caffeio --debug train",
    ("test", NET, "--batch-size=8"): "--set 'layer[data].data_param.batch_size=8'",
    ("test", NET, "--max-iter", "8"): "Did you mean --iterations?",
    ("convert", NET, "--simplify"): "Did you mean --fold?",
    ("convert", NET, "--overwrite"): "Did you mean --force?",
    ("lint", "--nonsense"): "caffeio lint --help lists the options",
    # fields
    ("train", SOLVER, "--set", "batch_size=8"): "layer[data].data_param.batch_size=8",
    ("train", SOLVER, "--set", "base_lrr=1"): "did you mean base_lr?",
    ("train", SOLVER, "--set", "layer[dta].data_param.batch_size=8"): "did you mean layer[data]",
    # files of another kind
    ("train", NET): f"{NET} is a net; train takes a solver: did you mean demo/solver_",
    ("scale", NET, "--workers", "2"): f"{NET} is a net; scale takes a solver",
    ("plot", NET): f"{NET} is a net; plot takes solvers",
    ("test", SOLVER, "--weights", WEIGHTS): f"is a solver; test takes a net: did you mean {NET}?",
    ("time", SOLVER): f"is a solver; time takes a net: did you mean {NET}?",
    ("test", WEIGHTS, NET): f"caffeio test {NET} --weights {WEIGHTS}",
    ("test", WEIGHTS): f"{WEIGHTS} is weights; test takes a net",
    ("test", NET, "--weights", STATE): f"is a solver state; --weights takes weights: did you "
    f"mean {WEIGHTS}?",
    ("train", SOLVER, "--snapshot", WEIGHTS): f"takes a .solverstate: did you mean {STATE}?",
    ("train", SOLVER, "--weights", STATE): "or --snapshot, to go on from this state",
    ("train", SOLVER, "--weights", NET): f"{NET} is a net; --weights takes weights",
    ("extract-features", NET, WEIGHTS, "fc", "o", "1"): "the weights go first, then the net",
    (
        "extract-features",
        WEIGHTS,
        NET,
        "fcc",
        "o",
        "1",
    ): "blob name fcc in the network: did you mean fc?",
    ("caffe", "--nonsense"): "unknown command line flag 'nonsense'",
    ("layers", NET): f"caffeio layers --coverage {NET}",
    ("layers", "Convolutoin"): "did you mean Convolution",
    # files that are not there
    ("train", "demo/solver_cyc1.prototxtt"): f"did you mean {SOLVER}?",
    ("show", "demo/solver_cyc1.prototxtt"): f"did you mean {SOLVER}?",
    ("verify", NET, WEIGHTS, "no.onnx"): "no.onnx: there is no such file",
    ("train", SOLVER, "--weights", "no.caffemodel"): "no.caffemodel' is not there (tried",
    ("train", SOLVER, "--snapshot", "no.solverstate"): "no.solverstate: no such file",
    ("train", SOLVER, "--set", "layer[data].data_param.source=no"): "'no' does not exist; looked",
    ("test", NET, "--weights", "no.caffemodel"): "no.caffemodel",
    ("time", NET, "--set", "layer[data].data_param.source=no"): "--synthetic",
    ("features", NET, WEIGHTS, "no.jpg"): "no.jpg: there is no such file",
    ("features", WEIGHTS, NET, NET): f"caffeio features {NET} {WEIGHTS}",
    ("features", NET, WEIGHTS, NET): "cannot decode the image",
    ("features", NET, WEIGHTS, "odd/p.png", "--mean", "no.bin"): "no.bin: there is no such file",
    ("features", NET, WEIGHTS, "odd/p.png", "--classes", "no.txt"): "no.txt: there is no such file",
    ("features", NET, WEIGHTS, "odd/p.png", "--blob", "res3"): "no blob 'res3': did you mean res3a",
    ("db", "create", WEIGHTS, "db"): f"{WEIGHTS} is weights; db create takes a list of images, a",
    ("db", "create", NET, "db"): f"{NET} is a net; db create takes",
    ("scale", "odd/phases.prototxt", "--workers", "2"): "several phases (params_pair); scale takes",
    ("diff", "odd/phases.prototxt", NET): "is a solver of several phases (params_pair)",
    ("diff", NET, NET, "--plot", "x.png"): "--plot draws learning rates: both sides must be solv",
    ("diff", SOLVER, SOLVER, "--plot", "x.gif"): "curves are written as .csv, .png, .svg, .pdf",
    ("plot", SOLVER, "-o", "x.gif"): "x.gif: curves are written as .csv, .png, .svg, .pdf",
    ("lint", "demo/solver_cyc1.prototxtt"): f"did you mean {SOLVER}?",
    ("convert", "no.prototxt", "x.onnx"): "no.prototxt: there is no such file",
    (
        "convert",
        NET,
        "x.onnx",
    ): "no weights are given, and 10 layers have some (conv1, res2a_a, res",
    ("convert", NET, "-o", "x.tflite"): "the suffix '.tflite' tells no format",
    ("features", NET, WEIGHTS, NET, "-o", "x.txt"): "the suffix '.txt' tells no kind of picture",
    ("db", "show", "demo/train_lmdb", "--sheet", "s.txt"): "the suffix '.txt' tells no kind of pic",
    ("train", SOLVER, "--report", "demo"): "'--report': File 'demo' is a directory",
    ("train", SOLVER, "--report", "no/x.html"): "no/x.html: --report: its folder is not there",
    ("show", SOLVER, "--script", "opencv"): "--script is for a net, whose data layers tell",
    # files that would be lost
    **dict.fromkeys(
        (
            ("features", NET, WEIGHTS, NET, "-o", NET),
            ("verify", NET, WEIGHTS, NET, WEIGHTS, "--html", "-o", f"demo/../{NET}"),
            ("show", NET, "--html", "-o", NET),
            ("show", NET, "--weights", WEIGHTS, "-o", WEIGHTS),
            ("diff", NET, SOLVER, "-o", SOLVER),
            ("diff", SOLVER, SOLVER, "--plot", SOLVER),
            ("lint", NET, "--json", "-o", NET),
            ("plot", SOLVER, "-o", SOLVER),
            ("train", SOLVER, "--report", SOLVER),
            ("train", SOLVER, "--report", NET),
            ("train", SOLVER, "--metrics", NET, "--dry-run"),
            ("train", SOLVER, "--report", "new.html", "--profile", "new.html"),
            ("db", "show", "demo/train_lmdb", "--classes", NET, "--sheet", NET),
        ),
        "is a file of this command already",
    ),
    # values
    ("show", NET, "--input", "data=1,x"): "'data=1,x' is no input shape; one looks like data=1,3",
    ("features", NET, WEIGHTS, NET, "--input", "data=-1,3"): "'data=-1,3' is no input shape",
    ("device-query", "-gpu", "x"): "all, or numbers like 0,1",
    **dict.fromkeys(
        (
            ("train", SOLVER, "-gpu", "0"),
            ("train", SOLVER, "--device", "cuda"),
            ("time", NET, "-gpu", "0", "--synthetic"),
        ),
        "a GPU is asked for (-gpu or --device cuda), but PyTorch sees none: say --device cpu",
    ),
    ("device-query", "-gpu", "0"): "-gpu 0: this machine has no GPU that torch can use",
    ("time", NET, "--iterations", "0"): "0 is not in the range x>=1",
    ("test", NET, "--weights", WEIGHTS, "--iterations", "-1"): "-1 is not in the range x>=0",
    ("train", SOLVER, "--caffe", "torch"): "unknown profile 'torch': known are bvlc, intel",
    ("show", NET, "--caffe", "torch"): "unknown profile 'torch'",
    ("lint", NET, "--caffe", "torch"): "unknown profile 'torch'",
    ("show", NET, "--json", "--html"): "two forms are wanted",
    ("diff", NET, NET, "--json", "--format", "html"): "two forms are wanted",
    ("train", SOLVER, "--device", "gpu"): "did you mean cuda?",
    ("train", "odd/no_policy.prototxt"): "lr_policy is missing (known: fixed, step",
    ("plot", "odd/no_policy.prototxt"): "lr_policy is missing (known: fixed, step",
    ("train", "odd/of_deploy.prototxt"): "is a deploy net: nothing gives its input 'data'",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    CASES.items(),
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_said(arguments: tuple[str, ...], said: str, folder: Path) -> None:
    before = _files(folder)
    assert said in run(*arguments).stderr
    assert _files(folder) == before


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize("word", ["-help", "-h", "-?"])
def test_every_way_to_ask_for_help(name: str, word: str) -> None:
    if name == "run" and word != "-h":
        pytest.skip("arguments of `run` are the script's")
    result = CliRunner().invoke(main, [name, word], prog_name="caffeio")
    assert result.exit_code == 0 and result.output.startswith(f"Usage: caffeio {name}")


def test_profiles_are_the_same_everywhere() -> None:
    for name in ("bvlc", "intel-mkldnn", "bvlc,math"):
        for arguments in (["lint", SOLVER], ["show", SOLVER], ["diff", SOLVER, SOLVER]):
            result = CliRunner().invoke(main, [*arguments, "--caffe", name])
            assert result.exit_code in (0, 1), result.output


def test_wrong_arguments_import_no_torch(folder: Path) -> None:
    """All of the cases in one process that never imports torch: that is what takes time."""
    cases = [list(arguments) for arguments in CASES]
    wrong = [[name, "--nonsense"] for name in sorted(COMMANDS)]
    code = (
        "import sys\n"
        "import caffeio.gpus\n"
        "caffeio.gpus.DEVICES = ()\n"
        "from click.testing import CliRunner\n"
        "from caffeio.cli.main import main\n"
        f"for words in {cases + wrong!r}:\n"
        "    CliRunner().invoke(main, words)\n"
        "    found = {'torch', 'onnx', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "    assert not found, (words, found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cut.caffemodel", None, "is cut off"),
        ("page.caffemodel", "<!DOCTYPE html><html>", "is a web page, not the file"),
    ],
)
def test_every_command_knows_a_broken_download(
    folder: Path, name: str, text: str | None, said: str
) -> None:
    """The words of the weights' own reader (../shared/findings/convert.md, F7)."""
    file = folder / name
    if text is None:
        net = pb.NetParameter(layer=[pb.LayerParameter(name="conv1", type="Convolution")])
        write_caffemodel(file, net, [[np.zeros((200, 30), np.float32)]])
        file.write_bytes(file.read_bytes()[:-9000])
    else:
        file.write_text(text)
    for arguments in (
        ["show", name], ["lint", name], ["diff", name, name], ["convert", name, "x.pt"],
        ["convert", NET, name, "x.onnx"], ["test", NET, "--weights", name],
        ["train", SOLVER, "--weights", name],
    ):  # fmt: skip
        assert said in run(*arguments).stderr, arguments


def test_one_vocabulary() -> None:
    """An option that several commands have is written, and takes its values, in one way."""
    ways: dict[str, dict[tuple[object, ...], list[str]]] = {}

    def note(command: click.Command, path: str) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                note(inner, f"{path} {name}".strip())
            return
        for param in command.params:
            if not isinstance(param, click.Option):
                continue
            [long] = [o for o in param.opts if o.startswith("--")][:1] or [""]
            kind = type(param.type).__name__
            choices = tuple(getattr(param.type, "choices", ())) if long != "--format" else ()
            way = (kind, choices, param.multiple if not param.is_flag else None)
            ways.setdefault(long, {}).setdefault(way, []).append(path)

    note(main, "")
    for name in ("--phase", "--stage", "--level", "--caffe", "--input-shape", "--device", "--json",
                 "--format", "--dialect", "--set", "--allow-python", "--gpu"):  # fmt: skip
        assert len(ways[name]) == 1, (name, ways[name])
    for name in ("--output", "--weights"):  # `-o` and `-w` everywhere
        assert name in ways
    for name in ("show", "diff", "lint", "verify", "layers", "test", "time", "features"):
        assert name in next(iter(ways["--json"].values()))
        assert name in next(iter(ways["--format"].values()))


def test_defaults_are_shown() -> None:
    for name, text in (("test", "default: 50"), ("time", "default: 50"), ("show", "default: text")):
        help_text = CliRunner().invoke(main, [name, "--help"]).output
        assert f"[{text}" in help_text.replace("\n", " "), help_text
