"""How long a training takes on many workers: a model of one iteration, and its measurement here.

    python benchmarks/scaling.py predict [--rate 2500] [--batch 128] [--link 25] [--latency 5]
    python benchmarks/scaling.py published
    python benchmarks/scaling.py measure [--ranks 1,2,4] [--rounds 5]

`predict` prints the ResNet-50 recipe's five phases on 8 to 1,024 GPUs. `published` holds the model
against the runs of 64 and 448 nodes that the recipe's authors published. `measure` runs 1, 2 and 4
workers on this machine over gloo: side by side without an exchange, bare all-reduces, and together
as DistributedDataParallel, in turn in the same processes; it prints what the model makes of the
first two beside the third.
docs/scaling.md explains it.

The all-reduce follows Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication
Operations in MPICH" (2005): with n workers, latency a and bandwidth B, a ring of m bytes takes
2 (n - 1) a + 2 (n - 1)/n m/B, a pipelined tree 2 log2(n) a + 2 m/B. The mean of the slowest of n
workers whose times scatter normally with deviation s is s sqrt(2 ln n) above the mean.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

RESNET50_BYTES = 4 * 25_557_032  # the gradients of ResNet-50, float32
BACKWARD = 2 / 3  # the part of a step in which gradients appear one after the other
LAST_BUCKET = 25 << 20  # bytes: DistributedDataParallel's bucket; the last one hides behind nothing


@dataclass(frozen=True)
class Cluster:
    """What one worker does, and what lies between the workers.

    rate: images/s of one worker with a large batch. fixed: seconds of every iteration that do not
    depend on the batch. link: bytes/s that one node sends to another. local: workers of one node,
    which share its link, and sum their gradients first over `inner` (bytes/s). latency: seconds of
    one message. scatter: standard deviation of a worker's step over its mean. overlap: gradients
    travel while the backward pass goes on.
    """

    rate: float
    fixed: float = 0.0
    link: float = 25e9
    local: int = 1
    inner: float = 300e9
    latency: float = 5e-6
    scatter: float = 0.01
    overlap: bool = True


def ring(size: float, workers: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes."""
    if workers < 2:
        return 0.0
    return 2 * (workers - 1) * latency + 2 * (workers - 1) / workers * size / bandwidth


def tree(size: float, workers: int, bandwidth: float, latency: float) -> float:
    """Seconds of a pipelined tree all-reduce of `size` bytes."""
    if workers < 2:
        return 0.0
    return 2 * math.log2(workers) * latency + 2 * size / bandwidth


def all_reduce(size: float, workers: int, cluster: Cluster) -> float:
    """Seconds of the better of ring and tree: within the nodes first, then between them."""
    nodes = max(1, math.ceil(workers / cluster.local))
    inside = ring(size, min(workers, cluster.local), cluster.inner, cluster.latency)
    outside = min(way(size, nodes, cluster.link, cluster.latency) for way in (ring, tree))
    return inside + outside


@dataclass(frozen=True)
class Step:
    """Seconds of one iteration and of its parts; images/s of all workers."""

    compute: float
    exchange: float  # the whole all-reduce
    exposed: float  # what of it the backward pass does not hide
    waiting: float  # for the slowest worker
    images: float

    @property
    def seconds(self) -> float:
        """The whole iteration."""
        return self.compute + self.exposed + self.waiting

    @property
    def rate(self) -> float:
        """Images/s of all workers."""
        return self.images / self.seconds


def step(
    batch: int, workers: int, cluster: Cluster, size: float = RESNET50_BYTES, iter_size: int = 1
) -> Step:
    """One iteration of `iter_size` batches of `batch` images on each worker."""
    once = batch / cluster.rate + cluster.fixed
    compute = once * iter_size
    exchange = all_reduce(size, workers, cluster)
    exposed = exchange
    if cluster.overlap and exchange:
        last = all_reduce(min(size, LAST_BUCKET), workers, cluster)
        exposed = max(last, exchange - BACKWARD * once)
    waiting = cluster.scatter * compute * math.sqrt(2 * math.log(workers)) if workers > 1 else 0.0
    return Step(compute, exchange, exposed, waiting, batch * workers * iter_size)


# iterations of the recipe's five phases, at 4,096 images an update
PHASES = {"init": 7800, "cyc1": 3750, "cyc2": 4750, "cyc3": 4750, "collapse": 1560}
RECIPE_BATCH = 4096


