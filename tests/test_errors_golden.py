"""Broken inputs on which real Caffe dies: one clear error, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from tests.paths import GOLDEN

ERRORS = GOLDEN / "errors"
CASES: list[dict[str, Any]] = json.loads((ERRORS / "errors.json").read_text())
# What the message must say, beside naming a place
WORDS = {
    "syntax_missing_brace": ["net.prototxt:"],
    "unknown_field": ["net.prototxt:", "unknown field"],
    "wrong_value_type": ["net.prototxt:"],
    "bad_enum": ["net.prototxt:"],
    "unknown_layer_type": ["Convolucion", "Convolution", "net.prototxt:"],
    "missing_bottom": ["'dat'", "'r'"],
    "duplicate_top": ["'r'"],
    "eltwise_shape_mismatch": ["(2, 3)", "(2, 4)"],
    "too_many_loss_weights": ["loss_weight"],
    "negative_dim": ["-3"],
    "conv_group_not_divisible": ["group"],
    "conv_kernel_twice": ["kernel_size"],
    "pool_pad_ge_kernel": ["pad"],
    "label_count_mismatch": ["label"],
    "label_out_of_range": ["label"],
    "weights_shape_mismatch": ["w.caffemodel", "'ip'", "3 5", "rename the layer"],
    "weights_blob_count": ["w.caffemodel", "number of blobs"],
    "weights_truncated": ["w.caffemodel"],
    "weights_garbage": ["w.caffemodel"],
    "weights_missing": ["w.caffemodel"],
    "empty_lmdb": ["data_param.source"],
    "missing_lmdb": ["data_param.source", "looked for"],
    "corrupt_jpeg": ["layer 'd"],
    "varying_size_in_batch": ["layer 'd"],
    "crop_larger_than_image": ["crop"],
    "mean_file_and_value": ["mean_value"],
    "mean_file_wrong_size": ["mean"],
    "unknown_lr_policy": ["cosine"],
    "unknown_solver_type": ["SGDM"],
    "net_file_missing": ["nothing.prototxt", "tried"],
    "test_interval_missing": ["test_interval"],
    "adagrad_with_momentum": ["omentum"],
    "shared_param_shape": ["'w'"],
    "include_and_exclude": ["include", "exclude"],
    "resume_history_mismatch": ["history"],
}
# Caffe's limit that we lift: its second top holds the probabilities
WORKS = {"softmax_loss_two_tops"}


def run(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    folder = tmp_path / "errors" / case["case"]
    shutil.copytree(ERRORS / case["case"], folder)
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, case["command"].split()[1:])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["case"])
def test_error(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name for path in (ERRORS / case["case"]).iterdir()}
    code, stderr = run(case, tmp_path, monkeypatch)
    if case["case"] in WORKS:
        assert code == 0
        return
    assert code == 2, stderr
    message = stderr[stderr.index("Error: ") :]
    assert "Traceback" not in stderr
    for word in WORDS[case["case"]]:
        assert word in message, message
    assert {path.name for path in Path().iterdir()} <= before


def test_every_case_is_looked_at() -> None:
    assert {case["case"] for case in CASES} == set(WORDS) | WORKS


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--debug", "time", str(tmp_path / "none.prototxt")])
    assert isinstance(result.exception, Exception)
    assert not isinstance(result.exception, SystemExit)
