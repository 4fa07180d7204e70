"""Lint rules that need files beside the net, and what --fix may do."""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.converters.kinds import kind_of
from caffeio.converters.lint.run import Selection, fixed_text, lint
from caffeio.converters.source import Source
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.errors import CaffeIOError
from caffeio.proto.rewrite import message_type_of
from caffeio.proto.text.slips import is_slip
from caffeio.proto.text.text_format import parse
from tests.converters.test_lint import CONV, IMAGE, NET, found_in, net, solver
from tests.paths import SHARED, needs_shared

SIZES = "dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } }"
STATES = f"""
layer {{ name: "d1" type: "DummyData" top: "data" top: "label" include {{ phase: TRAIN }} {SIZES} }}
layer {{ name: "d2" type: "DummyData" top: "data" top: "label"
         include {{ phase: TEST stage: "a" }} {SIZES} }}
layer {{ name: "d3" type: "DummyData" top: "data" top: "label"
         include {{ phase: TEST stage: "b" }} {SIZES} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
        inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""


def codes_of_solver(folder: Path, net_text: str, solver_text: str) -> dict[str, str]:
    (folder / "net.prototxt").write_text(net_text)
    path = folder / "solver.prototxt"
    path.write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 10 snapshot_prefix: "s" '
        + solver_text
    )
    found = lint(Source(path.name, path, kind_of(path)), Selection())
    return {finding.code: finding.message for finding in found}


def test_each_test_net_is_built_with_its_own_state(tmp_path: Path) -> None:
    both = 'test_state { stage: "a" } test_state { stage: "b" } test_iter: 2 test_iter: 1 '
    assert "CIO518" not in codes_of_solver(tmp_path, STATES, both + "test_interval: 5")
    one = 'test_state { stage: "a" } test_iter: 2 test_interval: 5'
    assert "CIO518" not in codes_of_solver(tmp_path, STATES, one)
    wrong = 'test_state { stage: "a" } test_state { stage: "c" } test_iter: 2 test_iter: 1 '
    message = codes_of_solver(tmp_path, STATES, wrong + "test_interval: 5")["CIO518"]
    assert message.startswith("test net #1 (state TEST, stages c) cannot be built: ")
    assert "CIO518" in codes_of_solver(tmp_path, STATES, "test_iter: 2 test_interval: 5")


def test_a_deploy_net_in_a_solver(tmp_path: Path) -> None:
    head = 'layer { name: "p" type: "Softmax" bottom: "x" top: "p" }'
    assert "deploy net" in codes_of_solver(tmp_path, IMAGE + head, "")["CIO523"]
    assert "CIO523" not in codes_of_solver(tmp_path, STATES, "")


def messages(code: str, text: str, folder: Path) -> list[str]:
    return [found.message for found in found_in(text, folder) if found.code == code]


def test_labels_beyond_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, labels in (("bad", (0, 3, 4)), ("good", (0, 3, 1))):
        pixels = np.zeros((3, 12, 12), np.uint8)
        records = [(f"{i}", encode_datum(data=pixels, label=n)) for i, n in enumerate(labels)]
        write_lmdb(tmp_path / name, records)
    text = (
        'layer { name: "d" type: "Data" top: "data" top: "label" data_param { '
        'source: "%s" batch_size: 2 backend: LMDB } }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param '
        '{ num_output: 4 weight_filler { type: "xavier" } } }\n'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "l" }\n'
    )
    assert messages("CIO310", text % "good", tmp_path) == []
    assert "label 4, the scores 4 classes" in messages("CIO310", text % "bad", tmp_path)[0]


def test_hdf5_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs the extra hdf5")
    monkeypatch.chdir(tmp_path)
    files = {"whole": {"x": 4, "y": 4}, "short": {"x": 4, "y": 3}, "lacks": {"x": 4}}
    for name, rows in files.items():
        with h5py.File(f"{name}.h5", "w") as file:
            for key, count in rows.items():
                file[key] = np.zeros((count, 2), np.float32)
        (tmp_path / f"{name}.txt").write_text(f"{name}.h5\n")
    text = (
        "layer { name: 'h' type: 'HDF5Data' top: 'x' top: 'y' "
        "hdf5_data_param { source: '%s.txt' batch_size: 2 } }"
    )
    said = {name: messages("CIO417", text % name, tmp_path) for name in (*files, "none")}
    assert said["whole"] == said["none"] == []
    assert "differ in their rows: x 4, y 3" in said["short"][0]
    assert "no dataset 'y'" in said["lacks"][0]


# -- fixes never make it worse -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("kernel_shape", "kernel_size"), ("kernel_depth", "kernel_h"), ("kernel_d", "kernel_h"),
     ("unpooling_param", "pooling_param"), ("blobs_lr", "blobs"), ("CONVOLUTION3D", "CONVOLUTION"),
     ("pad_d", "pad_w")],
)  # fmt: skip
def test_what_is_no_slip(wrong: str, right: str) -> None:
    assert not is_slip(wrong, right)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("num_outputs", "num_output"), ("weight_dekay", "weight_decay"), ("stpesize", "stepsize"),
     ("kernal_size", "kernel_size"), ("base_lrr", "base_lr"), ("nam", "name")],
)  # fmt: skip
def test_what_is_a_slip(wrong: str, right: str) -> None:
    assert is_slip(wrong, right)


def test_blobs_lr_of_todays_layers(tmp_path: Path) -> None:
    text = net(conv=CONV.replace("convolution_param", "blobs_lr: 0 convolution_param", 1))
    found = found_in(text, tmp_path)
    [finding] = [f for f in found if f.code == "CIO101"]
    assert finding.fix is None
    assert "param { lr_mult: ... }" in finding.message
    assert fixed_text(text, found, "x") == (text, 0)


def slips(name: str, rng: random.Random) -> str:
    """A name after one or two slips of the pen."""
    for _ in range(rng.choice((1, 1, 2))):
        i = rng.randrange(len(name))
        other = rng.choice("abcdefghijklmnopqrstuvwxyz_0")
        changed = (
            name[:i] + name[i + 1 :], name[:i] + other + name[i:], name[:i] + other + name[i + 1 :],
            name[:i] + name[i : i + 2][::-1] + name[i + 2 :],
        )  # fmt: skip
        name = rng.choice(changed) or "x"
    return name


def check_fixes(text: str, rng: random.Random) -> None:
    """Misspell a field of a text: what --fix makes parses, and knows no less than before."""
    place = rng.choice(list(re.finditer(r"\b([a-z_]{3,})(?=\s*[:{])", text)))
    slip = slips(place[1], rng)
    wrong = text[: place.start()] + slip + text[place.end() :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.prototxt")
        path.write_text(wrong, encoding="utf-8")
        try:
            found = lint(Source(path.name, path, kind_of(path)), Selection())
        except CaffeIOError:
            return  # no prototxt any more
    fixes = [f for f in found if f.fix is not None and f.fix.rename]
    new, count = fixed_text(wrong, fixes, "x")
    if not count:
        assert new == wrong
        return
    assert len(parse(new, message_type_of(new)).unknown) < len(
        parse(wrong, message_type_of(wrong)).unknown
    )
    assert new.count("\n") == wrong.count("\n")
    [renamed] = {f.fix.rename for f in fixes if f.fix is not None and f.fix.rename}
    assert renamed[2] == slip
    assert is_slip(slip, renamed[3])


@given(st.integers(0, 10**9), st.sampled_from([NET, STATES, solver("momentum: 0.9 gamma: 0.1")]))
@settings(max_examples=120, deadline=None)
def test_fixes_parse(seed: int, text: str) -> None:
    check_fixes(text, random.Random(seed))


@needs_shared
def test_fixes_of_public_nets_parse() -> None:
    rng = random.Random(7)
    files = sorted((SHARED / "corpus" / "prototxt").rglob("*.prototxt"))
    for path in rng.sample(files, 30):
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        if len(text) > 30_000 or "\ufeff" in text or max(text, default="") >= "\udc80":
            continue
        try:
            if parse(text, message_type_of(text)).unknown:
                continue
        except CaffeIOError:
            continue
        check_fixes(text, rng)
