"""Many workers of a tiny net on one machine: do they start, train and agree, and what do they take?

    python benchmarks/many_ranks.py --ranks 128 --iterations 20

Every rank is a process with one thread that talks over gloo, forked from one that has imported
PyTorch, so that its pages are shared. Each trains on its own share of an LMDB; at the end all must
hold the same weights, and the loss must have fallen. Prints seconds and memory as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch._dynamo  # DistributedDataParallel asks for it: once, before the forks, not in each

from caffeio import Trainer
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.training.events import Events

NET = """
layer { name: "data" type: "Data" top: "data" top: "label"
        transform_param { scale: 0.00390625 }
        data_param { source: "lmdb" backend: LMDB batch_size: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.5 lr_policy: "fixed" momentum: 0.9 max_iter: {iterations}
display: 0 snapshot: 0 snapshot_after_train: false snapshot_prefix: "snap" random_seed: 3
"""


def make_files(iterations: int, records: int) -> None:
    """Write solver.prototxt, net.prototxt and an LMDB of four classes into the working folder."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (4, 1, 6, 6))

    def images() -> Any:
        for i in range(records):
            noisy = patterns[i % 4] + rng.integers(0, 128, (1, 6, 6))
            yield f"{i:06d}", encode_datum(data=noisy.astype(np.uint8), label=i % 4)

    write_lmdb("lmdb", images())
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER.format(iterations=iterations))


def memory() -> tuple[float, float]:
    """MB of this process: resident, and its proportional share of pages that others have too."""
    resident = share = 0.0
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                value = int(rest.split()[0]) / 1024
                resident, share = (value, share) if name == "Rss" else (resident, value)
    return resident, share


def worker(rank: int, size: int, port: int, pipe: Any) -> None:
    """One rank: train, and tell the digest of the weights, the losses, seconds and memory."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank),
                      LOCAL_WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    losses: list[float] = []
    try:
        began = time.monotonic()
        events = Events(iteration=lambda entry: losses.append(float(entry["loss"])))
        with Trainer("solver.prototxt", device="cpu", events=events) as trainer:
            started = time.monotonic() - began
            trainer.solve()
            blobs = b"".join(b.tobytes() for row in trainer.net.blob_arrays() for b in row)
        told = {
            "digest": hashlib.sha256(blobs).hexdigest(), "first": losses[0], "last": losses[-1],
            "start": started, "all": time.monotonic() - began, "memory": memory(),
        }  # fmt: skip
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        told = {"error": f"rank {rank}: {type(error).__name__}: {error}"}
    pipe.send(told)
    pipe.close()


def run(ranks: int, iterations: int) -> dict[str, Any]:
    """Train with that many workers in the working folder; what came of it."""
    make_files(iterations, max(64, 2 * ranks * 4))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ends = [fork.Pipe(duplex=False) for _ in range(ranks)]
    workers = [
        fork.Process(target=worker, args=(rank, ranks, port, ends[rank][1]))
        for rank in range(ranks)
    ]
    for process in workers:
        process.start()
    told = []
    for (inlet, outlet), process in zip(ends, workers, strict=True):
        outlet.close()
        try:
            told.append(inlet.recv())
        except EOFError:
            process.join()  # else its code is not there yet
            told.append({"error": f"a worker ended with code {process.exitcode}"})
    for process in workers:
        process.join()
    errors = [t["error"] for t in told if "error" in t]
    if errors:
        return {"ranks": ranks, "errors": errors[:5]}
    resident, share = (sum(t["memory"][i] for t in told) for i in range(2))
    return {
        "ranks": ranks, "iterations": iterations, "agree": len({t["digest"] for t in told}) == 1,
        "first loss": sum(t["first"] for t in told) / ranks,
        "last loss": sum(t["last"] for t in told) / ranks,
        "seconds to start": max(t["start"] for t in told),
        "seconds": max(t["all"] for t in told),
        "ms an iteration": 1000 * max(t["all"] - t["start"] for t in told) / iterations,
        "MB resident a rank": resident / ranks, "MB of memory a rank": share / ranks,
    }  # fmt: skip


def main() -> None:
    """Run in a folder that is thrown away, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        found = run(args.ranks, args.iterations)
    print(json.dumps(found, indent=1))
    sys.exit(0 if found.get("agree") else 1)


if __name__ == "__main__":
    main()
