"""One script for a bare GPU machine: is it right, how fast is it, what is in its way.

    python benchmarks/gpu.py --json gpu.json            # under 8 minutes on one GPU
    python benchmarks/gpu.py --device cpu --quick       # the same code without a GPU

It needs the working tree with its compiled caffe.proto, PyTorch, NumPy, protobuf, click and OpenCV;
wheels beside it (benchmarks/wheels/*.whl: lmdb, simplejpeg, onnx) are used where the machine lacks
them. Parts, in this order; one that fails is told and the others go on:

parity   golden layers, nets, trainings and random nets of real Caffe on the device, TF32 off
limits   the device's own: TFLOP/s of matrix products, GB/s of memory
step     images/s of a ResNet-50 training step, beside plain PyTorch in turn, in float32, TF32,
         bfloat16, compiled, as a CUDA graph, for several batches
infer    images/s of a TEST forward: prepared, as written, and plain PyTorch
loader   images/s of JPEGs from an LMDB: the loader alone, and a training that it feeds
train    NCCL with one rank, peak memory, snapshots written at once and in the background, a test
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
PARTS = ("parity", "limits", "step", "infer", "loader", "train")
LONG, GRACE = 5.0, 20.0  # s: of runs that are few enough; after the limit until all is ended
PARITY = 150.0  # s at most
COMPILED = (256,)  # batches for which a compiled step is tried: each compiles for a minute
RESERVED = {"step": 110.0, "infer": 90.0, "loader": 45.0, "train": 0.0}  # s for later parts
RESNET50_FLOP = 3 * 2 * 4.09e9  # of one training image at 224 x 224: forward once, backward twice


def use_wheels() -> None:
    """Unpack wheels that lie beside this script, for packages that the machine lacks."""
    folder = Path(__file__).resolve().parent / "wheels"
    place = Path(tempfile.gettempdir()) / "caffeio-wheels"
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    sys.path.append(str(place))


use_wheels()

import numpy as np  # noqa: E402
import torch  # noqa: E402

Row = dict[str, Any]


class Bench:
    """The device, what was found, and a clock that waits for the device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.quick, self.device = args.quick, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.began = time.monotonic()
        self.limit = args.seconds
        self.json = args.json
        self.found: dict[str, Any] = {"machine": machine(self.device)}

    @property
    def left(self) -> float:
        """Seconds until the time is up."""
        return self.limit - (time.monotonic() - self.began)

    def save(self) -> None:
        """Write what was found so far: nothing is lost if this is stopped."""
        if self.json:
            part = Path(f"{self.json}.part")
            part.write_text(json.dumps(self.found, indent=1, default=str))
            part.replace(self.json)

    def give_up(self) -> None:
        """Some part does not come back: write what there is, and end."""
        self.found["stopped"] = {"error": f"not done after {self.limit + GRACE:.0f} s"}
        with contextlib.suppress(Exception):  # a part may be changing it
            self.save()
            print(table(self.found), flush=True)
        os._exit(3)

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], rounds: int, warm: int = 3) -> float:
        """The median of `rounds` runs: between events on a GPU, by the clock elsewhere.

        Three are enough where they take long.
        """
        for _ in range(warm):
            work()
        self.sync()
        times: list[float] = []
        for _ in range(rounds):
            if len(times) >= 3 and sum(times) > LONG:
                break
            if self.cuda:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                work()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) / 1000)
            else:
                start = time.perf_counter()
                work()
                times.append(time.perf_counter() - start)
        return statistics.median(times)


def machine(device: torch.device) -> Row:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device": name, "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0],
        "torch": torch.__version__, "cuda": torch.version.cuda or "",
    }  # fmt: skip


def off_by(mine: Any, theirs: Any) -> float:
    """max|a - b| / max|b|; infinite where shapes, nans or infinities differ."""
    if isinstance(mine, torch.Tensor):
        mine = mine.detach().cpu().numpy()
    a, b = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    fine = np.isfinite(b)
    if not fine.any():
        return 0.0
    return float(np.abs(a[fine] - b[fine]).max() / max(np.abs(b[fine]).max(), 1e-6))


