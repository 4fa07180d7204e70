"""The solvers of pycaffe: steps on live blobs, with the numbers and files of the trainer."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

import caffeio.pycaffe as caffe
from caffeio.log.glog import Log
from caffeio.proto.weights.load import load_weights
from caffeio.pycaffe.state import glog
from caffeio.training import Trainer
from tests.harness import assert_close
from tests.paths import GOLDEN

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 2 dim: 3 dim: 4 } shape { dim: 5 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param {
  num_output: 4 weight_filler { type: "gaussian" std: 1 }
  bias_filler { type: "constant" value: 2 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" test_iter: 1 test_interval: 4 test_initialization: false
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 power: 0.75
display: 100 max_iter: 10 snapshot_prefix: "snap" snapshot_after_train: false random_seed: 5"""
KINDS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@pytest.fixture
def solver_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)

    def write(extra: str = "", text: str = SOLVER) -> str:
        (tmp_path / "solver.prototxt").write_text(text + "\n" + extra)
        return str(tmp_path / "solver.prototxt")

    return write


def weights_of(net):
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_trainers(solver_file, kind):
    text = SOLVER.replace("momentum: 0.9", "") if kind in ("AdaGrad", "RMSProp") else SOLVER
    file = solver_file(f'type: "{kind}"', text)
    solver = caffe.get_solver(file)
    assert type(solver) is getattr(caffe, f"{kind}Solver")
    solver.step(3)
    solver.step(2)
    assert solver.iter == 5
    with Trainer(file) as trainer:
        trainer.step(3)
        trainer.step(2)
        theirs = [blob.detach() for blobs in trainer.net.params.values() for blob in blobs]
    for mine, their in zip(weights_of(solver.net), theirs, strict=True):
        assert_close(mine, their, kind)


def test_the_class_is_the_type(solver_file):
    file = solver_file('type: "Adam"')
    solver = caffe.SGDSolver(file)
    solver.net.params["ip"][0].diff[...] = 1
    before = solver.net.params["ip"][0].data.copy()
    solver.apply_update()
    rate = np.float32(0.01)
    assert_close(
        before - solver.net.params["ip"][0].data, rate * (1 + 0.0005 * before), "SGD", 1e-4
    )


def test_diffs_hold_the_update_afterwards(solver_file):
    solver = caffe.SGDSolver(solver_file())
    held = solver.net.params["conv"][0].diff
    for _ in range(2):
        before = weights_of(solver.net)
        solver.step(1)
        for old, blob in zip(
            before, [b for bs in solver.net.params.values() for b in bs], strict=True
        ):
            assert np.allclose(old - blob.data, blob.diff, atol=1e-6)
    assert np.array_equal(held, solver.net.params["conv"][0].diff)


def test_params_that_a_script_changes_are_trained_on(solver_file):
    solver = caffe.SGDSolver(solver_file("weight_decay: 0".replace("weight_decay: 0", "")))
    solver.step(1)
    weights = solver.net.params["ip"][0].data
    weights[...] = 0
    solver.net.params["ip"][1].data[...] = 0
    solver.net.forward()
    assert solver.net.blobs["loss"].data == pytest.approx(np.log(4), abs=1e-6)
    solver.step(1)
    assert weights.any()


def test_test_nets_share_when_they_are_tested(solver_file):
    solver = caffe.SGDSolver(solver_file())
    (test,) = solver.test_nets
    assert not np.array_equal(test.params["ip"][0].data, solver.net.params["ip"][0].data)
    solver.step(5)  # a test at 4
    solver.net.params["ip"][0].data[...] = 0.5
    assert (test.params["ip"][0].data == 0.5).all()
    other = caffe.SGDSolver(solver_file())
    other.test_nets[0].share_with(other.net)
    other.net.params["ip"][0].data[...] = 2
    assert (other.test_nets[0].params["ip"][0].data == 2).all()


def test_callbacks_come_before_the_pass_and_before_the_update(solver_file):
    solver = caffe.SGDSolver(solver_file())
    seen = []
    solver.add_callback(lambda: seen.append("start"), lambda: seen.append(solver.lr))
    solver.step(2)
    assert seen == ["start", pytest.approx(0.01), "start", pytest.approx(0.01, rel=1e-3)]