def recipe_hours(workers: int, batch: int, cluster: Cluster) -> float:
    """Hours of the five phases; small clusters make up an update of several batches (iter_size)."""
    images = sum(PHASES.values()) * RECIPE_BATCH
    iter_size = max(1, RECIPE_BATCH // (batch * workers))
    return images / step(batch, workers, cluster, iter_size=iter_size).rate / 3600


def predict(args: argparse.Namespace) -> None:
    """Print the recipe on 8 to 1,024 GPUs."""
    cluster = Cluster(args.rate, args.fixed / 1000, args.link * 1e9, args.local,
                      latency=args.latency * 1e-6, scatter=args.scatter)  # fmt: skip
    print(f"{args.rate:g} images/s a GPU, {args.batch} images a GPU, {args.local} GPUs a node, "
          f"{args.link:g} GB/s between nodes")  # fmt: skip
    print("  GPUs  images an update  images/s  efficiency  step ms  exposed ms  minutes   cost")
    for workers in (1, 2, 8, 16, 32, 64, 128, 256, 512, 1024):
        iter_size = max(1, RECIPE_BATCH // (args.batch * workers))
        found = step(args.batch, workers, cluster, iter_size=iter_size)
        alone = step(args.batch, 1, cluster, iter_size=iter_size)
        hours = recipe_hours(workers, args.batch, cluster)
        efficiency, cost = found.rate / (workers * alone.rate), hours * workers * args.price
        print(f"{workers:6d}  {found.images:16,.0f}  {found.rate:8,.0f}  {efficiency:10.1%}  "
              f"{1000 * found.seconds:7.1f}  {1000 * found.exposed:10.2f}  {60 * hours:7.1f}  "
              f"{cost:5,.0f}")  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A run that the recipe's authors published: nodes, images a node and update, images/s."""

    nodes: int
    images: int
    rate: float
    source: str


PUBLISHED = (
    Published(64, 64, 6303.0, "64 nodes, 98.5 images/s a node (the recipe's README)"),
    Published(448, 32, 8040 * 14336 / 3600, "448 nodes, 8,040 iterations of 14,336 in 60 minutes"),
)


def fit_published() -> Cluster:
    """The node that makes both published runs true: its rate and its seconds an iteration.

    Two unknowns and two runs: this is a fit and no check. Omni-Path: 12.5 GB/s, 1 us.
    """
    first, second = PUBLISHED
    found = Cluster(rate=100.0, link=12.5e9, latency=1e-6)
    for _ in range(50):  # what is exposed and waited for depends on the answer, a little
        times = []
        for run in PUBLISHED:
            now = step(run.images, run.nodes, found)
            times.append(run.nodes * run.images / run.rate - now.exposed - now.waiting)
        slope = (times[0] - times[1]) / (first.images - second.images)
        found = replace(found, rate=1 / slope, fixed=times[0] - slope * first.images)
    return found


def published(_: argparse.Namespace) -> None:
    """Print the model beside the published runs."""
    naive = Cluster(rate=98.5, link=12.5e9, latency=1e-6)
    fitted = fit_published()
    print("                                 published   rate alone   with seconds an iteration")
    for run in PUBLISHED:
        title = f"{run.nodes:4d} nodes, {run.images} images a node"
        naively, with_fixed = (step(run.images, run.nodes, c).rate for c in (naive, fitted))
        print(f"{title}   {run.rate:9,.0f}   {naively:10,.0f}   {with_fixed:10,.0f}")
    print(f"fitted: {fitted.rate:.0f} images/s a node, {1000 * fitted.fixed:.0f} ms an iteration")


# --- measured here


def scatter_of(times: list[float]) -> float:
    """The relative deviation of a worker's steps, from the middle half: a few stalls count not."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 1.349 / middle  # 1.349: between the quartiles of a normal law


def _all_reduce_times(count: int, times: int) -> list[float]:
    """The times in which all ranks sum `count` float32 numbers."""
    import torch
    import torch.distributed as dist

    data, found = torch.zeros(count), []
    for _ in range(times):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(data)
        found.append(time.perf_counter() - began)
    return found


def _step_times(net: Any, batch: int, times: int) -> list[float]:
    """The times of training steps of `net`; the first one is left out."""
    import torch

    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    images, labels = torch.randn(batch, 3, 63, 63), torch.randint(0, 100, (batch,))
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        found.append(time.perf_counter() - began)
    return found[1:]


def _worker(args: argparse.Namespace) -> None:
    """One rank: steps without an exchange, bare all-reduces and steps with one, in turn.

    Rank 0 prints the times as JSON.
    """
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(0)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * 15 * 15, args.width), nn.ReLU(), nn.Linear(args.width, 100),
        )  # fmt: skip

    net, joined = make(), make()
    count = sum(p.numel() for p in net.parameters())
    batches = (args.batch, 2 * args.batch)
    kinds = {f"apart {n}": partial(_step_times, net, n) for n in batches}
    if size > 1:
        dist.init_process_group("gloo")
        joined = DistributedDataParallel(joined, gradient_as_bucket_view=True, static_graph=True)
        kinds |= {f"together {n}": partial(_step_times, joined, n) for n in batches}
        kinds |= {
            "small": partial(_all_reduce_times, 2),
            "large": partial(_all_reduce_times, count),
        }
    found: dict[str, Any] = {kind: [] for kind in kinds}
    for turn in range(args.rounds + 1):
        for kind, work in list(kinds.items())[:: 1 if turn % 2 else -1]:
            if size > 1:
                dist.barrier()
            times = work(args.iterations)
            if turn:  # the first round warms up
                found[kind] += times
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps({"bytes": 4 * count, **found}), flush=True)
    if size > 1:
        dist.barrier()  # whoever leaves first takes the others' connections along
        time.sleep(0.2)
        os._exit(0)


def _run_workers(ranks: int, args: argparse.Namespace) -> dict[str, Any]:
    base = ["--iterations", str(args.iterations), "--batch", str(args.batch), "--width",
            str(args.width), "--rounds", str(args.rounds)]  # fmt: skip
    own = [__file__, "worker", *base]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(own if ranks == 1 else [*launch, *own])]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    if done.returncode:
        sys.exit(f"{ranks} ranks failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(
        [line for line in done.stdout.splitlines() if line.startswith("{")][-1]
    )
    return found


Pick = Callable[[Sequence[float]], float]  # the minimum or the median


def constants(pair: dict[str, Any], pick: Pick = statistics.median) -> Cluster:
    """The link between two workers of this machine, from their bare all-reduces."""
    small, large = pick(pair["small"]), pick(pair["large"])
    latency = small / 2  # a ring of two: two messages
    return Cluster(rate=1.0, link=pair["bytes"] / max(1e-9, large - small), latency=latency)


def expected(
    seconds: float, scatter: float, ranks: int, size: float, link: Cluster, cores: int
) -> float:
    """Seconds of an iteration of workers that take `seconds` side by side without an exchange.

    Where all cores compute, nothing hides the exchange. More workers than cores share them for it;
    then nobody waits for the slowest: who has to wait leaves it a core.
    """
    share = max(1.0, ranks / cores)
    exchange = all_reduce(size, ranks, replace(link, link=link.link / share))
    waiting = scatter * math.sqrt(2 * math.log(ranks)) if share == 1 else 0.0
    return seconds * (1 + waiting) + exchange


def measure(args: argparse.Namespace) -> None:
    """Print the model beside measured workers of this machine; more than its cores share them."""
    from summary import figure

    ranks = [int(n) for n in args.ranks.split(",")]
    found = {n: _run_workers(n, args) for n in sorted({1, 2, *ranks})}
    link, cores = constants(found[2]), len(os.sched_getaffinity(0))
    best = constants(found[2], min)
    size = found[2]["bytes"]
    print(f"link {link.link / 1e9:.2f} GB/s, {1e6 * link.latency:.0f} us a message; "
          f"{size / 1e6:.1f} MB of gradients; {cores} cores; ms, medians")  # fmt: skip
    print("ranks  batch  side by side (of one alone)   model  measured  measured / model (minima)")
    for n in ranks:
        for batch in (args.batch, 2 * args.batch):
            apart, alone = found[n][f"apart {batch}"], found[1][f"apart {batch}"]
            seconds = statistics.median(apart)
            share = seconds / statistics.median(alone)
            row = f"{n:5d}  {batch:5d}  {1000 * seconds:12.1f} ({share:.2f})"
            if n > 1:
                now = found[n][f"together {batch}"]
                model = expected(seconds, scatter_of(apart), n, size, link, cores)
                ratio = statistics.median(now) / model
                low = min(now) / expected(min(apart), 0.0, n, size, best, cores)
                row += (f"  {1000 * model:16.1f}  {1000 * statistics.median(now):8.1f}  "
                        f"{ratio:16.2f} ({low:.2f})")  # fmt: skip
                figure(f"step of {n} gloo workers, {batch} images, 1 thread each",
                       "the model of docs/scaling.md (measured / it)", "", low, ratio)  # fmt: skip
            print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parsers = parser.add_subparsers(dest="what")
    for name, work in (("predict", predict), ("published", published), ("measure", measure),
                       ("worker", _worker)):  # fmt: skip
        part = parsers.add_parser(name)
        part.set_defaults(work=work)
        if name == "predict":
            part.add_argument("--rate", type=float, default=2500.0, help="images/s of one GPU")
            part.add_argument("--fixed", type=float, default=3.0, help="ms of every iteration")
            part.add_argument("--batch", type=int, default=128, help="images of one GPU")
            part.add_argument("--local", type=int, default=8, help="GPUs of one node")
            part.add_argument("--link", type=float, default=50.0, help="GB/s between nodes")
            part.add_argument("--latency", type=float, default=10.0, help="us of a message")
            part.add_argument("--scatter", type=float, default=0.01, help="of a worker's step")
            part.add_argument("--price", type=float, default=2.5, help="of a GPU and hour")
        if name in ("measure", "worker"):
            part.add_argument("--ranks", default="1,2,4")
            part.add_argument("--iterations", type=int, default=6, help="of a round")
            part.add_argument("--batch", type=int, default=16)
            part.add_argument("--width", type=int, default=256)
            part.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(sys.argv[1:] or ["predict"])
    args.work(args)


if __name__ == "__main__":
    main()
