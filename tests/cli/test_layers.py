from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.layers import command
from caffeio.layers import known_types

GOOD = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        data_param { batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
BAD = """
input: "x" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 }
layer { name: "mystery" type: "Abracadabra" bottom: "x" top: "y" }
layer { name: "later" type: "HocusPocus" bottom: "y" top: "z" }
"""
PAIRS = """
layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 2 } }
layer { name: "cut" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { slice_point: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }
"""


def call(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.prototxt").write_text(GOOD)
    (tmp_path / "bad.prototxt").write_text(BAD)
    (tmp_path / "broken.prototxt").write_text('layer { name: "x" type: }')
    (tmp_path / "solver.prototxt").write_text('base_lr: 0.1 net: "good.prototxt"')
    (tmp_path / "notes.txt").write_text("nothing of interest")
    return tmp_path


def test_types():
    text = call()
    assert "pooling" in text and "Pooling SPP" in text
    assert "Python:rpn.proposal_layer.ProposalLayer" in text
    names = [kind["name"] for kind in json.loads(call("--json"))]
    assert set(known_types()) <= set(names) and len(names) == len(set(names))
    softmax = next(k for k in json.loads(call("--json")) if k["name"] == "SoftmaxWithLoss")
    assert softmax == {
        "name": "SoftmaxWithLoss", "family": "softmax_loss", "bottoms": "2 to 3", "tops": "1 to 2",
        "loss": True, "source": False,
    }  # fmt: skip


def test_coverage_table(folder):
    text = call("--coverage", str(folder))
    assert f"built  {folder}/good.prototxt" in text
    assert f"FAILS  {folder}/bad.prototxt" in text
    assert "unknown layer type 'Abracadabra'" in text
    assert "TEST: unknown types: Abracadabra, HocusPocus" in text
    assert f"{folder}/broken.prototxt:1:" in text
    assert "solver.prototxt" not in text and "notes.txt" not in text
    assert "1 of 3 nets build (33.3 %)" in text
    assert "good.prototxt" not in call("--coverage", "--failed", str(folder))


def test_coverage_as_json(folder):
    found = json.loads(call("--coverage", "--json", str(folder)))
    assert (found["nets"], found["built"]) == (3, 1)
    assert found["unknown"] == {"Abracadabra": 1, "HocusPocus": 1}
    nets = {net["path"].rsplit("/", 1)[1]: net for net in found["files"]}
    assert set(nets["good.prototxt"]["phases"]) == {"TRAIN"}  # it has no data in TEST
    assert set(nets["bad.prototxt"]["phases"]) == {"TRAIN", "TEST"}
    assert nets["broken.prototxt"]["reason"]


def test_other_sizes_of_data_are_tried(tmp_path):
    path = tmp_path / "pairs.prototxt"
    path.write_text(PAIRS)
    assert "TRAIN: with data of other shapes than guessed: data 2 2 28 28" in call(
        "--coverage", str(path)
    )


def test_usage():
    for arguments in (["--coverage"], [__file__]):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 2 and "give --coverage and the files" in result.output


def test_a_file_that_is_no_net_does_not_count_as_built(tmp_path: Path) -> None:
    path = tmp_path / "junk.prototxt"
    path.write_text("hi")
    result = CliRunner().invoke(command, ["--coverage", str(path)])
    assert "0 of 1 nets build" in result.output
    assert "no net" in result.output