def test_a_callback_may_change_the_gradients(solver_file):
    solver = caffe.SGDSolver(solver_file("", SOLVER.replace("0.0005", "0")))
    before = weights_of(solver.net)

    def silence():
        for blobs in solver.net.params.values():
            for blob in blobs:
                blob.diff[...] = 0

    solver.add_callback(lambda: None, silence)
    solver.step(1)
    for old, new in zip(before, weights_of(solver.net), strict=True):
        assert np.array_equal(old, new)


def test_log_lines_are_the_trainers(solver_file, monkeypatch):
    file = solver_file("debug_info: true iter_size: 2 average_loss: 3 snapshot: 4")
    ours, theirs = [], []
    monkeypatch.setattr(glog, "sink", ours.append)
    caffe.SGDSolver(file).solve()
    with Trainer(file, log=Log(theirs.append)) as trainer:
        trainer.solve()

    def words(lines):
        plain = (re.sub(r" \([-+.\de]+ iter/s.*?\)", "", line.split("] ", 1)[1]) for line in lines)
        return [re.split(r"([-\d][-+.\de]*)", line) for line in plain]

    assert len(ours) == len(theirs) > 100
    for mine, their in zip(words(ours), words(theirs), strict=True):
        assert mine[::2] == their[::2]
        for a, b in zip(mine[1::2], their[1::2], strict=True):
            assert a == b or float(a) == pytest.approx(float(b), rel=2e-5)


def test_snapshots_come_back(solver_file, tmp_path):
    file = solver_file("snapshot: 4")
    solver = caffe.SGDSolver(file)
    solver.solve()
    assert (tmp_path / "snap_iter_8.caffemodel").exists()
    other = caffe.SGDSolver(file)
    other.restore("snap_iter_8.solverstate")
    assert other.iter == 8
    saved = caffe.Net("net.prototxt", "snap_iter_8.caffemodel", caffe.TEST)
    for mine, theirs in zip(weights_of(other.net), weights_of(saved), strict=True):
        assert np.array_equal(mine, theirs)
    other.snapshot()


def test_fields(solver_file):
    solver = caffe.SGDSolver(solver_file())
    param = solver.param
    assert (param.max_iter, param.display, param.layer_wise_reduce) == (10, 100, True)
    param.base_lr = 0.5
    assert solver.lr == 0.5


def test_nets_outlive_the_solver(solver_file):
    solver = caffe.SGDSolver(solver_file())
    net, tests = solver.net, list(solver.test_nets)
    del solver
    net.forward()
    tests[0].forward()


def test_share_weights(solver_file):
    solver = caffe.SGDSolver(solver_file())
    net = caffe.Net("net.prototxt", caffe.TEST)
    solver.share_weights(net)
    solver.net.params["ip"][1].data[...] = 3
    assert (net.params["ip"][1].data == 3).all()


def test_errors(solver_file, tmp_path):
    with pytest.raises(RuntimeError, match="Could not open file"):
        caffe.SGDSolver(str(tmp_path / "none.prototxt"))
    with pytest.raises(RuntimeError, match="momentum"):
        caffe.AdaGradSolver(solver_file())


CASES = [path.parent for path in sorted((GOLDEN / "solvers").glob("*/solver.prototxt"))]


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_the_weights_of_real_caffe(folder, tmp_path, monkeypatch):
    work = tmp_path / folder.name
    shutil.copytree(folder, work)
    for name in ("lmdb", "hdf5"):
        if (folder.parent / name).exists():
            (tmp_path / name).symlink_to(folder.parent / name)
    monkeypatch.chdir(work)
    solver = caffe.get_solver("solver.prototxt")
    param = solver._trainer.param
    if not param.weights:
        for net in (solver.net, *solver.test_nets):
            net.copy_from("init.caffemodel")
    (end,) = folder.glob(f"snap_iter_{param.max_iter}.caffemodel*")
    (work / end.name).unlink()
    solver.solve()
    want, mine = load_weights(end), load_weights(work / end.name)
    for index, entry in enumerate(want.layers):
        for i, pair in enumerate(zip(mine.arrays(index), want.arrays(index), strict=True)):
            assert_close(*pair, f"{entry.name} {i}", 1e-4)
