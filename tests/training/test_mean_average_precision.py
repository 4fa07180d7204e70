from __future__ import annotations

import numpy as np
import pytest

from caffeio import Trainer
from caffeio.errors import SolverError
from caffeio.log.glog import Log
from caffeio.training.mean_average_precision import average_precision, detection_map

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
RIGHT = np.array([1, 0, 1, 0, 1], np.float32)  # precision 1, 1/2, 2/3, 1/2, 3/5 at recall n/4


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("Integral", 0.25 * (1 + 2 / 3 + 3 / 5)),
        ("MaxIntegral", 0.25 * (1 + 2 / 3 + 3 / 5)),
        ("11point", (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11),  # recalls 0-0.2, 0.3-0.5, 0.6-0.7
    ],
)
def test_average_precision(version, expected):
    assert average_precision(SCORES, RIGHT, 4, version) == pytest.approx(expected, rel=1e-6)


def test_max_integral_takes_the_best_precision_to_the_right():
    right = np.array([0, 1, 1], np.float32)
    integral = average_precision(SCORES[:3], right, 2, "Integral")
    best = average_precision(SCORES[:3], right, 2, "MaxIntegral")
    assert integral == pytest.approx(0.5 * (1 / 2 + 2 / 3), rel=1e-6)
    assert best == pytest.approx(2 / 3, rel=1e-6)


@pytest.mark.parametrize("version", ["Integral", "MaxIntegral", "11point"])
def test_the_order_of_rows_does_not_matter(version):
    order = np.random.default_rng(0).permutation(5)
    first = average_precision(SCORES, RIGHT, 4, version)
    assert average_precision(SCORES[order], RIGHT[order], 4, version) == first


def test_perfect_detections():
    for version in ("Integral", "MaxIntegral", "11point"):
        assert average_precision(SCORES, np.ones(5), 5, version) == pytest.approx(1.0)


def test_map_over_batches():
    rows = np.array([
        [-1, 1, 3, -1, -1], [-1, 2, 1, -1, -1], [-1, 3, 5, -1, -1],
        [0, 1, 0.9, 1, 0], [0, 1, 0.8, 0, 1], [0, 1, 0.7, 1, 0],
        [-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [-1, 3, 0, -1, -1],
        [5, 1, 0.6, 0, 1], [5, 1, 0.5, 1, 0], [5, 2, 0.4, 0, 0], [5, 2, 0.3, 1, 0],
    ])  # fmt: skip
    found = detection_map(rows, "Integral")
    first = 0.25 * (1 + 2 / 3 + 3 / 5)
    assert found.by_label == {1: pytest.approx(first), 2: pytest.approx(1.0)}
    assert found.mean == pytest.approx((first + 1) / 3)  # label 3 has no detection: 0


def test_nothing_found():
    assert detection_map(np.array([[-1, 1, 3, -1, -1]])) == (0.0, {})
    assert detection_map(np.empty((0, 5))) == (0.0, {})


def test_errors():
    with pytest.raises(SolverError, match="ap_version must be one of 11point"):
        detection_map(np.empty((0, 5)), "voc")
    with pytest.raises(SolverError, match="rows of 5 numbers"):
        detection_map(np.empty((3, 7)))


NET = """
layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 1 } } }
layer { name: "zero" type: "DummyData" top: "zero" dummy_data_param { shape { dim: 1 } }
        include { phase: TRAIN } }
layer { name: "loss" type: "EuclideanLoss" bottom: "w" bottom: "zero" top: "loss"
        include { phase: TRAIN } }
layer { name: "quiet" type: "Silence" bottom: "w" include { phase: TEST } }
layer { name: "found" type: "DummyData" top: "found" include { phase: TEST }
        dummy_data_param { shape { dim: 1 dim: 1 dim: 2 dim: 7 } data_filler { value: 1 } } }
layer { name: "truth" type: "DummyData" top: "truth" include { phase: TEST }
        dummy_data_param { shape { dim: 1 dim: 1 dim: 3 dim: 8 } data_filler { value: 1 } } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "truth" top: "eval"
        include { phase: TEST } detection_evaluate_param { num_classes: 2 } }
"""


def test_solver_reports_the_map(tmp_path):
    """Every box is the same empty box of label 1: both detections are false."""
    (tmp_path / "net.prototxt").write_text(NET)
    solver = tmp_path / "solver.prototxt"
    text = (
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 '
        'test_iter: 3 test_interval: 1 eval_type: "detection" ap_version: "11point" '
        f'snapshot_prefix: "{tmp_path}/s" solver_mode: CPU show_per_class_result: true'
    )
    solver.write_text(text)
    lines: list[str] = []
    log = Log(lines.append)
    scores = Trainer(solver, log=log).test(0)
    assert scores is not None
    assert scores.outputs["eval"].shape == () and scores.outputs["eval"] == 0
    assert any(line.endswith("    Test net output #0: eval = 0") for line in lines)
    assert any(line.endswith("class1: 0") for line in lines)


def test_unknown_evaluation_is_refused(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" eval_type: "guess" '
        f'max_iter: 1 snapshot_prefix: "{tmp_path}/s"'
    )
    with pytest.raises(SolverError, match="eval_type must be classification or detection"):
        Trainer(solver)
