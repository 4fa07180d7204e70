"""The nets of golden/solvers written by hand in torch: gradients that owe nothing to caffeio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import lmdb
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.load import load_weights
from tests.paths import GOLDEN

SOLVERS = GOLDEN / "solvers"


@dataclass
class Blob:
    """What a solver needs to know of a blob."""

    layer: str
    index: int
    tensor: Tensor
    lr_mult: float = 1.0
    decay_mult: float = 1.0


@cache
def records() -> tuple[np.ndarray, np.ndarray]:
    """The 200 images, uint8 [200, 3, 12, 12], and labels of golden/solvers/lmdb."""
    images, labels = [], []
    with (
        lmdb.open(str(SOLVERS / "lmdb"), readonly=True, lock=False) as env,
        env.begin() as transaction,
    ):
        for _, value in transaction.cursor():
            datum = pb.Datum.FromString(bytes(value))
            shape = (datum.channels, datum.height, datum.width)
            images.append(np.frombuffer(datum.data, np.uint8).reshape(shape))
            labels.append(datum.label)
    return np.stack(images), np.array(labels)


def batches(size: int, mean: float = 128.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in file order, round and round."""
    images, labels = records()
    at = 0
    while True:
        index = np.arange(at, at + size) % len(labels)
        at += size
        pixels = torch.from_numpy(images[index].astype(np.float32))
        yield (pixels - mean) * 0.00390625, torch.from_numpy(labels[index])


class SmallNet:
    """Parameters by (layer, index), and the loss of a batch."""

    multipliers: ClassVar[dict[tuple[str, int], tuple[float, float]]] = {}
    layers: ClassVar[tuple[tuple[str, int], ...]] = (("conv1", 2), ("ip", 2))
    batch_size, mean = 10, 128.0

    def __init__(self, weights: Path) -> None:
        stored = load_weights(weights)
        self.blobs: list[Blob] = []
        for layer, count in self.layers:
            for i in range(count):
                tensor = torch.tensor(np.array(stored[layer][i]))
                mults = self.multipliers.get((layer, i), (1.0, 1.0))
                self.blobs.append(Blob(layer, i, tensor, *mults))
        for blob in self.blobs:
            blob.tensor.requires_grad_(blob.lr_mult != 0)

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        return next(b.tensor for b in self.blobs if (b.layer, b.index) == key)

    def data(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(self.batch_size, self.mean)

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        x = F.conv2d(x, self["conv1", 0], self["conv1", 1], stride=2)
        x = F.max_pool2d(F.relu(x), 2, 2, ceil_mode=True)
        return F.cross_entropy(x.flatten(1) @ self["ip", 0].T + self["ip", 1], label)


class BatchNormNet(SmallNet):
    layers = (("conv1", 1), ("bn1", 3), ("scale1", 2), ("ip", 2))
    multipliers: ClassVar = {("bn1", i): (0.0, 1.0) for i in range(3)} | {
        ("scale1", 0): (1.0, 0.0),
        ("scale1", 1): (2.0, 0.0),
    }

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        x = F.conv2d(x, self["conv1", 0], stride=2)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        with torch.no_grad():
            for i, value in enumerate((mean, var * (x[:, 0].numel() / (x[:, 0].numel() - 1)))):
                self["bn1", i].mul_(0.9).add_(value)
            self["bn1", 2].mul_(0.9).add_(1)
        x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        x = F.relu(x * self["scale1", 0][:, None, None] + self["scale1", 1][:, None, None])
        x = F.avg_pool2d(x, 3, 2)
        return F.cross_entropy(x.flatten(1) @ self["ip", 0].T + self["ip", 1], label)


class SharedNet(SmallNet):
    layers = (("conv_up", 2), ("ip", 2))
    multipliers: ClassVar = {("conv_up", 1): (2.0, 0.0)}

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        w, b = self["conv_up", 0], self["conv_up", 1]
        halves = [F.conv2d(half, w, b, stride=2) for half in (x[:, :, :6], x[:, :, 6:])]
        x = torch.tanh(torch.cat(halves, 2))
        return F.cross_entropy(x.flatten(1) @ self["ip", 0].T + self["ip", 1], label)


class Autoencoder(SmallNet):
    layers = (("enc", 2), ("dec", 2))
    batch_size, mean = 8, 0.0

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        flat = F.avg_pool2d(x, 3, 3).flatten(1)
        code = torch.sigmoid(flat @ self["enc", 0].T + self["enc", 1])
        decoded = code @ self["dec", 0].T + self["dec", 1]
        n = len(flat)
        bce = F.binary_cross_entropy_with_logits(decoded, flat, reduction="sum") / n
        return bce + 0.25 * ((torch.sigmoid(decoded) - flat) ** 2).sum() / (2 * n)


class FrozenConv(SmallNet):
    multipliers: ClassVar = {
        ("conv1", 0): (0.0, 1.0),
        ("conv1", 1): (2.0, 0.0),
        ("ip", 0): (0.5, 10.0),
        ("ip", 1): (3.0, 0.0),
    }


def small_net(case: str) -> SmallNet:
    """The net of golden/solvers/<case> with its first weights."""
    folder = SOLVERS / case
    kinds = {
        "autoencoder_two_losses": Autoencoder,
        "bn_adam_iter_size2": BatchNormNet,
        "bn_sgd": BatchNormNet,
        "hdf5_resume": BatchNormNet,
        "hdf5_shared": SharedNet,
        "shared_sgd": SharedNet,
        "lr_and_decay_mult": FrozenConv,
    }
    net = kinds.get(case, SmallNet)(folder / "init.caffemodel")
    sizes = {"bn_adam_iter_size2": 5, "iter_size2": 5, "iter_size3_clip": 4}
    sizes |= {"resume_adam_aligned": 20, "hdf5_resume": 20}
    net.batch_size = sizes.get(case, net.batch_size)
    return net
