"""The seed's ResNet-50 beside a plain hand-written PyTorch one: images/s and peak memory.

Ours reads and decodes synthetic JPEGs meanwhile, theirs has one batch of random numbers; both are
float32, channels-last, SGD with momentum, on the same threads, in turn, each in a process of its
own, so that peak memory is its own.

    python benchmarks/bench_resnet50.py [--solver .../solver_cyc1.prototxt] [--batch 16] [--iters 5]

Without a solver it is a ResNet-50 of `nets.py` that reads the JPEGs with random crops.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from nets import plain, prototxt
from peers import make_lmdb, plain_step
from summary import peak_mb


def run_caffeio(args: argparse.Namespace, lmdb: str, weights: str | None) -> dict[str, float]:
    from caffeio.training.trainer import Events, Trainer

    times: list[float] = []
    began = time.perf_counter()
    trainer = Trainer(
        args.solver,
        weights=[weights] if weights else [],
        overrides=[
            f"layer[data].data_param.source={lmdb}",
            f"layer[data].data_param.batch_size={args.batch}",
            f"snapshot_prefix={Path(lmdb).parent}/bench",
        ],
        device="cpu",
        precision=args.precision,
        events=Events(iteration=lambda entry: times.append(entry["seconds"])),
    )
    start = time.perf_counter() - began
    trainer.step(args.iters)
    trainer.snapshot()
    trainer.close()
    return report(args, times, start)


def run_plain(args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    net = plain("resnet50").to(memory_format=torch.channels_last)
    images = torch.randn(args.batch, 3, 224, 224).to(memory_format=torch.channels_last)
    step = plain_step(net, images, torch.randint(0, 1000, (args.batch,)), args.precision)
    times = []
    for _ in range(args.iters):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return report(args, times, 0.0)


def report(args: argparse.Namespace, times: list[float], start: float) -> dict[str, float]:
    steady = sorted(times[1:])
    return {
        "images_per_s": args.batch / steady[len(steady) // 2],
        "best_images_per_s": args.batch / steady[0],
        "peak_mb": peak_mb(),
        "start_s": start,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--iters", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["caffeio", "plain"])
    parser.add_argument("--lmdb")
    parser.add_argument("--weights")
    args = parser.parse_args()
    if args.only:
        alone = args.only == "plain"
        print(json.dumps(run_plain(args) if alone else run_caffeio(args, args.lmdb, args.weights)))
        return
    with tempfile.TemporaryDirectory() as folder:
        lmdb = str(Path(folder) / "lmdb")
        make_lmdb(Path(lmdb), max(args.batch * 2, 64), 1000)
        args.solver = args.solver or make_solver(Path(folder), lmdb, args.batch)
        weights = make_weights(args, folder)
        found: dict[str, list[dict[str, float]]] = {"caffeio": [], "plain": []}
        for _ in range(args.rounds):  # in turn, so that both meet the same machine
            for name, rows in found.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--lmdb", lmdb,
                           "--weights", weights, "--solver", args.solver]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(name, {k: round(v, 2) for k, v in rows[-1].items()}, flush=True)
        speed = [max(row["best_images_per_s"] for row in found[n]) for n in ("caffeio", "plain")]
        memory = [min(row["peak_mb"] for row in found[n]) for n in ("caffeio", "plain")]
        print(f"images/s caffeio / plain PyTorch: {speed[0] / speed[1]:.2f}")
        print(f"peak memory caffeio / plain PyTorch: {memory[0] / memory[1]:.2f}")


def make_solver(folder: Path, lmdb: str, batch: int) -> str:
    """A solver whose ResNet-50 reads `lmdb`."""
    lines = prototxt("resnet50", batch, train=True).splitlines()
    data = (
        'layer { name: "data" type: "Data" top: "data" top: "label" '
        "transform_param { crop_size: 224 mirror: true mean_value: 104 mean_value: 117 "
        "mean_value: 123 scale: 0.0078125 } "
        f'data_param {{ source: "{lmdb}" backend: LMDB batch_size: {batch} }} }}'
    )
    inputs = [line for line in lines if 'type: "Input"' not in line]
    (folder / "net.prototxt").write_text("\n".join([inputs[0], data, *inputs[1:]]))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 '
        f'weight_decay: 0.00005 max_iter: 1000000 snapshot_prefix: "{folder}/bench"'
    )
    return str(solver)


def make_weights(args: argparse.Namespace, folder: str) -> str:
    """A .caffemodel of the full net (about 100 MB), so that loading is part of the run."""
    from caffeio.net import load_net
    from caffeio.proto.files import read_solver
    from caffeio.proto.weights.load import write_caffemodel
    from caffeio.training.net_specs import find_file

    net_name = read_solver(args.solver).message.net
    path = find_file(net_name, str(Path(args.solver).resolve().parent), what="net file")
    net = load_net(path, phase="TRAIN", seed=1)
    out = str(Path(folder) / "start.caffemodel")
    write_caffemodel(out, net.to_proto(), net.blob_arrays(), dialect="sara")
    print(f"{Path(out).stat().st_size / 1e6:.0f} MB of weights")
    return out


if __name__ == "__main__":
    main()
