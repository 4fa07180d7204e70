"""Weights: time to load and to write, beside safetensors and protobuf, in the same run.

    python benchmarks/bench_weights.py [--folder DIR] [--rounds N]

Makes a 102 MB file (the blobs of ResNet-50) and a 553 MB file (VGG-16) of random numbers, then
times each way in turn, round after round, and prints medians, the range, and ratios of medians.
Writing makes a new file each time, as snapshots do; the net message is encoded once, before.
Loading is timed with the file in the page cache; nothing touches the numbers, unless said.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import google.protobuf
import numpy as np
import safetensors.torch
import torch

from caffeio.converters import safetensors as our_safetensors
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.load import load_weights, write_caffemodel

Layers = list[tuple[str, str, list[tuple[int, ...]]]]


def resnet50() -> Layers:
    """Name, type and blob shapes of each layer of ResNet-50, as Caffe's common prototxt has it."""
    out: Layers = [("data", "Data", []), ("label_data_1_split", "Split", [])]

    def unit(name: str, cout: int, cin: int, kernel: int, relu: bool) -> None:
        bias = [(cout,)] if name == "conv1" else []
        out.append((name, "Convolution", [(cout, cin, kernel, kernel), *bias]))
        out.append((f"bn_{name}", "BatchNorm", [(cout,), (cout,), (1,)]))
        out.append((f"scale_{name}", "Scale", [(cout,), (cout,)]))
        if relu:
            out.append((f"{name}_relu", "ReLU", []))

    unit("conv1", 64, 3, 7, True)
    out.append(("pool1", "Pooling", []))
    cin = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 2):
        for block in range(blocks):
            name = f"res{stage}{'abcdef'[block]}"
            out.append((f"{name}_split", "Split", []))
            if block == 0:
                unit(f"{name}_branch1", 4 * width, cin, 1, False)
            unit(f"{name}_branch2a", width, cin, 1, True)
            unit(f"{name}_branch2b", width, width, 3, True)
            unit(f"{name}_branch2c", 4 * width, width, 1, False)
            out += [(name, "Eltwise", []), (f"{name}_relu", "ReLU", [])]
            cin = 4 * width
    out += [("pool5", "Pooling", []), ("fc1000", "InnerProduct", [(1000, 2048), (1000,)])]
    return [*out, ("loss", "SoftmaxWithLoss", []), ("top1", "Accuracy", [])]


def vgg16() -> Layers:
    """The same of VGG-16."""
    out: Layers = [("data", "Data", [])]
    cin = 3
    for stage, (count, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(1, count + 1):
            out.append((f"conv{stage}_{i}", "Convolution", [(width, cin, 3, 3), (width,)]))
            out.append((f"relu{stage}_{i}", "ReLU", []))
            cin = width
        out.append((f"pool{stage}", "Pooling", []))
    for name, rows, columns in (("fc6", 4096, 25088), ("fc7", 4096, 4096), ("fc8", 1000, 4096)):
        out.append((name, "InnerProduct", [(rows, columns), (rows,)]))
    return [*out, ("prob", "Softmax", [])]


def make(layers: Layers) -> tuple[pb.NetParameter, list[list[np.ndarray]]]:
    """The net message without numbers, and random numbers for it."""
    rng = np.random.default_rng(0)
    net = pb.NetParameter(name="bench")
    previous = "data"
    for name, kind, shapes in layers:
        layer = net.layer.add(name=name, type=kind, bottom=[previous], top=[name], phase=pb.TRAIN)
        for _ in shapes:
            layer.param.add(lr_mult=1, decay_mult=1)
        if kind == "Convolution":
            layer.convolution_param.num_output = shapes[0][0]
            layer.convolution_param.kernel_size.append(shapes[0][2])
        previous = name
    blobs = [[rng.random(s, dtype=np.float32) for s in shapes] for _, _, shapes in layers]
    return net, blobs


def protobuf_load(path: Path) -> list[np.ndarray]:
    """The usual way: parse everything, then make arrays."""
    net = pb.NetParameter.FromString(path.read_bytes())
    return [
        np.array(blob.data, np.float32).reshape(blob.shape.dim)
        for layer in net.layer
        for blob in layer.blobs
    ]


def protobuf_write(path: Path, net: pb.NetParameter, blobs: list[list[np.ndarray]]) -> None:
    """The usual way: copy everything into a message, then serialize it."""
    whole = pb.NetParameter()
    whole.CopyFrom(net)
    for layer, arrays in zip(whole.layer, blobs, strict=True):
        for array in arrays:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel().tolist())
    path.write_bytes(whole.SerializeToString())


def touch(arrays: list[np.ndarray] | list[torch.Tensor], into: list[np.ndarray]) -> None:
    """Copy into arrays that are there already, as a net does with its parameters."""
    for source, target in zip(arrays, into, strict=True):
        np.copyto(target, np.asarray(source))