# --- parity


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Entries whose key begins with `prefix`, without it."""
    return {key[len(prefix) :]: v for key, v in arrays.items() if key.startswith(prefix)}


def layer_case(path: Path, device: torch.device) -> dict[str, float] | None:
    """Forward and backward of one golden layer on the device; None if it reads data itself."""
    from caffeio.net import load_net

    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    if "random_seed" in arrays or int(arrays["passes"]) != 1:
        return None
    net = load_net(path, phase=str(arrays["phase"]))
    if net.sources:
        return None
    step = next(s for s in net.steps if s.node.name == "x")
    with torch.no_grad():
        for key, value in under(arrays, "param/").items():
            step.layer.blobs[int(key)].copy_(torch.from_numpy(value))
    net.to(device)
    net.keep_trace = True
    on = any(key.startswith(("bottom_diff/", "param_diff/")) for key in arrays)
    given = {
        key: torch.tensor(value, device=device, requires_grad=on)
        for key, value in under(arrays, "in/").items()
    }
    net(given)
    trace = {entry.step.node.name: entry for entry in net.trace}["x"]
    outs = [off_by(trace.top(k), v) for k, v in under(arrays, "out/").items()]
    return {"forward": max(outs, default=0.0), "backward": _backward(step, trace, arrays, device)}


def _backward(step: Any, trace: Any, arrays: dict[str, np.ndarray], device: torch.device) -> float:
    tops, diffs = [], []
    for key, value in under(arrays, "top_diff/").items():
        top = trace.top(key)
        if top.requires_grad:
            tops.append(top)
            diffs.append(torch.from_numpy(value).reshape(top.shape).to(device))
    pairs = [(trace.bottom(k), v) for k, v in under(arrays, "bottom_diff/").items()]
    pairs += [(step.layer.blobs[int(k)], v) for k, v in under(arrays, "param_diff/").items()]
    pairs = [(tensor, value) for tensor, value in pairs if tensor.requires_grad]
    if not (tops and pairs):
        return 0.0
    grads = torch.autograd.grad(tops, [t for t, _ in pairs], diffs, allow_unused=True)
    return max(
        off_by(torch.zeros_like(tensor) if grad is None else grad, value)
        for grad, (tensor, value) in zip(grads, pairs, strict=True)
    )


def fuzz_case(case: Row, arrays: dict[str, np.ndarray], device: torch.device) -> float:
    """The largest difference of a random net's blobs in its first pass."""
    from caffeio.net import load_net

    net = load_net(case["text"], phase=case["phase"], seed=case["net_seed"])
    with torch.no_grad():
        for key, value in {**under(arrays, "init/"), **under(arrays, "params/")}.items():
            layer, _, index = key.rpartition("/")
            net.params[layer][int(index)].copy_(torch.from_numpy(value))
    net.to(device)
    first = under(arrays, "pass0/")
    net({k: torch.from_numpy(v.copy()).to(device) for k, v in under(first, "in/").items()})
    blobs = under(first, "blob/").items()
    return max((off_by(net.blobs[k], v) for k, v in blobs if k in net.blobs), default=0.0)


def training_case(folder: Path, device: torch.device) -> dict[str, float]:
    """A golden training on the device: its losses and its final weights."""
    from caffeio import Trainer, load_weights
    from caffeio.training.events import Events

    info = json.loads((folder / "info.json").read_text())
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        shutil.copytree(GOLDEN / "solvers" / "lmdb", "solvers/lmdb")
        work = Path("solvers") / folder.name
        shutil.copytree(folder, work, ignore=shutil.ignore_patterns("snap_iter_*"))
        with contextlib.chdir(work):
            weights = ["init.caffemodel"] if "-weights" in info["command"] else []
            events = Events(iteration=lambda entry: losses.append(float(entry["loss"])))
            with Trainer("solver.prototxt", weights=weights, events=events,
                         device=str(device)) as trainer:  # fmt: skip
                trainer.solve()
            mine, theirs = (
                load_weights(info["final_model"]),
                load_weights(folder / info["final_model"]),
            )
            off = max(
                off_by(mine[layer][i], blob)
                for layer in theirs
                for i, blob in enumerate(theirs[layer])
            )
    return {"losses": off_by(losses, np.load(folder / "losses.npy")), "weights": off}


