"""Two workers of caffeio beside two of plain DistributedDataParallel, in the same run.

    python benchmarks/bench_ddp.py [--nets lenet,mobilenet] [--ranks 2] [--batch 4] [--rounds 5]

All ranks train on batches that are there already, over gloo with one thread each; both kinds run in
turn in the same processes. A row shows one worker and all of them: milliseconds of an iteration
(medians of the rounds), what the exchange adds, and the ratio plain / caffeio (above 1: ours is
faster).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_train
import torch
import torch.distributed as dist
from nets import plain
from peers import plain_step
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def theirs(name: str, batch: int) -> bench_train.Step:
    """The loop that a PyTorch user would write for several workers."""
    net: nn.Module = plain(name).to(memory_format=torch.channels_last).train()
    if dist.is_initialized():
        net = DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True)
    return plain_step(net, *bench_train.batch_of(name, batch))


def worker(rank: int, size: int, port: int, args: argparse.Namespace, pipe: Any) -> None:
    """One rank: both kinds in turn; rank 0 tells the milliseconds of each round."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank),
                      LOCAL_WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    if size > 1:
        dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "caffeio": bench_train.ours(args.net, args.batch, "fp32", False, Path(folder)),
            "plain": theirs(args.net, args.batch),
        }
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(args.rounds + 1):
            for kind, step in kinds.items():
                if size > 1:
                    dist.barrier()
                began = time.perf_counter()
                for _ in range(args.iterations):
                    step()
                seconds = (time.perf_counter() - began) / args.iterations
                if number:  # the first round warms up
                    found[kind].append(1000 * seconds)
    if rank == 0:
        pipe.send(found)
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


def run(size: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of the rounds of both, with `size` workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    inlet, outlet = fork.Pipe(duplex=False)
    ranks = [
        fork.Process(target=worker, args=(rank, size, port, args, outlet)) for rank in range(size)
    ]
    for process in ranks:
        process.start()
    outlet.close()
    try:
        return inlet.recv()
    finally:
        for process in ranks:
            process.join()


def main() -> None:
    """Print a row a net."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", default="lenet,mobilenet")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--json", help="write what was found here")
    args = parser.parse_args()
    rows = []
    print(f"batch {args.batch} a worker      caffeio      plain   plain / caffeio")
    for net in args.nets.split(","):
        args.net = net
        alone, many = run(1, args), run(args.ranks, args)
        for title, found in (("one worker", alone), (f"{args.ranks} workers", many)):
            mine, other = (statistics.median(found[kind]) for kind in ("caffeio", "plain"))
            rows.append({"net": net, "workers": title, "caffeio": mine, "plain": other})
            head = f"{net:12} {title:12}"
            print(f"{head} {mine:8.1f} ms {other:8.1f} ms {other / mine:12.2f}")
        mine, other = (
            statistics.median(many[kind]) - statistics.median(alone[kind])
            for kind in ("caffeio", "plain")
        )
        print(f"{net:12} the exchange {mine:8.1f} ms {other:8.1f} ms")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
