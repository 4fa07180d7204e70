"""The recipe's example, with a small recipe in it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from caffeio.demo import glyphs, recipe
from tests.paths import ROOT


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """The example beside the demo's recipe, whose files have the large recipe's names."""
    here = tmp_path / "imagenet-resnet50"
    shutil.copytree(ROOT / "examples" / "imagenet-resnet50", here)
    for name, count in (("train_lmdb", 40), ("test_lmdb", 64)):
        glyphs.make_lmdb(here / name, count, seed=1)
    for path in recipe.write(here).values():
        text = re.sub(r"(max_iter|snapshot): \d+", r"\1: 2", path.read_text())
        path.write_text(text)
    for path in here.glob("train_val*.prototxt"):
        path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 4"))
    return here
