"""A GPU that cannot be there is told without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffeio import gpus
from caffeio.errors import CaffeIOError


def test_a_driver_leaves_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert not gpus.may_be_there(tmp_path)
    (tmp_path / "kfd").touch()
    assert gpus.may_be_there(tmp_path)


def test_other_systems_are_left_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert gpus.may_be_there(tmp_path)


def test_only_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("caffeio.gpus.DEVICES", ())
    for device in (None, "cpu", "auto"):
        gpus.require_gpu(device)
    with pytest.raises(CaffeIOError, match=r"solver_mode: GPU.*--device cpu"):
        gpus.require_gpu("cuda", "solver_mode: GPU")
