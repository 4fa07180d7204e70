"""TEST forward and start of a net: caffeio beside a real Caffe in one process, in turn.

    python benchmarks/bench_caffe.py [CAFFE] [--nets resnet50,lenet] [--batch N] [--rounds 5]
                                     [--cpu-time]

CAFFE (default: the variable CAFFE_ROOT) is the folder of a BVLC Caffe built for the CPU: `include/`
and `libcaffe.so` (or `build/lib/libcaffe.so`) are there, and g++ compiles the small real_caffe.cpp
against them. Both run the same prototxt, weights and images, one thread each; the largest
difference of their outputs stands beside the times. A row shows minima in ms and the ratios real
Caffe / caffeio of minima and medians (above 1: caffeio is faster). At last: building a ResNet-50
and loading its .caffemodel.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_inference import BATCHES, trained
from nets import SIZES, TITLES, prototxt
from summary import faster

from caffeio import load_net

LIBRARIES = ("caffe", "boost_system", "glog", "gflags", "protobuf")
Clock = Callable[[], float]


class RealCaffe:
    """The functions of real_caffe.cpp."""

    def __init__(self, caffe: Path, folder: Path) -> None:
        """Compile and load them; `caffe` as the command line says."""
        place = caffe if (caffe / "libcaffe.so").exists() else caffe / "build" / "lib"
        source, made = Path(__file__).with_name("real_caffe.cpp"), folder / "real_caffe.so"
        subprocess.run(
            ["g++", "-O2", "-shared", "-fPIC", "-w", "-DCPU_ONLY", f"-I{caffe / 'include'}",
             f"-I{caffe / 'build' / 'src'}", str(source), "-o", str(made), f"-L{place}",
             f"-Wl,-rpath,{place.resolve()}", *[f"-l{name}" for name in LIBRARIES]],
            check=True,
        )  # fmt: skip
        self._library = ctypes.CDLL(str(made))
        self._library.rc_net.restype = ctypes.c_void_p
        self._library.rc_blob.restype = ctypes.POINTER(ctypes.c_float)
        self._library.rc_init()

    def net(self, model: Path, weights: Path) -> ctypes.c_void_p:
        """Build a TEST net and load its weights."""
        made = self._library.rc_net(os.fsencode(model), os.fsencode(weights))
        return ctypes.c_void_p(made)

    def free(self, net: ctypes.c_void_p) -> None:
        """Delete a net."""
        self._library.rc_free(net)

    def forward(self, net: ctypes.c_void_p) -> None:
        """Run a net."""
        self._library.rc_forward(net)

    def blob(self, net: ctypes.c_void_p, what: int) -> np.ndarray:
        """View the values of the first input (0) or output (1), flat."""
        count = ctypes.c_long()
        values = self._library.rc_blob(net, what, ctypes.byref(count))
        return np.ctypeslib.as_array(values, (count.value,))


def ratios(mine: list[float], other: list[float]) -> str:
    """The ratios of minima and medians, other / mine."""
    middle = statistics.median(other) / statistics.median(mine)
    return f"{min(other) / min(mine):6.2f} ({middle:.2f})"


def compare(
    real: RealCaffe, name: str, batch: int, rounds: int, clock: Clock, folder: Path
) -> None:
    """Print one row."""
    torch.manual_seed(0)
    model, weights = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    model.write_text(prototxt(name, batch))
    net = load_net(model)
    trained(net)
    net.save(weights)
    net = load_net(model, weights)
    theirs = real.net(model, weights)
    images = torch.randn(batch, *SIZES[name])
    real.blob(theirs, 0)[:] = images.flatten().numpy()
    found: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def ours() -> None:
        found.update(net({"data": images}))

    runs = {"caffeio": ours, "real": lambda: real.forward(theirs)}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 1):
        for key, run in runs.items():
            begin = clock()
            run()
            if turn:
                times[key].append(1e3 * (clock() - begin))
    mine, other = found[net.outputs[0]].flatten().numpy(), real.blob(theirs, 1)
    apart = np.abs(mine - other).max() / np.abs(other).max()
    low = min(times["caffeio"]), min(times["real"])
    print(f"{name:10} {batch:4} {low[0]:9.1f} {low[1]:9.1f} "
          f"{ratios(times['caffeio'], times['real'])}   {apart:.1e}", flush=True)  # fmt: skip
    real.free(theirs)
    faster(f"TEST forward, {TITLES[name]}, {batch} images, 1 thread", "BVLC Caffe 1.0",
           "at least 1.3", times["caffeio"], times["real"])  # fmt: skip


def start(real: RealCaffe, rounds: int, clock: Clock, folder: Path) -> None:
    """Print how long a ResNet-50 takes to build and load."""
    model, weights = folder / "resnet50.prototxt", folder / "resnet50.caffemodel"
    model.write_text(prototxt("resnet50", 1))
    load_net(model, seed=1).save(weights)
    times: dict[str, list[float]] = {"caffeio": [], "real": []}
    for _ in range(rounds + 1):
        begin = clock()
        load_net(model, weights)
        middle = clock()
        net = real.net(model, weights)
        times["caffeio"].append(1e3 * (middle - begin))
        times["real"].append(1e3 * (clock() - middle))
        real.free(net)
    mine, other = times["caffeio"][1:], times["real"][1:]
    print(f"ResNet-50, build and load: {min(mine):.0f} ms, real Caffe {min(other):.0f} ms, ratio "
          f"{ratios(mine, other)}")  # fmt: skip
    faster("ResNet-50, build and load", "BVLC Caffe 1.0", "at least 2", mine, other)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("caffe", nargs="?", default=os.environ.get("CAFFE_ROOT"), help="folder")
    parser.add_argument("--nets", default="resnet50,googlenet,caffenet,lenet")
    parser.add_argument("--batch", type=int, default=0, help="0: what suits each net")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    if not args.caffe:
        print("nothing to compare with: name the folder of a built Caffe, or set CAFFE_ROOT")
        return
    torch.set_num_threads(1)
    clock = time.process_time if args.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        real = RealCaffe(Path(args.caffe), folder)
        print(f"torch {torch.__version__}, 1 thread, {args.rounds} rounds")
        print("net           N   caffeio real Caffe  ratio (of medians)  outputs apart")
        for name in args.nets.split(","):
            batch = args.batch or BATCHES[name]
            rounds = args.rounds if SIZES[name][0] > 1 else 20 * args.rounds
            compare(real, name, batch, rounds, clock, folder)
        start(real, args.rounds, clock, folder)


if __name__ == "__main__":
    main()
