"""The seed's ResNet-50 beside a plain hand-written PyTorch one: images/s and peak memory.

Both train on the same synthetic JPEGs' pixels, float32, channels-last, SGD with momentum, on the
same threads, in turn; each in a process of its own, so that peak memory is its own.

    python benchmarks/bench_resnet50.py [--solver .../solver_cyc1.prototxt] [--batch 16] [--iters 6]

Without a solver it is a ResNet-50 of `nets.py` that reads the JPEGs with random crops.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from nets import prototxt


def make_lmdb(folder: Path, count: int) -> None:
    from caffeio.data.db.lmdb import write_lmdb
    from caffeio.data.records.datum import encode_datum

    rng = np.random.default_rng(0)

    def records():
        for i in range(count):
            small = rng.integers(0, 256, (24, 32, 3), np.uint8)
            image = cv2.resize(small, (340, 256), interpolation=cv2.INTER_CUBIC)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            yield f"{i:08d}", encode_datum(data=jpeg, label=i % 1000, encoded=True)

    write_lmdb(folder, records())


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
    import torch
    from torch import nn

    torch.manual_seed(0)

    def unit(i, o, k, s=1):
        return [nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o)]

    class Block(nn.Module):
        def __init__(self, i, mid, stride):
            super().__init__()
            o = 4 * mid
            self.body = nn.Sequential(
                *unit(i, mid, 1, stride), nn.ReLU(True), *unit(mid, mid, 3), nn.ReLU(True),
                *unit(mid, o, 1),
            )  # fmt: skip
            self.short = nn.Sequential(*unit(i, o, 1, stride)) if i != o else nn.Identity()

        def forward(self, x):
            return torch.relu_(self.body(x) + self.short(x))

    layers = [*unit(3, 64, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True)]
    width = 64
    for mid, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for n in range(count):
            layers.append(Block(width, mid, 2 if n == 0 and mid > 64 else 1))
            width = 4 * mid
    net = nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(2048, 1000))
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=5e-5, fused=True)
    images = torch.randn(args.batch, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (args.batch,))
    times = []
    for _ in range(args.iters):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return report(args, times, 0.0)


def report(args: argparse.Namespace, times: list[float], start: float) -> dict[str, float]:
    steady = sorted(times[1:])
    return {
        "images_per_s": args.batch / steady[len(steady) // 2],
        "best_images_per_s": args.batch / steady[0],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start_s": start,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--iters", type=int, default=6)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["caffeio", "plain"])
    parser.add_argument("--lmdb")
    parser.add_argument("--weights")
    args = parser.parse_args()
    if args.only:
        plain = args.only == "plain"
        print(json.dumps(run_plain(args) if plain else run_caffeio(args, args.lmdb, args.weights)))
        return
    with tempfile.TemporaryDirectory() as folder:
        lmdb = str(Path(folder) / "lmdb")
        make_lmdb(Path(lmdb), max(args.batch * 2, 64))
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
