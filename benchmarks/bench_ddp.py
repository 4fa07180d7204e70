"""Two workers of caffeio beside two of plain DistributedDataParallel, in the same run.

    python benchmarks/bench_ddp.py [--nets lenet,mobilenet] [--ranks 2] [--batch N] [--rounds N]

All ranks train on batches that are there already, over gloo with one thread each; both kinds run in
turn in the same processes, in every second round in the other order. A round is many iterations
without a break, as `caffeio train` does them. A row shows one worker and all of them: milliseconds
of an iteration (medians of the rounds, and in brackets processor time of a worker), what the
exchange adds, and the ratio plain / caffeio (above 1: ours is faster). What the exchange adds is
told by the same processes, which also train beside each other without one, round by round: workers
that share a machine are slower for that alone.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_train
import torch
import torch.distributed as dist
from nets import TITLES, plain
from peers import plain_step
from summary import faster, figure
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from caffeio.training.distributed import World

BATCHES = {"lenet": 16, "mobilenet": 4}
ITERATIONS = {"lenet": 20}  # of a round; of other nets 3
ROUNDS = {"lenet": 30}  # of other nets 9
ALONE = " alone"  # beside the others, without an exchange
Run = Callable[[int], object]  # many iterations
Times = list[tuple[float, float]]  # of each round: by the clock, and of the processor


def theirs(name: str, batch: int, *, together: bool) -> Run:
    """The loop that a PyTorch user would write for several workers."""
    net: nn.Module = plain(name).to(memory_format=torch.channels_last).train()
    if together:
        net = DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True)
    step = plain_step(net, *bench_train.batch_of(name, batch))

    def run(iterations: int) -> None:
        for _ in range(iterations):
            step()

    return run


def timed(run: Run, iterations: int) -> tuple[float, float]:
    """Milliseconds of an iteration: by the clock, and of this worker's processor."""
    began, used = time.perf_counter(), time.process_time()
    run(iterations)
    times = time.perf_counter() - began, time.process_time() - used
    return 1000 * times[0] / iterations, 1000 * times[1] / iterations


def worker(rank: int, size: int, port: int, args: argparse.Namespace, pipe: Any) -> None:
    """One rank: both kinds in turn; rank 0 tells the milliseconds of each round."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank),
                      LOCAL_WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    if size > 1:
        dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:

        def ours(world: World | None) -> Run:
            trainer = bench_train.trainer_of(
                args.net, args.batch, "fp32", False, Path(folder), world
            )
            return trainer.step

        kinds: dict[str, Run] = {
            "caffeio": ours(None),
            "plain": theirs(args.net, args.batch, together=size > 1),
        }
        if size > 1:
            kinds["caffeio" + ALONE] = ours(World())
            kinds["plain" + ALONE] = theirs(args.net, args.batch, together=False)
        found: dict[str, Times] = {kind: [] for kind in kinds}
        for number in range(args.rounds + 1):
            for kind, work in list(kinds.items())[:: 1 if number % 2 else -1]:
                if size > 1:
                    dist.barrier()
                times = timed(work, args.iterations)
                if number:  # the first round warms up
                    found[kind].append(times)
    if rank == 0:
        pipe.send(found)
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


def run(size: int, args: argparse.Namespace) -> dict[str, Times]:
    """The rounds of both, with `size` workers."""
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
        found: dict[str, Times] = inlet.recv()
    finally:
        for process in ranks:
            process.join()
    return found


def medians(found: dict[str, Times]) -> dict[str, tuple[float, float]]:
    """Milliseconds and processor time of both."""
    return {
        kind: (statistics.median(a for a, _ in times), statistics.median(b for _, b in times))
        for kind, times in found.items()
    }


def tell(net: str, size: int, batch: int, found: dict[str, Times]) -> None:
    """Tell the summary the ratio of times by the clock."""
    mine, other = ([clock for clock, _ in found[kind]] for kind in ("caffeio", "plain"))
    workers = f"{size} gloo workers" if size > 1 else "one worker"
    beside = "DistributedDataParallel" if size > 1 else "plain PyTorch"
    what = f"training step, {TITLES[net]}, {batch} images, {workers}, 1 thread each"
    faster(what, beside, "", mine, other)


def added(found: dict[str, Times]) -> dict[str, Times]:
    """How much longer each round was with an exchange than beside the others without one."""
    return {
        kind: [
            (a - c, b - d) for (a, b), (c, d) in zip(found[kind], found[kind + ALONE], strict=True)
        ]
        for kind in ("caffeio", "plain")
    }


def tell_overhead(net: str, size: int, batch: int, found: dict[str, Times]) -> None:
    """Tell the summary how much longer a step takes with an exchange, ours / theirs."""
    low = {
        kind: min(t[0] for t in found[kind]) - min(t[0] for t in found[kind + ALONE])
        for kind in ("caffeio", "plain")
    }
    middle = {kind: clock for kind, (clock, _) in medians(added(found)).items()}
    best, median = (  # where noise hides what is added to the plain loop, nothing is met
        a["caffeio"] / a["plain"] if a["plain"] > 0 else math.inf for a in (low, middle)
    )
    figure(f"what an exchange of {size} gloo workers adds to a step, {TITLES[net]}, {batch} images",
           "DistributedDataParallel (ours / it)", "at most 1.0", best, median)  # fmt: skip


def main() -> None:
    """Print a row a net."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", default="lenet,mobilenet")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0, help="0: what suits each net")
    parser.add_argument("--rounds", type=int, default=0, help="0: what suits each net")
    parser.add_argument("--iterations", type=int, default=0, help="of a round; 0: what suits")
    parser.add_argument("--json", help="write what was found here")
    args = parser.parse_args()
    rows, asked = [], (args.batch, args.iterations, args.rounds)
    print("net, batch a worker         caffeio (processor)      plain (processor)   ratio")
    for net in args.nets.split(","):
        args.net = net
        args.batch = asked[0] or BATCHES.get(net, 4)
        args.iterations = asked[1] or ITERATIONS.get(net, 3)
        args.rounds = asked[2] or ROUNDS.get(net, 9)
        times = {size: run(size, args) for size in (1, args.ranks)}
        for size, rounds in times.items():
            tell(net, size, args.batch, rounds)
        tell_overhead(net, args.ranks, args.batch, times[args.ranks])
        titles = {"one worker": medians(times[1]),
                  f"{args.ranks} workers": medians(times[args.ranks]),
                  "the exchange": medians(added(times[args.ranks]))}  # fmt: skip
        for title, found in titles.items():
            (mine, busy), (other, theirs_busy) = found["caffeio"], found["plain"]
            rows.append({"net": net, "workers": title, "caffeio": mine, "plain": other,
                         "caffeio processor": busy, "plain processor": theirs_busy})  # fmt: skip
            print(f"{net:9} {args.batch:3} {title:12} {mine:8.2f} ({busy:.2f}) ms {other:8.2f} "
                  f"({theirs_busy:.2f}) ms {other / mine:8.2f}")  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