def parity(bench: Bench) -> Row:
    """Golden cases on the device, as real Caffe's CPU computed them."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    layers = sorted((GOLDEN / "layers").glob("*/*.prototxt"))
    solvers = [p for p in sorted((GOLDEN / "solvers").iterdir()) if (p / "info.json").exists()]
    out: Row = {}
    worst: dict[str, Row] = {}
    bench.found["parity"] = out
    out.update({"layers": worst, "trainings": {}, "random nets": {}, "left out": 0})
    began = bench.left

    def late(share: float) -> bool:
        """Whether this share of parity's time is over: then a case is left out, and counted."""
        out["left out"] += (over := began - bench.left > share * PARITY)
        return bool(over)

    for path in layers[:: 12 if bench.quick else 1]:
        if late(0.5):
            continue
        name = f"{path.parent.name}/{path.stem}"
        found = attempt(out, name, partial(layer_case, path, bench.device))
        if found:
            mine = worst.setdefault(path.parent.name, {"cases": 0, "forward": 0.0, "backward": 0.0})
            mine["cases"] += 1
            for key in ("forward", "backward"):
                mine[key] = max(mine[key], found[key])
    chosen = [p for p in solvers if p.name in ("sgd_fixed", "bn_sgd", "adam_poly")]
    chosen = chosen[: 1 if bench.quick else None]
    for p in chosen + [p for p in solvers if p not in chosen and not bench.quick]:
        if not late(0.8):
            work = partial(training_case, p, bench.device)
            out["trainings"][p.name] = attempt(out, p.name, work)
    cases = json.loads((GOLDEN / "fuzz" / "nets.json").read_text())
    with np.load(GOLDEN / "fuzz" / "nets.npz") as file:
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for key in file.files:
            seed, _, rest = key.partition("/")
            arrays.setdefault(seed, {})[rest] = file[key]
    offs = []
    for case in [c for c in cases if "refused" not in c][:: 12 if bench.quick else 1]:
        if late(1.0):
            continue
        run = partial(fuzz_case, case, arrays[str(case["seed"])], bench.device)
        found = attempt(out, f"net {case['seed']}", run)
        offs += [found] if isinstance(found, float) else []
    out["random nets"] = {"nets": len(offs), "worst": max(offs, default=0.0),
                          "above 1e-4": sum(o > 1e-4 for o in offs)}  # fmt: skip
    return out


