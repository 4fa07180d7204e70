"""Two processes train together as python/train.py of BVLC does it."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import caffeio.pycaffe as caffe
from tests import warm
from tests.paths import GOLDEN

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } data_filler { type: "constant" value: VALUE }
  data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "NET" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1'
WORKER = """
import sys
import numpy as np
import caffeio.pycaffe as caffe
uid, rank, out = sys.argv[1].encode(), int(sys.argv[2]), sys.argv[3]
caffe.init_log(2)
caffe.set_solver_count(2)
caffe.set_solver_rank(rank)
caffe.set_multiprocess(True)
solver = caffe.SGDSolver(f"solver{rank}.prototxt")
nccl = caffe.NCCL(solver, uid)
nccl.bcast()
solver.add_callback(nccl)
if solver.param.layer_wise_reduce:
    solver.net.after_backward(nccl)
solver.step(3)
np.save(out, solver.net.params["ip"][0].data)
"""


def write(tmp_path):
    for rank, value in enumerate((1, 3)):
        (tmp_path / f"net{rank}.prototxt").write_text(NET.replace("VALUE", str(value)))
        text = SOLVER.replace("NET", f"net{rank}.prototxt")
        (tmp_path / f"solver{rank}.prototxt").write_text(text)


def by_hand():
    """The same in one process: two solvers with the mean of their gradients."""
    solvers = [caffe.SGDSolver(f"solver{rank}.prototxt") for rank in range(2)]
    solvers[1].net.share_with(solvers[0].net)
    for _ in range(3):
        grads = []
        for solver in solvers:
            solver.net.clear_param_diffs()
            solver.net.forward()
            solver.net.backward()
            grads.append([blob.diff.copy() for blob in solver.net.params["ip"]])
        for blob, one, two in zip(solvers[0].net.params["ip"], *grads, strict=True):
            blob.diff[...] = (one + two) / 2
        solvers[0].apply_update()
    return solvers[0].net.params["ip"][0].data


def test_workers_agree_and_average(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    uid = caffe.NCCL.new_uid().decode()
    workers = [
        subprocess.Popen(**warm.command("-c", WORKER, uid, str(rank), f"{rank}.npy"))
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    first, second = np.load("0.npy"), np.load("1.npy")
    assert np.array_equal(first, second)
    assert np.allclose(first, by_hand(), atol=1e-6)


def test_the_uid_is_bytes():
    assert caffe.has_nccl()
    assert isinstance(caffe.NCCL.new_uid(), bytes)


@pytest.mark.parametrize("text", ["", "default_forward_type: FLOAT\n"], ids=["bvlc", "nvidia"])
@pytest.mark.parametrize("make", ["solver", "net"])
def test_each_solver_reads_its_own_records(tmp_path, text, make):
    """Every second one; NVIDIA's batch_size is that of both together, BVLC's that of each."""
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "lmdb")
    net = (GOLDEN / "solvers" / "sgd_fixed" / "net.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(text + net.replace("../lmdb", str(tmp_path / "lmdb")))
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 1 '
        "test_interval: 100"
    )

    def batches(count, phase=caffe.TRAIN):
        found = []
        for rank in range(count):
            caffe.set_solver_count(count)
            caffe.set_solver_rank(rank)
            if make == "net":
                read = caffe.Net(str(tmp_path / "net.prototxt"), phase)
            else:
                solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
                read = solver.test_nets[0] if phase == caffe.TEST else solver.net
            read.forward()
            found.append(read.blobs["data"].data.copy())
        return found

    (alone,), (first, second) = batches(1), batches(2)
    size = 5 if text else 10
    assert first.shape[0] == second.shape[0] == size
    assert np.array_equal(first[:5], alone[0::2])
    assert np.array_equal(second[:5], alone[1::2])
    (whole,), parts = batches(1, caffe.TEST), batches(2, caffe.TEST)
    assert all(np.array_equal(part, whole[: len(part)]) for part in parts)
    assert len(parts[0]) == (10 if text else 20)


def test_a_rank_that_no_solver_has_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "lmdb")
    net = (GOLDEN / "solvers" / "sgd_fixed" / "net.prototxt").read_text()
    path = tmp_path / "net.prototxt"
    path.write_text(net.replace("../lmdb", str(tmp_path / "lmdb")))
    caffe.set_solver_rank(1)  # of one
    with pytest.raises(RuntimeError, match="rank 1 is none of 1 readers"):
        caffe.Net(str(path), caffe.TRAIN)
    caffe.Net(str(path), caffe.TEST)


def test_solvers_that_cannot_share_a_batch_are_refused(tmp_path):
    net = (GOLDEN / "solvers" / "sgd_fixed" / "net.prototxt").read_text()
    path = tmp_path / "net.prototxt"
    path.write_text("default_forward_type: FLOAT\n" + net)
    caffe.set_solver_count(3)
    with pytest.raises(RuntimeError, match="3 workers cannot share it evenly"):
        caffe.Net(str(path), caffe.TRAIN)


@pytest.mark.parametrize("count", [0, -2])
def test_less_than_one_solver_is_refused(count):
    with pytest.raises(RuntimeError, match=f"at least 1 solver was expected, not {count}"):
        caffe.set_solver_count(count)
    assert caffe.solver_count() == 1
