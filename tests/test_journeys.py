"""The first hour of people who come with a purpose: each gets what they came for.

A journey is a list of commands as README and the pages have them (each command's first words stand
there), run in one folder from a user's own files to the result, which is then looked at.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.demo import glyphs, recipe
from tests import warm
from tests.paths import EXPORTS_PROGRAMS, NO_PROGRAMS, ROOT, SHARED, needs_shared

PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
}


def told(page: str, *words: str) -> None:
    """The page tells of a command with these words on one line."""
    lines = PAGES[page].splitlines()
    assert any(all(word in line for word in words) for line in lines), (page, words)


def run(command: str, code: int = 0) -> str:
    """Run a command; its standard output, or its standard error if it is to fail."""
    result = CliRunner().invoke(main, shlex.split(command)[1:], env={"COLUMNS": "80"})
    assert result.exit_code == code, (command, result.output)
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def demo(here: Path) -> Path:
    folder = here / "demo"
    folder.mkdir()
    glyphs.make_lmdb(folder / "train_lmdb", 40, seed=1)
    glyphs.make_lmdb(folder / "test_lmdb", 16, seed=2)
    recipe.write(Path("demo"))
    return folder


@needs_shared
def test_a_face_detector_for_opencv(here: Path) -> None:
    """From a prototxt and a caffemodel to ONNX: its 200 boxes are those that OpenCV found."""
    told("convert.md", "caffeio convert", "INPUTS... OUTPUT")
    source = SHARED / "corpus" / "caffemodels" / "res10_ssd"
    [weights] = source.glob("*.caffemodel")
    (here / "deploy.prototxt").symlink_to(source / "deploy.prototxt.txt")
    (here / "face.caffemodel").symlink_to(weights)
    shown = run("caffeio show deploy.prototxt")
    assert "detection_out" in shown and len(shown.splitlines()) <= 60
    said = run("caffeio convert deploy.prototxt face.caffemodel face.onnx")
    assert "onnxruntime" in said
    size = weights.stat().st_size
    run("caffeio convert deploy.prototxt face.caffemodel", 2)  # the output is forgotten
    assert weights.stat().st_size == size
    runtime = pytest.importorskip("onnxruntime")
    with np.load(source / "opencv.npz") as archive:
        recorded = dict(archive)
    session = runtime.InferenceSession("face.onnx", providers=["CPUExecutionProvider"])
    [boxes] = session.run(["detection_out"], {"data": recorded["in/data"]})
    wanted = recorded["out/detection_out"].reshape(-1, 7)
    assert np.abs(boxes.reshape(-1, 7)[: len(wanted)] - wanted).max() < 1e-4


def test_b_a_recipe_of_many_workers(demo: Path) -> None:
    """Look, plan, train, be interrupted, go on, score: nothing is copied by hand."""
    told("train.md", "caffeio show", "--workers", "--speed")
    told("train.md", "caffeio train", "--dry-run")
    told("train.md", "caffeio train", "solver_init.prototxt", "solver_cyc1.prototxt")
    solvers = "demo/solver_init.prototxt demo/solver_cyc1.prototxt"
    chain = json.loads(run(f"caffeio show {solvers} --workers 128 --dataset-size 6400 --json"))
    assert chain["images"] == 32 * 128 * 630 and chain["epochs"] == pytest.approx(403.2)
    small = "--set max_iter=2 --set layer[data].data_param.batch_size=4"
    plans = json.loads(run(f"caffeio train {solvers} {small} --dry-run --json"))["phases"]
    assert [plan["what"] for plan in plans] == ["begins", "begins"]
    assert not list(demo.glob("*.caffemodel"))
    run(f"caffeio train demo/solver_init.prototxt {small} --quiet")
    plans = json.loads(run(f"caffeio train {solvers} {small} --dry-run --json"))["phases"]
    assert [plan["what"] for plan in plans] == ["skipped", "begins"]
    assert plans[1]["from"] == "demo/init_iter_2.caffemodel"
    run(f"caffeio train {solvers} {small} --quiet --metrics m.jsonl --report run.html")
    lines = Path("m.jsonl").read_text().splitlines()
    assert {json.loads(line)["phase"] for line in lines} == {"demo/solver_cyc1.prototxt"}
    assert "solver_cyc1" in Path("run.html").read_text()
    told("README.md", "caffeio test", "--iterations 2")
    names = "demo/init_iter_2.caffemodel,demo/cyc1_iter_2.caffemodel"
    scores = json.loads(
        run(f"caffeio test demo/train_val.prototxt --weights {names} --iterations 2 --json")
    )
    assert [row["model"] for row in scores][-1] == "ensemble of the 2 models"
    assert "Written: run.png" in run("caffeio plot m.jsonl")


@pytest.mark.skipif(not EXPORTS_PROGRAMS, reason=NO_PROGRAMS)
def test_c_a_pytorch_module_for_a_chip(here: Path) -> None:
    """A module's weights as a caffemodel: checked, and never a wrong file without a word."""
    import torch
    from torch import nn

    told("npu.md", "caffeio convert", "module.pt2", "module.caffemodel")
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 3),
    ).eval()
    module[1].running_mean += 0.3
    x = torch.randn(1, 3, 8, 8)
    torch.export.save(torch.export.export(module, (x,)), "module.pt2")
    said = run("caffeio convert module.pt2 module.caffemodel")
    assert "largest relative difference" in said
    assert run("caffeio lint module.prototxt") and run(
        "caffeio lint --target bvlc-1.0 module.prototxt"
    )
    from caffeio.net import load_net

    net = load_net("module.prototxt", "module.caffemodel")
    with torch.no_grad():
        [scores] = net({net.graph.inputs[0]: x}).values()
        assert torch.allclose(scores, module(x), atol=1e-5)
    torch.save({"0.weight": torch.zeros(4, 3, 3, 3)}, "part.pt")
    before = Path("module.caffemodel").read_bytes()
    run("caffeio convert module.prototxt part.pt module.caffemodel", 2)
    assert Path("module.caffemodel").read_bytes() == before


