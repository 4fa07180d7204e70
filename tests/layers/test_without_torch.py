"""What only asks the layer types does so without torch: imports are refused, not just counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffeio.layers import LayerType, known_types, lookup
from caffeio.layers.registry import (
    family_of,
    is_data_type,
    is_loss_type,
    is_metric_type,
    may_end_type,
)
from caffeio.proto.weights.blob_names import BLOBS
from tests.paths import GOLDEN, ROOT

AUDIT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxruntime"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
from caffeio.cli.main import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["caffeio", *line.split()]
    try:
        main()
    except SystemExit as stop:
        assert stop.code in (0, 1), (line, stop.code)
    print("---")
"""
NET = """
layer { name: "d" type: "Data" top: "x" top: "l" data_param { batch_size: 2 source: "none" }
  transform_param { crop_size: 8 } }
layer { name: "p" type: "Python" bottom: "x" top: "y"
  python_param { module: "mine" layer: "Mine" } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 3 kernel_size: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "l" }
"""


def run(tmp_path: Path, *lines: str) -> list[str]:
    (tmp_path / "net.prototxt").write_text(NET)
    done = subprocess.run(
        [sys.executable, "-c", AUDIT], input="\n".join(lines), text=True, capture_output=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("---\n")


def test_commands_that_ask_the_types(tmp_path):
    golden = GOLDEN / "nets" / "multi_loss" / "net.prototxt"
    types, *texts = run(
        tmp_path, "layers --json", "layers", "show net.prototxt", f"show {golden}",
        "show --json net.prototxt", "lint net.prototxt", f"lint {golden}",
        f"diff net.prototxt {golden}", "upgrade net.prototxt new.prototxt",
    )  # fmt: skip
    assert {row["name"] for row in json.loads(types)} >= {"Python", "Convolution", "Data"}
    assert all(text.strip() for text in texts[:6])


@pytest.mark.parametrize("kind", known_types())
def test_a_class_has_no_torch(kind):
    cls = lookup(kind, kind)
    assert not any(base.__module__.startswith("torch") for base in cls.__mro__)
    assert cls.compute or not cls.__module__.startswith("caffeio.layers")


def test_facts_of_types_and_of_names():
    assert is_data_type("LaneData") and is_data_type("ImageSegData") and not is_data_type("Input")
    assert is_metric_type("SegAccuracy") and is_metric_type("HDF5Output")
    assert not is_metric_type("ArgMax") and may_end_type("ArgMax") and may_end_type("MatWrite")
    assert is_loss_type("CenterLoss") and not is_loss_type("Softmax")
    families = {kind: family_of(kind) for kind in known_types()}
    assert set(families.values()) == {"data", "conv", "pool", "norm", "join", "loss", "other"}
    assert families["DepthwiseConvolution"] == families["LSTM"] == "conv"
    assert families["Accuracy"] == families["YoloSeg"] == "loss" == family_of("SegAccuracy")


@pytest.mark.parametrize("kind", [k for k in known_types() if is_loss_type(k)])
def test_losses_say_whether_they_read_loss_param(kind):
    cls = lookup(kind, kind)
    bases = [vars(base) for base in cls.__mro__ if base not in (LayerType, object)]
    names = {name for own in bases if "setup" in own for name in own["setup"].__code__.co_names}
    helpers = [own[name].__code__ for own in bases for name in names if callable(own.get(name))]
    names.update(name for code in helpers for name in code.co_names)
    assert cls.reads_loss_param == bool(names & {"loss_param", "normalization", "ignore_label"})


@pytest.mark.parametrize("kind", known_types())
def test_names_of_blobs_in_files_are_those_of_the_class(kind):
    """proto/weights stands below the layers, so it has a table: it says what the classes say."""
    cls = lookup(kind, kind)
    assert BLOBS.get(kind, ()) == (cls.blob_names if cls.has_blobs else ())
