"""`caffeio show` as a user calls it."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.proto import caffe_pb2 as pb
from tests.cli.test_diff import loaded_modules
from tests.paths import GOLDEN, ROOT

RECIPE = ROOT / "tests" / "converters" / "recipe"
NET = str(RECIPE / "net.prototxt")


def run(*arguments: str, **options):
    result = CliRunner().invoke(main, ["show", *arguments], **options)
    if result.exit_code not in (0, 2):
        raise AssertionError(result.output) from result.exception
    return result


def test_a_net():
    text = run(NET, env={"COLUMNS": "120"}).output
    assert "small" in text and "sara" in text
    assert "data 50x3x24x24" in text
    assert "Convolution+BatchNorm+Scale+ReLU" in text
    assert max(map(len, text.splitlines())) <= 120


def test_forms(tmp_path):
    data = json.loads(run(NET, "--json").output)
    assert data["net"]["parameters"] == 8 * 27 + 8 + 17 + 16 + 8 * 10 + 10
    assert data["net"]["layers"][0]["where"].endswith("net.prototxt:29:1")
    drawn = run(NET, "--tree").output
    assert "│ loss" in drawn and "\nfc  InnerProduct  -> 10" in drawn
    assert run(NET, "--dot").output.startswith("digraph")
    ElementTree.fromstring(run(NET, "--svg").output)
    out = tmp_path / "net.html"
    assert run(NET, "--html", "-o", str(out)).output == ""
    assert out.read_text().startswith("<!doctype html>")


def test_phase_stage_and_input():
    train = json.loads(run(NET, "--json", "--phase", "train").output)
    assert train["net"]["phase"] == "TRAIN"
    text = 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" include { stage: "s" } }'
    shown = run("-", "--json", "--stage", "s", "--input", "x=2,3", input=text)
    assert json.loads(shown.output)["net"]["outputs"] == [{"name": "y", "shape": [2, 3]}]
    wrong = run("-", "--input", "x=a", input=text)
    assert wrong.exit_code == 2 and "NAME=N,C,H,W" in wrong.stderr


def test_a_solver():
    text = run(str(RECIPE / "cyc2.prototxt"), "--dataset-size", "1000").output
    assert "warm-up 0.255 to 0.764 over 1000" in text
    assert "152 of 1,000 images" in text
    data = json.loads(run(str(RECIPE / "cyc2.prototxt"), "--json").output)
    assert data["fields"]["lr_iter"] == "7500" and "gamma" not in data["fields"]
    assert data["learning_rate"]["iterations"] == 4750


@pytest.mark.parametrize("name", ["solver", "solverstate", "mean", "labelmap", "folder", "lmdb"])
def test_other_kinds(name, tmp_path):
    path = tmp_path / name
    if name == "solver":
        path.write_text('base_lr: 0.1 lr_policy: "nonsense" max_iter: 3')
    elif name == "solverstate":
        state = pb.SolverState(iter=7, learned_net="w_iter_7.caffemodel")
        blob = state.history.add()
        blob.shape.dim.extend([2, 2])
        blob.data.extend([1, 2, 3, 4])
        path.write_bytes(state.SerializeToString())
    elif name == "mean":
        mean = pb.BlobProto(num=1, channels=3, height=1, width=2, data=[1, 3, 5, 7, 9, 11])
        path.write_bytes(mean.SerializeToString())
    elif name == "labelmap":
        path.write_text('item { name: "a" label: 1 display_name: "cat" }')
    elif name == "folder":
        path.mkdir()
        (path / "s.prototxt").write_text("base_lr: 1")
    else:
        lmdb = pytest.importorskip("lmdb")
        with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
            datum = pb.Datum(channels=1, height=1, width=2, data=b"ab", label=4)
            txn.put(b"00", datum.SerializeToString())
    text = run(str(path)).output
    wanted = {
        "solver": "Unknown learning rate policy",
        "solverstate": "w_iter_7.caffemodel",
        "mean": "2, 6, 10",
        "labelmap": "cat",
        "folder": "s.prototxt",
        "lmdb": "1x1x2",
    }
    assert wanted[name] in text
    json.loads(run(str(path), "--json").output)
    assert "<!doctype html>" in run(str(path), "--html").output
    assert run(str(path), "--svg").exit_code == 2


PHASES = """
params_pair { batch_size: 8 solver_params { net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"
  max_iter: 10 snapshot_prefix: "m" solver_mode: CPU } }