def test_d_a_script_that_imports_caffe(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It runs as it is, from Python 2 too."""
    told("README.md", "caffeio run script.py")
    net = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
    net += 'layer { name: "p" type: "Power" bottom: "data" top: "y" power_param { scale: 3 } }\n'
    Path("net.prototxt").write_text(net)
    body = "import caffe\nnet = caffe.Net('net.prototxt', caffe.TEST)\n"
    body += "net.blobs['data'].data[...] = 2\nnet.forward()\n"
    Path("new.py").write_text(body + "print('y is', net.blobs['y'].data[0, 0])\n")
    Path("old.py").write_text(body + "print 'y is', net.blobs['y'].data[0, 0]\n")
    for options in (warm.caffeio("run", "new.py"), warm.caffeio("run", "--py2", "old.py")):
        done = subprocess.run(**options, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout == "y is 6.0\n", done.stderr


def test_e_a_review_of_two_revisions(demo: Path) -> None:
    """What a commit does to the training, as text for the pull request; a gate that can fail."""
    told("ci.md", "caffeio diff", "--format markdown")
    told("ci.md", "caffeio lint", "--format github")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    solver = demo / "solver_init.prototxt"
    for change, message in (("", "one"), ("base_lr: 0.1", "two")):
        if change:
            solver.write_text(re.sub(r"base_lr: \S+", change, solver.read_text()))
        else:
            subprocess.run([*git, "init", "-q"], check=True, timeout=60)
        for arguments in (["add", "demo/*.prototxt"], ["commit", "-qm", message]):
            subprocess.run([*git, *arguments], check=True, timeout=60)
    text = run("caffeio diff HEAD~1 HEAD --format markdown --workers 8 --dataset-size 6400")
    assert "demo/solver\\_init.prototxt" in text and "0.1" in text
    assert "solver\\_cyc1" not in text
    assert run("caffeio diff HEAD~1 HEAD --exit-code --format json", 1) == ""
    page = run("caffeio diff HEAD~1:demo/solver_init.prototxt demo/solver_init.prototxt --html")
    assert page.count("<polyline") == 2
    assert "nothing found" in run("caffeio lint demo")
    solver.write_text(solver.read_text().replace("lr_iter: 1080", "lr_iter: 400"))
    result = CliRunner().invoke(main, ["lint", "demo", "--format", "github"])
    assert (
        result.exit_code == 1 and "::warning file=demo/solver_init.prototxt,line=" in result.stdout
    )
    assert "Did you mean" in run("caffeio lint demo --ignore CI0502", 2)


def test_f_pictures_of_a_training(demo: Path) -> None:
    """Data looked at, a net trained, its page with curves, confusions and mistakes."""
    told("train.md", "--report run.html", "--log short")
    assert "records" in run("caffeio db show demo/test_lmdb")
    sets = "--set max_iter=4 --set layer[data].data_param.batch_size=8 --set test_iter=2"
    run(
        f"caffeio train demo/solver_init.prototxt {sets} --set test_interval=4 --log short "
        "--report run.html --metrics m.jsonl"
    )
    page = Path("run.html").read_text()
    for part in ("Loss", "Learning rate", "Confusions", "Worst mistakes", "Machine and versions"):
        assert f"<h2>{part}</h2>" in page
    assert "Iteration 0" in Path("demo/init.log").read_text()
    run("caffeio plot demo/init.log m.jsonl -o runs.svg")
    assert Path("runs.svg").read_text().startswith("<?xml")
