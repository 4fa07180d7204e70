"""A caffemodel is opened once a command, and its dialect found once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from caffeio import load_net
from tests import warm

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = (
    'net: "n.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 solver_mode: CPU '
    "snapshot_after_train: false"
)
COMMANDS = (
    "convert w.caffemodel a.pt",
    "convert w.caffemodel a.prototxt",
    "convert w.caffemodel a.caffemodel --to-dialect nvidia",
    "convert n.prototxt w.caffemodel b.caffemodel",
    "convert w.caffemodel a.onnx",
    "show w.caffemodel",
    "show n.prototxt --weights w.caffemodel",
    "diff w.caffemodel b.caffemodel",
    "test n.prototxt --weights w.caffemodel -n 1",
    "train s.prototxt --weights w.caffemodel",
)
COUNT = """
import json, sys
from caffeio.cli.main import main
from caffeio.proto.dialect import detect_dialect

opens, detections, real = [], [], detect_dialect._detect

def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("w.caffemodel"):
        opens.append(arguments[0])

def detect(data, name):
    detections.append(id(data))
    return real(data, name)

sys.addaudithook(hook)
detect_dialect._detect = detect
out = {}
for line in sys.argv[1:]:
    opens.clear()
    detections.clear()
    main(line.split(), standalone_mode=False)
    out[line] = [len(opens), max(map(detections.count, detections), default=0)]
open("counts.json", "w").write(json.dumps(out))
"""


def test_commands_open_a_caffemodel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("n.prototxt").write_text(NET)
    Path("s.prototxt").write_text(SOLVER)
    load_net(NET, phase="TRAIN").save("w.caffemodel")
    options = warm.command("-c", COUNT, *COMMANDS)
    done = subprocess.run(**options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(Path("counts.json").read_text())
    assert {line: opens for line, (opens, _) in counts.items()} == dict.fromkeys(COMMANDS, 1)
    assert {line: n for line, (_, n) in counts.items() if n > 1} == {}
    assert counts["convert w.caffemodel a.prototxt"][1] == 1