params_pair { batch_size: 16 }
params_pair { solver_params { base_lr: 0.01 lr_policy: "step" stepsize: 2 gamma: 0.1 max_iter: 4
  solver_mode: CPU } }
"""


def test_a_solver_file_of_several_phases(tmp_path, monkeypatch):
    """Intel's params_pair: each is a phase of a chain, with its own batch and iterations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text((RECIPE / "net.prototxt").read_text())
    (tmp_path / "multi.prototxt").write_text(PHASES)
    data = json.loads(run("multi.prototxt", "--json", "--dataset-size", "40").output)
    assert [phase["run"]["images"] for phase in data["phases"]] == [80, 160, 64]
    assert [phase["file"] for phase in data["phases"]][1] == "multi.prototxt, phase 2"
    assert data["phases"][2]["final_weights"] == "m_phase_2_iter_4.caffemodel"
    assert (data["iterations"], data["epochs"]) == (24, 304 / 40)
    text = run("multi.prototxt").output
    assert "multi.prototxt: solver of several phases" in text and "0.01 to 0.001" in text
    assert "phase 3           4      16      64" in text
    chain = run("multi.prototxt", str(RECIPE / "cyc2.prototxt"), "--json")
    assert len(json.loads(chain.output)["phases"]) == 4
    invoke = CliRunner().invoke
    assert "multi 3: 4 iterations" in invoke(main, ["plot", "multi.prototxt"]).output
    assert "The same 3 phases." in invoke(main, ["diff", "multi.prototxt", "multi.prototxt"]).output
    other = PHASES.replace("batch_size: 16", "batch_size: 4").replace("max_iter: 4", "max_iter: 5")
    (tmp_path / "other.prototxt").write_text(other)
    differ = invoke(main, ["diff", "multi.prototxt", "other.prototxt"]).output
    assert "2 of 3 phases differ." in differ and "Phase 3: Fields" in differ
    assert "batch_size 16 -> 4." in differ and "Phase 1" not in differ
    words = ["diff", "multi.prototxt", str(RECIPE / "cyc2.prototxt"), "--json"]
    assert [p.get("only") for p in json.loads(invoke(main, words).output)["phases"]] == [
        None, "left", "left",
    ]  # fmt: skip
    edit = "params_pair[2].solver_params.regularization_type=L3"
    assert invoke(main, ["edit", "multi.prototxt", edit]).exit_code == 0
    found = json.loads(invoke(main, ["lint", "multi.prototxt", "--json"]).output)
    assert {item["code"] for item in found} == {"CIO522"}, found
    words = ["lint", "multi.prototxt", "--dialect", "bvlc"]
    assert "SolverBatchSizePair.batch_size is not in bvlc" in invoke(main, words).output
    old = PHASES.replace("base_lr: 0.1 ", "base_lr: 0.1 solver_type: ADAM ")
    (tmp_path / "old.prototxt").write_text(old)
    assert invoke(main, ["upgrade", "old.prototxt", "new.prototxt"]).exit_code == 0
    new = (tmp_path / "new.prototxt").read_text()
    assert 'type: "Adam"' in new and "solver_type" not in new
    (tmp_path / "old.prototxt").write_text(old.replace("ADAM", 'ADAM type: "Adam"'))
    wrong = invoke(main, ["upgrade", "old.prototxt", "-"])
    assert wrong.exit_code == 2 and "old.prototxt:2:78: both solver_type" in wrong.output


def test_errors_go_to_stderr(tmp_path):
    result = run(str(tmp_path / "none"))
    assert result.exit_code == 2 and not result.stdout and "no such file" in result.stderr
    (tmp_path / "broken.prototxt").write_text("layer { name: ")
    result = run(str(tmp_path / "broken.prototxt"))
    assert result.exit_code == 2 and "broken.prototxt:1:" in result.stderr


def test_no_torch():
    weights = GOLDEN / "nets" / "residual_inplace" / "weights.caffemodel"
    for arguments in (("show", "--help"), ("show", NET), ("show", str(weights), "--html")):
        loaded = loaded_modules(*arguments)
        assert not loaded & {"torch", "onnx", "cv2", "matplotlib"}