def attempt(out: Row, name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; an error is noted under its name and does not stop the others."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001
        out.setdefault("errors", {})[name] = f"{type(error).__name__}: {error}"[:300]
        return None


# --- the device's limits


def limits(bench: Bench) -> Row:
    """TFLOP/s of square matrix products and GB/s of a copy."""
    size = 512 if bench.quick else 8192
    out: Row = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(size, size, device=bench.device, dtype=kind)
        for tf32 in (False, True) if name == "fp32" and bench.cuda else (False,):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            seconds = bench.seconds(lambda a=a: a @ a, 5 if bench.quick else 20)
            out[f"{'tf32' if tf32 else name} TFLOP/s"] = 2 * size**3 / seconds / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    data = torch.empty((1 << 22) if bench.quick else (1 << 28), device=bench.device)
    other = torch.empty_like(data)
    out["GB/s"] = 2 * data.nbytes / bench.seconds(lambda: other.copy_(data), 10) / 1e9
    return out


# --- one training step


def modes(bench: Bench) -> dict[str, Row]:
    """How a step is run: precision, TF32, compiled, recorded."""
    plain = {"precision": "fp32", "tf32": False, "compile": False, "graph": False}
    found: dict[str, Row] = {"fp32": plain, "bf16": {**plain, "precision": "bf16"}}
    if bench.cuda:
        found = {"fp32": plain, "tf32": {**plain, "tf32": True}, "bf16": found["bf16"]}
        found["bf16 graph"] = {**found["bf16"], "graph": True}
        found["bf16 compile"] = {**found["bf16"], "compile": True}
    return found


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Allow TF32 in products and convolutions, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def our_step(bench: Bench, name: str, batch: int, mode: Row) -> Callable[[], Any]:
    """An iteration of caffeio: forward, backward, Caffe's SGD with momentum and decay."""
    import nets
    import peers

    from caffeio.net import load_net
    from caffeio.profiles import BVLC
    from caffeio.proto import caffe_pb2 as pb
    from caffeio.solver.make import make_optimizer
    from caffeio.training.cuda_graph import GraphedStep
    from caffeio.training.training_step import TrainingStep

    torch.manual_seed(0)
    net = load_net(nets.prototxt(name, batch, train=True), phase="TRAIN")
    net.keep_blobs = False
    net.to(bench.device).to(memory_format=torch.channels_last)
    net.fuse()
    images, labels = inputs(bench, net.blob_shapes["data"], nets.classes(name))
    net.read_inputs = lambda: {"data": images, "label": labels}  # type: ignore[method-assign]
    solver = pb.SolverParameter(momentum=0.9, weight_decay=peers.DECAY)
    optimizer = make_optimizer(solver, BVLC, net.learnable)
    module: Any = TrainingStep(net, mode["precision"], mode["compile"])
    module = GraphedStep(module, net) if mode["graph"] else module

    def iteration() -> None:
        for item in net.learnable:
            item.tensor.grad = None
        loss, _ = module()
        if loss.requires_grad:
            loss.backward()
        optimizer.step(peers.RATE, 0)

    return iteration


def plain_step(bench: Bench, name: str, batch: int, mode: Row) -> Callable[[], Any]:
    """The same layers and the same update in plain PyTorch."""
    import nets
    import peers

    torch.manual_seed(0)
    net: Any = nets.plain(name).to(bench.device).to(memory_format=torch.channels_last)
    images, labels = inputs(bench, (batch, *nets.SIZES[name]), nets.classes(name))
    return peers.plain_step(net, images, labels.long(), mode["precision"], compiled=mode["compile"])


def inputs(bench: Bench, shape: tuple[int, ...], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, channels-last, and labels as Caffe has them."""
    images = torch.randn(shape, device=bench.device).to(memory_format=torch.channels_last)
    return images, torch.randint(0, classes, shape[:1], device=bench.device).float()


def step(bench: Bench) -> list[Row]:
    """images/s of both, in turn, and what the device's limits allow."""
    name = "lenet" if bench.quick else "resnet50"
    batches = [4] if bench.quick else ([64, 128, 256, 512] if bench.cuda else [8])
    rounds = 3 if bench.quick else 10
    rows: list[Row] = []
    bench.found["step"] = rows
    for mode_name, mode in modes(bench).items():
        for batch in COMPILED if mode["compile"] and not bench.quick else batches:
            if bench.left < RESERVED["step"]:
                print(f"no time left for {mode_name}, batch {batch}", flush=True)
                continue
            row: Row = {"mode": mode_name, "batch": batch}
            with tf32(mode["tf32"]):
                for who, make in (("caffeio", our_step), ("plain", plain_step)):
                    build = partial(make, bench, name, batch, mode)
                    row.update(_rate(bench, who, build, batch, rounds))
            if row.get("caffeio") and row.get("plain"):
                row["ratio"] = row["caffeio"] / row["plain"]
            rate = bench.found.get("limits", {}).get(f"{mode_name.split()[0]} TFLOP/s")
            if rate and name == "resnet50":
                row["limit"] = rate * 1e12 / RESNET50_FLOP
            rows.append(row)
            bench.save()
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                            for k, v in row.items()), flush=True)  # fmt: skip
    return rows


def _rate(bench: Bench, who: str, make: Callable[[], Any], batch: int, rounds: int) -> Row:
    """images/s and peak memory; an error (out of memory, say) takes their place."""
    try:
        if bench.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        iteration = make()
        found: Row = {who: batch / bench.seconds(iteration, rounds)}
        if bench.cuda:
            found[f"{who} GiB"] = torch.cuda.max_memory_allocated() / 2**30
        return found
    except Exception as error:  # noqa: BLE001
        return {who: None, f"{who} error": f"{type(error).__name__}: {error}"[:200]}


# --- a TEST forward


