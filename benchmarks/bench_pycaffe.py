"""pycaffe's interface beside the module and the trainer: time of forward and of a step.

Both run in one process, in turn, on the same threads; figures are medians of the ratios of
neighbours, and the best times. Nets are made here, data are constant. Real pycaffe's figures for
the same kinds of nets: 2 threads, LeNet b64 step 16.6 ms, CaffeNet b16 step 826 ms, ResNet-50 b16
step 4829 ms.

    python benchmarks/bench_pycaffe.py [--nets lenet,caffenet,resnet50,tiny] [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import caffeio.pycaffe as caffe
from caffeio import load_net
from caffeio.training import Trainer

L, P = caffe.layers, caffe.params
XAVIER = {"type": "xavier"}


def data(shape, classes):
    return L.DummyData(
        ntop=2,
        shape=[{"dim": list(shape)}, {"dim": [shape[0]]}],
        data_filler=[{"type": "gaussian", "std": 1}, {"type": "constant", "value": classes // 2}],
    )


def lenet(batch=64):
    n = caffe.NetSpec()
    n.data, n.label = data((batch, 1, 28, 28), 10)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=XAVIER)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, weight_filler=XAVIER)
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, weight_filler=XAVIER)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n


def caffenet(batch=16):
    n = caffe.NetSpec()
    n.data, n.label = data((batch, 3, 227, 227), 1000)
    top = n.data
    for i, (outputs, kernel, pad, stride, group) in enumerate(
        [(96, 11, 0, 4, 1), (256, 5, 2, 1, 2), (384, 3, 1, 1, 1), (384, 3, 1, 1, 2),
         (256, 3, 1, 1, 2)], 1,
    ):  # fmt: skip
        top = n[f"conv{i}"] = L.Convolution(
            top, num_output=outputs, kernel_size=kernel, pad=pad, stride=stride, group=group,
            weight_filler=XAVIER,
        )  # fmt: skip
        top = n[f"relu{i}"] = L.ReLU(top, in_place=True)
        if i in (1, 2, 5):
            top = n[f"pool{i}"] = L.Pooling(top, kernel_size=3, stride=2, pool=P.Pooling.MAX)
        if i in (1, 2):
            top = n[f"norm{i}"] = L.LRN(top, local_size=5, alpha=1e-4, beta=0.75)
    for i in (6, 7):
        top = n[f"fc{i}"] = L.InnerProduct(top, num_output=4096, weight_filler=XAVIER)
        top = n[f"relu{i}"] = L.ReLU(top, in_place=True)
        top = n[f"drop{i}"] = L.Dropout(top, in_place=True)
    n.fc8 = L.InnerProduct(top, num_output=1000, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.fc8, n.label)
    return n


def resnet50(batch=4):
    n = caffe.NetSpec()
    n.data, n.label = data((batch, 3, 224, 224), 1000)
    names = iter(range(10_000))

    def unit(bottom, outputs, kernel, stride=1, relu=True):
        i = next(names)
        top = n[f"conv{i}"] = L.Convolution(
            bottom, num_output=outputs, kernel_size=kernel, pad=kernel // 2, stride=stride,
            bias_term=False, weight_filler={"type": "msra"},
        )  # fmt: skip
        top = n[f"bn{i}"] = L.BatchNorm(top, in_place=True)
        top = n[f"scale{i}"] = L.Scale(top, bias_term=True, in_place=True)
        if relu:
            top = n[f"relu{i}"] = L.ReLU(top, in_place=True)
        return top

    top = unit(n.data, 64, 7, 2)
    top = n.pool1 = L.Pooling(top, kernel_size=3, stride=2, pool=P.Pooling.MAX)
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            mid = 64 << stage
            short = top if block else unit(top, 4 * mid, 1, stride, relu=False)
            branch = unit(unit(top, mid, 1, stride), mid, 3)
            branch = unit(branch, 4 * mid, 1, relu=False)
            i = next(names)
            top = n[f"sum{i}"] = L.Eltwise(short, branch)
            top = n[f"relu{i}"] = L.ReLU(top, in_place=True)
    n.pool5 = L.Pooling(top, global_pooling=True, pool=P.Pooling.AVE)
    n.fc = L.InnerProduct(n.pool5, num_output=1000, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    return n


def tiny(batch=1):
    """Layers that compute next to nothing: what is left is the way to them."""
    n = caffe.NetSpec()
    n.data, n.label = data((batch, 4), 4)
    top = n.data
    for i in range(60):
        top = n[f"ip{i}"] = L.InnerProduct(top, num_output=4, weight_filler=XAVIER)
        top = n[f"tanh{i}"] = L.TanH(top)
    n.loss = L.SoftmaxWithLoss(top, n.label)
    return n


def compare(title, ours, theirs, rounds, layers):
    """Time both in turn; print the median ratio and the best times."""
    times = []
    for _ in range(2):
        ours()
        theirs()
    for i in range(rounds):
        pair = {}
        for name, work in (("ours", ours), ("theirs", theirs))[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            work()
            pair[name] = time.perf_counter() - began
        times.append((pair["ours"], pair["theirs"]))
    ratio = statistics.median(a / b for a, b in times)
    ours_best, theirs_best = (min(t[i] for t in times) * 1e3 for i in (0, 1))
    spent = (ours_best - theirs_best) * 1e3 / layers
    print(
        f"{title:22} pycaffe {ours_best:9.2f} ms, beside it {theirs_best:9.2f} ms, "
        f"ratio {ratio:5.2f} (best {ours_best / theirs_best:5.2f}), {spent:+6.1f} us a layer"
    )


def forwards(name, net_file, rounds):
    net = caffe.Net(str(net_file), caffe.TEST)
    module = load_net(net_file)

    def forward():
        with torch.no_grad():
            module()

    compare(f"{name} forward", net.forward, forward, rounds, len(net.layers))
    return len(net.layers)


def run(name, rounds):
    spec = {"lenet": lenet, "caffenet": caffenet, "resnet50": resnet50, "tiny": tiny}[name]()
    with tempfile.TemporaryDirectory() as folder:
        net_file, solver_file = Path(folder, "net.prototxt"), Path(folder, "solver.prototxt")
        net_file.write_text(str(spec.to_proto()))
        solver_file.write_text(
            f'net: "{net_file}" base_lr: 1e-5 momentum: 0.9 weight_decay: 5e-4 lr_policy: "fixed"'
        )
        layers = forwards(name, net_file, rounds)
        solver = caffe.SGDSolver(str(solver_file))
        with Trainer(solver_file) as trainer:
            step, other = (lambda: solver.step(1)), (lambda: trainer.step(1))
            compare(f"{name} step", step, other, rounds, layers)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="lenet,caffenet,resnet50,tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    np.random.seed(0)
    caffe.init_log(2)
    for name in args.nets.split(","):
        run(name, args.rounds)


if __name__ == "__main__":
    main()
