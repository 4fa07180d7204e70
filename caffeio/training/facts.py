"""What all workers of a training must have in common, as short texts that can be compared."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from importlib import import_module
from itertools import islice
from pathlib import Path

import torch

from caffeio.data.db.lmdb import LmdbDatabase, count_records
from caffeio.errors import CaffeIOError
from caffeio.proto import caffe_pb2 as pb
from caffeio.training.job import Job
from caffeio.training.options import TrainOptions

_RECORDS = 16  # of a database, whose content is compared
_SAMPLE = 1 << 20  # bytes at both ends of a file
_SOLVER = ("base_lr", "lr_policy", "max_iter", "iter_size", "test_interval", "snapshot", "type")


def facts_of(job: Job, options: TrainOptions) -> dict[str, str]:
    """Names of what must be the same, and what it is here: numbers, or digests of content."""
    facts = {name: str(getattr(job.param, name)) for name in _SOLVER}
    solver = pb.SolverParameter()
    solver.CopyFrom(job.param)
    for name in ("device_id", "snapshot_prefix", "net", "train_net", "weights"):
        solver.ClearField(name)
    solver.ClearField("test_net")
    facts["the solver"] = _digest(solver.SerializeToString(deterministic=True))
    facts["the training net"] = _digest(job.train.message.SerializeToString(deterministic=True))
    for i, recipe in enumerate(job.tests):
        message = recipe.message.SerializeToString(deterministic=True)
        facts[f"test net {i}"] = _digest(message)
    facts["the weights"] = _digest(*(_content(job.find_weights(name)) for name in job.weights))
    snapshot = options.snapshot
    facts["the snapshot"] = _digest(_content(os.fspath(snapshot))) if snapshot else "none"
    facts["--precision"] = options.precision
    facts["--gradients"] = options.gradients
    facts["--async-snapshots"] = str(options.async_snapshots)  # when workers wait for the root
    facts["the profile"] = job.profile.name
    facts["the version of caffeio"] = import_module("caffeio").__version__
    facts["the version of PyTorch"] = torch.__version__
    facts["the data"] = _data(job)
    return facts


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:12]


def _content(path: str) -> bytes:
    """A file's size and both of its ends: enough to tell weights of one net apart."""
    try:
        with Path(path).open("rb") as file:
            head, size = file.read(_SAMPLE), file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SAMPLE))
            return b"%d " % size + head + file.read(_SAMPLE)
    except OSError:
        return b""  # whoever opens it says what is wrong


def _data(job: Job) -> str:
    """What the data layers and their transforms read: a digest, and how many records there are."""
    counts, parts = [], []
    for layer in job.train.message.layer:
        for name in _sources(layer):
            path = next((p for f in job.train.search_path if (p := Path(f, name)).exists()), None)
            if path is None:
                parts.append(b"missing")  # whoever opens it says so
            elif path.is_dir():
                count, sample = _records(str(path))
                counts.append(count)
                parts.append(sample)
            else:
                parts.append(_content(str(path)))
    return " ".join([*counts, _digest(*parts)]) if parts else ""


def _sources(layer: pb.LayerParameter) -> list[str]:
    """The files and databases that a layer's parameters name."""
    found = []
    for _, message in layer.ListFields():
        for name in ("source", "mean_file", "label_map_file"):
            if name in getattr(getattr(message, "DESCRIPTOR", None), "fields_by_name", ()):
                found.append(getattr(message, name))
    return [name for name in found if isinstance(name, str) and name and "%" not in name]


def _records(path: str) -> tuple[str, bytes]:
    """How many records an LMDB has, and its first ones."""
    try:
        with closing(LmdbDatabase(path, may_be_empty=True)) as db:
            first = islice(db.records(), _RECORDS)
            return str(count_records(path)), b"".join(bytes(part) for one in first for part in one)
    except CaffeIOError:
        return "?", b""
