"""A seed draws what real Caffe draws over all nets of a solver, and memory that nets share.

tests/golden/real_caffe/solvers: the lines and the last weights of `caffe train` of BVLC Caffe 1.0.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from caffeio.log.glog import Log
from caffeio.net import load_net
from caffeio.training import Trainer
from tests.harness import assert_close, golden, part
from tests.paths import GOLDEN

CASES = sorted(path.parent for path in (GOLDEN / "real_caffe" / "solvers").glob("*/lines.txt"))
TELLING = re.compile(r"Testing net|output #|, loss = |Ignoring source")
NUMBER = re.compile(r"(?<=[ :=])-?\d+\.?\d*(?:e[+-]?\d+)?")


def trained(folder: Path, work: Path, profile: str) -> tuple[Trainer, list[str]]:
    """Train a case; what was said of losses, scores and sharing, without time and place."""
    shutil.copytree(folder, work, dirs_exist_ok=True)
    source = (GOLDEN / "solvers" / "lmdb").as_posix()
    for path in work.glob("*.prototxt"):
        path.write_text(path.read_text().replace("SOURCE", source))
    said: list[str] = []
    trainer = Trainer(work / "solver.prototxt", profile=profile, log=Log(said.append))
    trainer.solve()
    lines = [line.split("] ", 1)[1] for line in "\n".join(said).splitlines() if "] " in line]
    return trainer, [re.sub(r" \([^)]* iters\)", "", x) for x in lines if TELLING.search(x)]


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_lines_and_weights(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer, mine = trained(folder, tmp_path, "bvlc")
    theirs = (folder / "lines.txt").read_text().splitlines()
    assert [NUMBER.sub("", line) for line in mine] == [NUMBER.sub("", line) for line in theirs]
    for ours, line in zip(mine, theirs, strict=True):
        numbers = [[float(x) for x in NUMBER.findall(text)] for text in (ours, line)]
        # six digits are shown: the last one may be rounded the other way
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-6), ours
    for key, value in part(golden(folder / "golden.prototxt"), "final/").items():
        layer, index = key.rsplit("/", 1)
        assert_close(trainer.net.params[layer][int(index)], value, key, 1e-5)
    trainer.close()


@pytest.mark.parametrize("name", ["lstm_shared", "rnn_shared", "parameter_iter_size"])
def test_mathematical_choice(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bvlc,math` shares weights with all steps and adds Parameter's gradients up."""
    monkeypatch.chdir(tmp_path)
    folder = GOLDEN / "real_caffe" / "solvers" / name
    trainer, mine = trained(folder, tmp_path, "bvlc,math")
    assert mine != (folder / "lines.txt").read_text().splitlines()
    trainer.close()


@pytest.mark.parametrize("name", ["lstm_shared", "rnn_shared"])
def test_twin_recurrent_layers(name: str) -> None:
    """Shared layers of one input: equal in TEST; in TRAIN only in their first step."""
    text = (GOLDEN / "real_caffe" / "solvers" / name / "net.prototxt").read_text()
    text = re.sub(r"layer \{ name: \"drop_h\".*\n", "", text)
    equal = {}
    for phase, profile in (("TRAIN", "bvlc"), ("TRAIN", "bvlc,math"), ("TEST", "bvlc")):
        net = load_net(text, phase=phase, profile=profile, seed=3, stages=["a"])
        net()
        one, two = net.blobs["h"], net.blobs["h2"]
        assert torch.equal(one[0], two[0])
        equal[phase, profile] = torch.equal(one, two)
    assert list(equal.values()) == [False, True, True]