def infer(bench: Bench) -> Row:
    """images/s of a TEST forward and how far the prepared form's scores are from the layers'."""
    import nets

    from caffeio.net import load_net

    name, batch = ("lenet", 4) if bench.quick else ("resnet50", 64)
    out: Row = {}
    if bench.left < RESERVED["infer"] and not bench.quick:
        return {"error": "no time left"}
    images, _ = inputs(bench, (batch, *nets.SIZES[name]), 10)
    made = [load_net(nets.prototxt(name, batch), seed=1, prepare=p) for p in (True, False)]
    scores = []
    with torch.inference_mode():
        for title, net in zip(("prepared", "as written"), made, strict=True):
            net.to(bench.device)
            net.keep_blobs = False
            scores.append(net({"data": images})[net.outputs[0]])
            seconds = bench.seconds(partial(net, {"data": images}), 3 if bench.quick else 20)
            out[f"{title}, images/s"] = batch / seconds
        plain: Any = nets.plain(name).eval().to(bench.device).to(memory_format=torch.channels_last)
        seconds = bench.seconds(lambda: plain(images), 3 if bench.quick else 20)
        out["plain PyTorch, images/s"] = batch / seconds
    inference = made[0]._inference
    out["ran prepared"] = str(inference is not None and inference._prepared is not None)
    out["prepared and as written apart"] = f"{off_by(scores[0], scores[1].cpu().numpy()):.2g}"
    return out


# --- with data


SOLVER = """
net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.00005
max_iter: 1000000 display: 0 snapshot_prefix: "snap" test_iter: {tests} test_interval: 1000000
test_initialization: false type: "SGD"
"""
DATA = """
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ {transform} mean_value: 104 mean_value: 117 mean_value: 123 }}
  data_param {{ source: "lmdb" backend: LMDB batch_size: {batch} }} }}
"""


def write_recipe(bench: Bench, batch: int) -> None:
    """solver.prototxt, net.prototxt and lmdb in the working folder."""
    import nets
    import peers

    side = 28 if bench.quick else 224
    name = "lenet" if bench.quick else "resnet50"
    peers.make_lmdb(Path("lmdb"), 64 if bench.quick else 8192, nets.classes(name))
    text = nets.prototxt(name, batch, train=True)
    body = "\n".join(line for line in text.splitlines() if 'type: "Input"' not in line)
    data = "".join(
        DATA.format(phase=phase, batch=batch, transform=f"crop_size: {side} {mirror}")
        for phase, mirror in (("TRAIN", "mirror: true"), ("TEST", ""))
    )
    Path("net.prototxt").write_text(data + body)
    Path("solver.prototxt").write_text(SOLVER.format(tests=2 if bench.quick else 8))


