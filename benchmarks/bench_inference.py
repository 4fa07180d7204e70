"""TEST forward: caffeio's prepared nets beside plain PyTorch, frozen, and onnxruntime, in turn.

    python benchmarks/bench_inference.py [--nets resnet50,lenet] [--batch N] [--rounds N]
                                         [--threads N] [--cpu-time] [--without inductor,ort]

Peers run the same layers on the same images: `eager` (channels-last), `jit` (torch.jit.trace,
freeze, optimize_for_inference), `inductor` (torch.compile with freezing), `ort` (onnxruntime, if it
is there). BatchNorms hold statistics as after a training. A row shows minima in ms and the ratios
peer / ours of minima and of medians (above 1: ours is faster). `--cpu-time` counts processor time
of the process, which other load disturbs less (use one thread). At last: building a ResNet-50 and
loading its .caffemodel.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nets import SIZES, TITLES, plain, prototxt
from summary import faster
from torch import Tensor, nn

from caffeio import load_net
from caffeio.net import Net

BATCHES = {"resnet50": 16, "googlenet": 16, "caffenet": 16, "mobilenet": 16, "lenet": 64}
PEERS = {  # who, and what was asked
    "eager": ("plain PyTorch, eager", "at least 1.0"),
    "jit": ("plain PyTorch, torch.jit frozen", "at least 1.0"),
    "inductor": ("plain PyTorch, inductor frozen", "at least 1.0"),
    "ort": ("onnxruntime", ""),
}
Run = Callable[[], Any]


def ours(name: str, batch: int, images: Tensor) -> Run:
    """The prepared net."""
    net = load_net(prototxt(name, batch))
    trained(net)

    @torch.inference_mode()
    def run() -> None:
        net({"data": images})

    return run


def trained(net: Net) -> None:
    """Give BatchNorms statistics."""
    with torch.no_grad():
        for step in net.steps:
            if step.node.type == "BatchNorm":
                mean, variance, factor = step.layer.blobs[:3]
                mean.normal_(0, 0.1)
                variance.uniform_(0.5, 1.5)
                factor.fill_(1)


def quiet(module: nn.Module, images: Tensor) -> Run:
    """The module without gradients."""

    @torch.no_grad()
    def run() -> None:
        module(images)

    return run


def frozen(module: nn.Module, images: Tensor) -> Run:
    """TorchScript, frozen."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.freeze(torch.jit.trace(module, images))
        script = torch.jit.optimize_for_inference(script)
    return quiet(script, images)


def compiled(module: nn.Module, images: Tensor) -> Run:
    """Inductor, frozen."""
    from torch._inductor import config

    config.freezing = True
    torch._dynamo.reset()
    return quiet(torch.compile(module, dynamic=False), images)


def by_onnxruntime(module: nn.Module, images: Tensor) -> Run:
    """PyTorch's own export in onnxruntime, with as many threads."""
    import onnxruntime

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, images, file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def peers(name: str, images: Tensor, without: list[str]) -> dict[str, Run]:
    """Every peer that is wanted."""
    last = images.to(memory_format=torch.channels_last)
    module = plain(name).eval()
    made: dict[str, Callable[[], Run]] = {
        "eager": lambda: quiet(plain(name).eval().to(memory_format=torch.channels_last), last),
        "jit": lambda: frozen(module, images),
        "inductor": lambda: compiled(
            plain(name).eval().to(memory_format=torch.channels_last), last
        ),
        "ort": lambda: by_onnxruntime(module, images),
    }
    if importlib.util.find_spec("onnxruntime") is None:
        without = [*without, "ort"]
    return {key: make() for key, make in made.items() if key not in without}


def compare(args: argparse.Namespace, name: str, clock: Callable[[], float]) -> None:
    """Print one row."""
    batch = args.batch or BATCHES[name]
    torch.manual_seed(0)
    images = torch.randn(batch, *SIZES[name])
    runs = {"ours": ours(name, batch, images), **peers(name, images, args.without.split(","))}
    times: dict[str, list[float]] = {key: [] for key in runs}
    rounds = args.rounds if SIZES[name][0] > 1 else 20 * args.rounds
    for turn in range(rounds + 2):
        for key, run in list(runs.items())[:: 1 if turn % 2 else -1]:
            begin = clock()
            run()
            if turn > 1:
                times[key].append(1e3 * (clock() - begin))
    row = f"{name:10} {batch:4} {min(times['ours']):8.1f}"
    for key in list(runs)[1:]:
        low = min(times[key]) / min(times["ours"])
        middle = statistics.median(times[key]) / statistics.median(times["ours"])
        row += f"  {key} {low:.2f} ({middle:.2f})"
        what = f"TEST forward, {TITLES[name]}, {batch} images, {torch.get_num_threads()} threads"
        faster(what, *PEERS[key], times["ours"], times[key])
    print(row, flush=True)


def start(rounds: int, clock: Callable[[], float]) -> None:
    """Print how long a ResNet-50 takes to build and load."""
    text = prototxt("resnet50", 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.caffemodel"
        load_net(text, seed=1).save(path)
        times = []
        for _ in range(rounds):
            begin = clock()
            load_net(text, path)
            times.append(1e3 * (clock() - begin))
    print(f"ResNet-50, build and load: {min(times):.0f} ms, median {statistics.median(times):.0f}")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(BATCHES))
    parser.add_argument("--batch", type=int, default=0, help="0: what suits each net")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--without", default="", help="peers to leave out")
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print(f"{'net':10} {'N':>4} {'ours ms':>8}  peer: theirs / ours by minima (medians)")
    for name in args.nets.split(","):
        compare(args, name, clock)
    start(args.rounds, clock)


if __name__ == "__main__":
    main()