def measure(
    ways: dict[str, Callable[[], object]], rounds: int, made: tuple[Path, ...] = ()
) -> dict[str, float]:
    """Time each way in turn, `rounds` times (slow ones less); print and return medians in ms.

    The files that they have `made` are removed before each.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            spent = times[name]
            if sum(spent) > 15 and len(spent) >= 2:
                continue
            for path in made:
                path.unlink(missing_ok=True)
            begin = time.perf_counter()
            result = way()
            spent.append(time.perf_counter() - begin)
            del result
    medians = {name: 1e3 * statistics.median(t) for name, t in times.items()}
    for name, value in medians.items():
        low, high = 1e3 * min(times[name]), 1e3 * max(times[name])
        print(f"  {name:<44}{value:>10.2f} ms  [{low:.2f} - {high:.2f}]  n={len(times[name])}")
    return medians


def ratio(text: str, a: float, b: float, wanted: str) -> None:
    """Print a ratio and what the project asks for."""
    print(f"  {text:<60}{a / b:>8.2f}  (wanted: {wanted})")


def bench(title: str, layers: Layers, folder: Path, rounds: int) -> None:
    """All timings for one net."""
    net, blobs = make(layers)
    flat = [array for arrays in blobs for array in arrays]
    size = sum(array.nbytes for array in flat)
    print(f"\n{title}: {size / 1e6:.0f} MB, {len(flat)} blobs in {len(layers)} layers")
    model, tensors = folder / "x.caffemodel", folder / "x.safetensors"
    named = {f"{i}": torch.from_numpy(array) for i, array in enumerate(flat)}
    out, out_st, out_pb = folder / "o.caffemodel", folder / "o.safetensors", folder / "o.pb"

    def durable_safetensors() -> None:
        safetensors.torch.save_file(named, out_st)
        descriptor = os.open(out_st, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    write_caffemodel(out, net, blobs)
    print(" write")
    w = measure(
        {
            "caffeio write_caffemodel(sync=False)": lambda: write_caffemodel(
                out, net, blobs, sync=False
            ),
            "safetensors save_file": lambda: safetensors.torch.save_file(named, out_st),
            "caffeio write_caffemodel (fsync, the default)": lambda: write_caffemodel(
                out, net, blobs
            ),
            "safetensors save_file + fsync": durable_safetensors,
            "protobuf extend + SerializeToString": lambda: protobuf_write(out_pb, net, blobs),
        },
        rounds,
        (out, out_st, out_pb),
    )
    ours, st, ours_sync, st_sync, proto = w.values()
    ratio("ours / safetensors, neither waits for the disk", ours, st, "at most 1.2")
    ratio("ours / safetensors, both wait for the disk", ours_sync, st_sync, "at most 1.2")
    ratio("protobuf / ours (fsync included)", proto, ours_sync, "at least 5")
    out_pb.unlink(missing_ok=True)
    write_caffemodel(model, net, blobs)
    if size < 200e6:
        protobuf_write(out_pb, net, blobs)
        assert model.read_bytes() == out_pb.read_bytes(), "not what protobuf writes"
        out_pb.unlink()
    safetensors.torch.save_file(named, tensors)
    parameters = [np.zeros_like(array) for array in flat]

    def all_of(path: Path) -> list[np.ndarray]:
        weights = load_weights(path)
        return [a for i in range(len(weights.layers)) for a in weights.arrays(i)]

    print(" load")
    r = measure(
        {
            "caffeio load_weights, every array": lambda: all_of(model),
            "safetensors load_file (torch)": lambda: safetensors.torch.load_file(tensors),
            "caffeio safetensors.read, every array": lambda: list(
                our_safetensors.read(tensors).values()
            ),
            "caffeio, copied into existing arrays": lambda: touch(all_of(model), parameters),
            "safetensors, copied into existing arrays": lambda: touch(
                list(safetensors.torch.load_file(tensors).values()), parameters_of(tensors)
            ),
            "protobuf parse + numpy": lambda: protobuf_load(model),
        },
        rounds,
    )
    ours, st, _, ours_copy, st_copy, proto = r.values()
    ratio("ours / safetensors", ours, st, "at most 1")
    ratio("ours / safetensors, copied into existing arrays", ours_copy, st_copy, "-")
    ratio("protobuf / ours", proto, ours, "at least 30")
    model.unlink()
    tensors.unlink()


_PARAMETERS: dict[Path, list[np.ndarray]] = {}


def parameters_of(path: Path) -> list[np.ndarray]:
    """Arrays of the same shapes and order as safetensors returns."""
    if path not in _PARAMETERS:
        found = safetensors.torch.load_file(path).values()
        _PARAMETERS[path] = [np.zeros(t.shape, np.float32) for t in found]
    return _PARAMETERS[path]


def main() -> None:
    """Run both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where to put the files (default: the system's)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    versions = f"protobuf {google.protobuf.__version__}, safetensors {safetensors.__version__}"
    print(f"torch {torch.__version__}, numpy {np.__version__}, {versions}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench("ResNet-50", resnet50(), Path(folder), options.rounds)
        _PARAMETERS.clear()
        bench("VGG-16", vgg16(), Path(folder), options.rounds)


if __name__ == "__main__":
    main()
