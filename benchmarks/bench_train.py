"""A training step of caffeio beside plain hand-written PyTorch: time and memory, in one process.

    python benchmarks/bench_train.py [--nets resnet50,vgg16] [--batch N] [--precision fp32,bf16]
                                     [--rounds 7] [--compile] [--cpu-time]

Both train the same layers on the same batch, channels-last, with SGD (momentum, weight decay): one
iteration of ours is all that `caffeio train` does between two displays, update included; theirs is
`zero_grad`, forward, `backward`, `step` of a fused optimizer. They run in turn, in every second
round the other one first; a row shows minima, the ratio theirs / ours of the minima (above 1: ours
is faster), and the median of the rounds' own ratios with their quartiles. `--cpu-time` counts
processor time of the process, which other load on the machine disturbs less (use one thread).
Peaks of memory are those of a process that trains one of them alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from nets import SIZES, TITLES, plain, prototxt
from peers import DECAY, RATE, plain_step
from summary import faster, figure, peak_mb

from caffeio.training.distributed import World
from caffeio.training.trainer import Trainer

BATCHES = {"resnet50": 8, "vgg16": 4, "mobilenet": 8, "googlenet": 8, "caffenet": 8,
           "lenet": 64}  # fmt: skip
Step = Callable[[], None]


def batch_of(name: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch of images and labels."""
    torch.manual_seed(0)
    images = torch.randn(batch, *SIZES[name]).to(memory_format=torch.channels_last)
    return images, torch.randint(0, 10, (batch,))


def trainer_of(
    name: str, batch: int, precision: str, compiled: bool, folder: Path,
    world: World | None = None,
) -> Trainer:  # fmt: skip
    """A Trainer whose inputs are given; `world`: its workers, as in Trainer."""
    net = folder / f"{name}.prototxt"
    net.write_text(prototxt(name, batch, train=True))
    solver = folder / f"{name}_solver.prototxt"
    solver.write_text(
        f'net: "{net}" base_lr: {RATE} lr_policy: "fixed" momentum: 0.9 weight_decay: {DECAY} '
        f'max_iter: 1000000 random_seed: 1 snapshot_prefix: "{folder}/out" '
        "snapshot_after_train: false"
    )
    trainer = Trainer(solver, world=world, device="cpu", precision=precision, compile=compiled)
    images, labels = batch_of(name, batch)
    inputs = {"data": images, "label": labels.float()}
    trainer.net.read_data = lambda step, given: tuple(inputs[top] for top in step.tops)
    return trainer


def ours(name: str, batch: int, precision: str, compiled: bool, folder: Path) -> Step:
    """An iteration of a Trainer."""
    trainer = trainer_of(name, batch, precision, compiled, folder)
    return lambda: trainer.step(1)


def theirs(name: str, batch: int, precision: str, compiled: bool) -> Step:
    """The loop that a PyTorch user would write."""
    net = plain(name).to(memory_format=torch.channels_last).train()
    return plain_step(net, *batch_of(name, batch), precision, compiled=compiled)


def measure(
    steps: dict[str, Step], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of every round, in turn, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in list(steps.items())[:: 1 if turn % 2 else -1]:
            begin = clock()
            step()
            if turn:
                times[name].append(1e3 * (clock() - begin))
    return times


def ratios(ours: list[float], theirs: list[float]) -> str:
    """Show theirs / ours: of the minima, and the median and the quartiles of the rounds' own."""
    pairs = [other / mine for mine, other in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else 3 * pairs
    return f"{min(theirs) / min(ours):6.2f} {middle:7.3f} ({low:.3f} {high:.3f})"


def peak(args: argparse.Namespace, which: str, name: str, precision: str) -> float:
    """MB that a process of its own needs at most."""
    command = [sys.executable, __file__, "--only", which, "--nets", name, "--precision", precision,
               "--batch", str(args.batch), "--threads", str(args.threads)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def compare(args: argparse.Namespace, name: str, precision: str, folder: Path) -> None:
    """Print one row."""
    batch = args.batch or BATCHES[name]
    clock = time.process_time if args.cpu_time else time.perf_counter
    steps = {
        "ours": ours(name, batch, precision, args.compile, folder),
        "theirs": theirs(name, batch, precision, args.compile),
    }
    if args.compile:
        steps["eager"] = theirs(name, batch, precision, False)
    rounds = args.rounds if SIZES[name][0] > 1 else 20 * args.rounds
    times = measure(steps, rounds, clock)
    low = {key: min(values) for key, values in times.items()}
    row = f"{name:10} {batch:4} {precision:5} {low['ours']:9.1f} {low['theirs']:9.1f} "
    row += ratios(times["ours"], times["theirs"])
    if args.compile:
        row += ratios(times["ours"], times["eager"])
    tell(args, name, precision, times)
    if args.memory:
        both = [peak(args, which, name, precision) for which in ("ours", "theirs")]
        row += f" {both[0]:7.0f} {both[1]:7.0f} {both[0] / both[1]:6.2f}"
        figure(f"memory of the training, {TITLES[name]}, {precision}", "plain PyTorch (ours / it)",
               "at most 1.02", both[0] / both[1], both[0] / both[1])  # fmt: skip
    print(row, flush=True)


def tell(
    args: argparse.Namespace, name: str, precision: str, times: dict[str, list[float]]
) -> None:
    """Tell the summary the ratios of one row."""
    what = f"{TITLES[name]}, {args.batch or BATCHES[name]} images, {precision}"
    what += f", {torch.get_num_threads()} threads"
    if args.compile:
        what = f"training step with --compile, {what}"
        faster(what, "plain PyTorch, compiled", "at least 1.0", times["ours"], times["theirs"])
        faster(what, "plain PyTorch, eager", "at least 1.15", times["ours"], times["eager"])
        faster(f"(plain PyTorch, compiled: {what})", "plain PyTorch, eager", "", times["theirs"],
               times["eager"])  # fmt: skip
    else:
        faster(f"training step, {what}", "plain PyTorch", "at least 1.0", times["ours"],
               times["theirs"])  # fmt: skip


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="resnet50,vgg16,mobilenet,googlenet,lenet")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--batch", type=int, default=0, help="0: what suits each net")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction)
    parser.add_argument("--only", choices=["ours", "theirs"])
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory is None:
        args.memory = not args.compile
    with tempfile.TemporaryDirectory() as folder:
        if args.only:
            batch = args.batch or BATCHES[args.nets]
            options = args.nets, batch, args.precision, args.compile
            step = ours(*options, Path(folder)) if args.only == "ours" else theirs(*options)
            for _ in range(2):  # the first one makes what the second one finds
                step()
            print(peak_mb())
            return
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
        more = "  eager  median (quartiles)" if args.compile else ""
        more += "  MB ours  theirs  ratio" if args.memory else ""
        head = f"{'net':10} {'N':>4} {'':5} {'ours ms':>9} {'theirs':>9}"
        print(f"{head}  ratio  median (quartiles)  {more}")
        for name in args.nets.split(","):
            for precision in args.precision.split(","):
                if name == "lenet" and precision != "fp32" and args.nets != name:
                    continue  # for such a net bfloat16 pays nowhere
                compare(args, name, precision, Path(folder))


if __name__ == "__main__":
    main()
