"""The update of a ResNet-50's 25.5 M parameters: ours beside torch.optim's, in one run.

    python benchmarks/bench_solver.py [--device cuda] [--threads N] [--rounds N]

Every row times one Caffe-exact `step` and one step of torch's counterpart, in turn, on the same
shapes; the ratio is of the medians (below 1: ours is faster). torch's is measured in all the
implementations that it has (fused, foreach, a loop) and compared by its best and its default. L1,
LARS and LARC are not in torch.optim: there the peers are what a PyTorch user would write.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from google.protobuf import text_format
from summary import figure
from torch import Tensor

from caffeio.profiles import BVLC, INTEL, NVIDIA, Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.solver.make import make_optimizer

DECAY, RATE = 5e-5, 0.1


@dataclass
class Blob:
    layer: str
    index: int
    tensor: Tensor
    lr_mult: float = 1.0
    decay_mult: float = 1.0


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Convolutions, scale and shift of each, and the classifier: 161 tensors, 25.56 M floats."""
    shapes: list[tuple[int, ...]] = []

    def conv(out: int, inp: int, kernel: int) -> None:
        shapes.extend([(out, inp, kernel, kernel), (out,), (out,)])

    conv(64, 3, 7)
    width = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            conv(planes, width, 1)
            conv(planes, planes, 3)
            conv(4 * planes, planes, 1)
            if block == 0:
                conv(4 * planes, width, 1)
            width = 4 * planes
    return [*shapes, (1000, 2048), (1000,)]


def blobs(device: torch.device, groups: int) -> list[Blob]:
    """Parameters with gradients; with two `groups`, vectors get lr_mult 2 and no decay."""
    out = []
    for i, shape in enumerate(resnet50_shapes()):
        tensor = torch.randn(shape, device=device, requires_grad=True)
        tensor.grad = torch.randn(shape, device=device)
        mults = (2.0, 0.0) if groups == 2 and len(shape) == 1 else (1.0, 1.0)
        out.append(Blob(f"layer{i}", 0, tensor, *mults))
    return out


def ours(text: str, profile: Profile, device: torch.device, groups: int = 1) -> Callable[[], None]:
    """A step of our optimizer."""
    solver = text_format.Parse(f"{text} weight_decay: {DECAY}", pb.SolverParameter())
    optimizer = make_optimizer(solver, profile, blobs(device, groups))
    count = iter(range(10**9))
    return lambda: optimizer.step(RATE, next(count))


def theirs(kind: str, device: torch.device, clip: bool) -> dict[str, Callable[[], None]]:
    """A step of torch's optimizer, in each of its implementations; clipped before if `clip`."""
    make = {
        "SGD": lambda p, **kw: torch.optim.SGD(p, RATE, momentum=0.9, **kw),
        "Nesterov": lambda p, **kw: torch.optim.SGD(p, RATE, momentum=0.9, nesterov=True, **kw),
        "AdaGrad": lambda p, **kw: torch.optim.Adagrad(p, RATE, **kw),
        "RMSProp": lambda p, **kw: torch.optim.RMSprop(p, RATE, **kw),
        "AdaDelta": lambda p, **kw: torch.optim.Adadelta(p, RATE, **kw),
        "Adam": lambda p, **kw: torch.optim.Adam(p, RATE, **kw),
    }[kind]
    out: dict[str, Callable[[], None]] = {}
    for name, options in {
        "default": {},
        "fused": {"fused": True},
        "foreach": {"foreach": True},
        "loop": {"foreach": False},
    }.items():
        params = [b.tensor for b in blobs(device, 1)]
        try:
            optimizer = make(params, weight_decay=DECAY, **options)
            optimizer.step()
        except (RuntimeError, TypeError):
            continue
        out[name] = clipped(optimizer, params) if clip else optimizer.step
    return out


def with_l1(device: torch.device) -> dict[str, Callable[[], None]]:
    """What a PyTorch user writes for L1: torch's SGD has none."""
    params = [b.tensor for b in blobs(device, 1)]
    optimizer = torch.optim.SGD(params, RATE, momentum=0.9, fused=True)

    @torch.no_grad()
    def loop() -> None:
        for p in params:
            p.grad.add_(p.sign(), alpha=DECAY)
        optimizer.step()

    @torch.no_grad()
    def foreach() -> None:
        torch._foreach_add_([p.grad for p in params], torch._foreach_sign(params), alpha=DECAY)
        optimizer.step()

    return {"loop, fused": loop, "foreach, fused": foreach}