def loader(bench: Bench) -> Row:
    """The loader alone on all cores; then a training in bfloat16 that it feeds."""
    from caffeio import Trainer

    batch, out = (8 if bench.quick else 256), {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        write_recipe(bench, batch)
        precision = "bf16" if bench.cuda else "fp32"
        with Trainer("solver.prototxt", device=str(bench.device), precision=precision) as trainer:
            source = next(iter(trainer.net.sources.values()))
            rounds = 3 if bench.quick else 12
            for _ in range(3):
                source.next()
            start = time.perf_counter()
            for _ in range(rounds):
                source.next()
            bench.sync()
            out["loader images/s"] = rounds * batch / (time.perf_counter() - start)
            trainer.step(3)
            bench.sync()
            start = time.perf_counter()
            trainer.step(rounds)
            bench.sync()
            out["training images/s"] = rounds * batch / (time.perf_counter() - start)
    return out


def train(bench: Bench) -> Row:
    """One rank of NCCL (gloo without a GPU), peak memory, snapshots of both kinds, a test."""
    from caffeio import Trainer
    from caffeio.training.distributed import World

    batch, out = (8 if bench.quick else 128), {}
    given = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": "29521"}  # fmt: skip
    os.environ.update(given)
    backend = "nccl" if bench.cuda else "gloo"
    torch.distributed.init_process_group(backend, rank=0, world_size=1)
    data = torch.ones(1 << 20, device=bench.device)
    torch.distributed.all_reduce(data)
    out[f"{backend} all-reduce of 4 MB, us"] = 1e6 * bench.seconds(
        lambda: torch.distributed.all_reduce(data), 10
    )
    torch.distributed.destroy_process_group()
    for key in given:
        del os.environ[key]
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        write_recipe(bench, batch)
        for name, background in (("at once", False), ("in the background", True)):
            if bench.cuda:
                torch.cuda.reset_peak_memory_stats()
            with Trainer("solver.prototxt", device=str(bench.device), world=World.init(
                         str(bench.device)), async_snapshots=background) as trainer:  # fmt: skip
                trainer.step(2)
                bench.sync()
                start = time.perf_counter()
                trainer.snapshot()
                bench.sync()
                out[f"snapshot {name}, ms"] = 1000 * (time.perf_counter() - start)
                trainer.snapshots.settle()
                out[f"snapshot {name}, file whole, ms"] = 1000 * (time.perf_counter() - start)
                start = time.perf_counter()
                trainer.test_all()
                bench.sync()
                batches = trainer.param.test_iter[0]
                out["test images/s"] = batches * batch / (time.perf_counter() - start)
                if bench.cuda:
                    out["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return out


# --- the table


def table(found: Row) -> str:
    """All of it as text."""
    lines = ["  ".join(f"{k}: {v}" for k, v in found["machine"].items())]
    layers = found.get("parity", {}).get("layers", {})
    if layers:
        lines.append(f"parity of {sum(r['cases'] for r in layers.values())} layer cases (worst of "
                     "forward, backward), all above 1e-5:")  # fmt: skip
        for kind, row in layers.items():
            if max(row["forward"], row["backward"]) > 1e-5:
                lines.append(f"  {kind:24} {row['forward']:.2g}  {row['backward']:.2g}")
        lines += [f"  training {n:20} losses {r['losses']:.2g}, weights {r['weights']:.2g}"
                  for n, r in found["parity"]["trainings"].items() if r]  # fmt: skip
        if nets := found["parity"]["random nets"]:
            lines.append(f"  {nets['nets']} random nets: worst {nets['worst']:.2g}, "
                         f"{nets['above 1e-4']} above 1e-4")  # fmt: skip
        if left_out := found["parity"].get("left out"):
            lines.append(f"  {left_out} cases left out for want of time")
    for name in ("limits", "infer", "loader", "train"):
        for key, value in found.get(name, {}).items():
            lines.append(f"{name:8} {key:36} {value:,.1f}" if isinstance(value, float)
                         else f"{name:8} {key:36} {value}")  # fmt: skip
    rows = found.get("step", [])
    if isinstance(rows, list) and rows:
        lines.append("mode            batch   caffeio     plain   ratio   limit   GiB (plain)")
        for r in rows:
            numbers = [f"{r[k]:9,.0f}" if r.get(k) else "        -" for k in ("caffeio", "plain")]
            ratio = f"{r['ratio']:5.2f}" if "ratio" in r else "    -"
            limit = f"{r['limit']:7,.0f}" if "limit" in r else "      -"
            memory = f"{r.get('caffeio GiB', 0):5.1f} ({r.get('plain GiB', 0):.1f})"
            lines.append(f"{r['mode']:14} {r['batch']:6} {numbers[0]} {numbers[1]}   {ratio} "
                         f"{limit} {memory}")  # fmt: skip
    for name, part in found.items():
        errors = part.get("errors", {}) if isinstance(part, dict) else {}
        lines += [f"ERROR in {name}, {key}: {text}" for key, text in errors.items()]
        if isinstance(part, dict) and "error" in part:
            lines.append(f"ERROR in {name}: {part['error']}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> Row:
    """Run the parts, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--quick", action="store_true", help="small nets, few rounds")
    parser.add_argument("--seconds", type=float, default=450.0, help="when to stop measuring")
    parser.add_argument("--json", help="write what was found here")
    args = parser.parse_args(arguments)
    bench = Bench(args)
    guard = threading.Timer(bench.limit + GRACE, bench.give_up)
    guard.daemon = True
    guard.start()
    for name in args.only.split(","):
        began = time.monotonic()
        try:
            if bench.left < 0:
                raise TimeoutError("no time left")
            bench.found[name] = globals()[name](bench)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            part = bench.found.get(name)
            kept = part if isinstance(part, dict) else {}
            bench.found[name] = {**kept, "error": f"{type(error).__name__}: {error}"[:300]}
        print(f"[{name}: {time.monotonic() - began:.0f} s]", flush=True)
        bench.save()
    guard.cancel()
    print(table(bench.found))
    return bench.found


if __name__ == "__main__":
    main()
