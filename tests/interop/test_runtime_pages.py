"""The scripts of docs/howto/runtimes/ run where their program is.

CAFFEIO_OPENCV5, CAFFEIO_OPENVINO, CAFFEIO_NCNN and CAFFEIO_MNN name a Python that has it (`make
interop`). onnxruntime's and OpenCV 4's blocks are run with all others, by tests/test_docs.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from tests.paths import ROOT
from tests.test_docs import blocks, demo  # noqa: F401  (a fixture)

PAGES = ROOT / "docs" / "howto" / "runtimes"
ELSEWHERE = ["opencv5", "openvino", "ncnn", "mnn"]


def test_every_page_is_listed() -> None:
    """The index and the menu name each page once."""
    names = sorted(path.stem for path in PAGES.glob("*.md"))
    index = (ROOT / "docs" / "howto" / "runtimes.md").read_text()
    assert sorted(re.findall(r"\(runtimes/(\w+)\.md\)", index)) == names
    menu = (ROOT / "mkdocs.yml").read_text()
    assert sorted(re.findall(r"howto/runtimes/(\w+)\.md", menu)) == names


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_script_computes_the_same(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python = os.environ.get(f"CAFFEIO_{name.upper()}")
    if python is None:
        pytest.skip(f"CAFFEIO_{name.upper()} names no Python with that package")
    files = request.getfixturevalue("demo") / "demo"  # takes a while
    given = [files / "train_val.prototxt", files / "collapse_iter_60.caffemodel"]
    result = CliRunner().invoke(main, ["convert", *map(str, given), str(tmp_path / "glyph.onnx")])
    assert result.exit_code == 0, result.output
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    page = blocks(PAGES / f"{name}.md")
    env = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
    for line in (line for b in page if b.language == "text" for line in b.lines):
        subprocess.run(line, shell=True, cwd=tmp_path, env=env, check=True, capture_output=True)
    (script,) = (block for block in page if block.language == "python")
    (tmp_path / script.title).write_text(script.text)
    subprocess.run([python, script.title], cwd=tmp_path, check=True)
    with torch.no_grad():
        net, _ = load_deploy_net(*given, DeployOptions())
        wanted = net({"data": torch.from_numpy(x)})["prob"].numpy()
    off = np.abs(np.load(tmp_path / "prob.npy").reshape(-1) - wanted.reshape(-1)).max()
    print(f"{name}: {off:.2g}", file=sys.stderr)
    assert off < 1e-5