def with_norms(clip: bool, device: torch.device) -> dict[str, Callable[[], None]]:
    """What a PyTorch user writes for LARS and LARC: norms of all blobs, then torch's own SGD."""
    params = [b.tensor for b in blobs(device, 1)]
    optimizer = torch.optim.SGD(params, RATE, momentum=0.9, weight_decay=DECAY, fused=True)
    each = torch.optim.SGD([{"params": [p]} for p in params], RATE, momentum=0.9, fused=True,
                           weight_decay=DECAY)  # fmt: skip

    def ratios() -> torch.Tensor:
        w = torch.stack(torch._foreach_norm(params))
        g = torch.stack(torch._foreach_norm([p.grad for p in params]))
        return 0.001 * w / g if clip else 0.001 * w / (g + DECAY * w)

    @torch.no_grad()
    def scaled() -> None:
        torch._foreach_mul_([p.grad for p in params], list(ratios().unbind()))
        optimizer.step()

    @torch.no_grad()
    def groups() -> None:
        for group, ratio in zip(each.param_groups, ratios().tolist(), strict=True):
            group["lr"] = RATE * ratio
        each.step()

    return {"scaled, fused": scaled, "groups, fused": groups}


def clipped(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> Callable[[], None]:
    """A step after torch's own clipping."""

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 10)
        optimizer.step()

    return step


def measure(
    steps: dict[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Milliseconds of every round of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times[name].append(1e3 * (clock() - start))
    return times


CASES = {
    "SGD": ("SGD", "momentum: 0.9", BVLC, 1),
    "SGD, two groups": ("SGD", "momentum: 0.9", BVLC, 2),
    "SGD, intel": ("SGD", "momentum: 0.9", INTEL, 1),
    "SGD, clipped": ("SGD", "momentum: 0.9 clip_gradients: 10", BVLC, 1),
    "SGD, iter_size 2": ("SGD", "momentum: 0.9 iter_size: 2", BVLC, 1),
    "SGD, L1": ("SGD", 'momentum: 0.9 regularization_type: "L1"', BVLC, 1),
    "SGD, LARS": ("SGD", "momentum: 0.9 local_lr_auto: true", INTEL, 1),
    "SGD, LARC": ("SGD", "momentum: 0.9 larc: true", NVIDIA, 1),
    "Nesterov": ("Nesterov", 'type: "Nesterov" momentum: 0.9', BVLC, 1),
    "AdaGrad": ("AdaGrad", 'type: "AdaGrad"', BVLC, 1),
    "RMSProp": ("RMSProp", 'type: "RMSProp"', BVLC, 1),
    "RMSProp, intel": ("RMSProp", 'type: "RMSProp"', INTEL, 1),
    "AdaDelta": ("AdaDelta", 'type: "AdaDelta" momentum: 0.9', BVLC, 1),
    "Adam": ("Adam", 'type: "Adam" momentum: 0.9', BVLC, 1),
}

ASKED = ("SGD, L1", "SGD, LARS", "SGD, LARC", "AdaDelta")  # at most 1.1 of the best peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, of one thread")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    device = torch.device(options.device)
    count = sum(torch.Size(s).numel() for s in resnet50_shapes())
    print(
        f"{len(resnet50_shapes())} tensors, {count / 1e6:.2f} M parameters, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'solver':18} {'ours ms':>8} {'best':>7} {'default':>8}  torch.optim ms")
    for name, (kind, text, profile, groups) in CASES.items():
        if options.only not in name:
            continue
        peers = theirs(kind, device, "clip_gradients" in text)
        if "L1" in text:
            peers = with_l1(device)
        elif "lar" in text or "local_lr_auto" in text:
            peers = with_norms("larc" in text, device)
        steps = {"ours": ours(text, profile, device, groups)} | peers
        times = measure(steps, options.rounds, device, clock)
        ms = {key: statistics.median(values) for key, values in times.items()}
        mine, fastest = ms.pop("ours"), min(times.pop("ours"))
        rest = ", ".join(f"{key} {value:.1f}" for key, value in ms.items())
        default = f"{mine / ms['default']:6.2f}x" if "default" in ms else f"{'-':>7}"
        best = mine / min(ms.values())
        print(f"{name:18} {mine:8.1f} {best:6.2f}x {default}  {rest}", flush=True)
        asked = "at most 1.1" if name in ASKED else ""
        figure(f"update of 25.6 M parameters, {name}", "best of torch.optim (ours / it)", asked,
               fastest / min(map(min, times.values())), best)  # fmt: skip


if __name__ == "__main__":
    main()
