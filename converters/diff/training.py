"""What a solver does to a data set and to the disk: images seen, tests, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from caffeio.converters.report.model import share
from caffeio.errors import DataError
from caffeio.layers.registry import batch_message
from caffeio.net.graph import is_included, net_state
from caffeio.net.worker_batch import worker_batch
from caffeio.profiles import Profile
from caffeio.proto.caffe_pb2 import LayerParameter, NetParameter, SolverParameter
from caffeio.proto.io.regular import open_regular


@dataclass(frozen=True)
class Feed:
    """What a data layer reads, how many records are there (None: unknown), how many it takes."""

    layer: str = ""
    phase: str = ""
    source: str = ""
    records: int | None = None
    batch: int | None = None  # at once, as the file says it
    field: str = ""  # that holds the batch size
    place: str = ""  # its net


def feed_of_layer(
    layer: LayerParameter, phase: str, search: Sequence[str] = (), place: str = ""
) -> Feed | None:
    """What a layer reads in `phase`, None if it is no data layer with a batch size."""
    name = batch_message(layer.type)
    if not name or not layer.HasField(name):
        return None
    param = getattr(layer, name)
    source, batch = getattr(param, "source", ""), int(param.batch_size) or None
    return Feed(layer.name, phase, source, count_entries(source, search), batch, name, place)


def feed_of(net: NetParameter, phase: str, search: Sequence[str] = (), place: str = "") -> Feed:
    """The first data layer of `net`, which messages call `place`, in `phase`."""
    state = net_state(net, phase)
    for layer in net.layer:
        if batch_message(layer.type) and is_included(layer, state):
            feed = feed_of_layer(layer, phase, search, place)
            if feed is not None:
                return feed
    return Feed()


def count_entries(source: str, search: Sequence[str] = ()) -> int | None:
    """Records in an LMDB, or lines in a list of images; None if it is not here."""
    for folder in ("", *search):
        path = Path(folder, source)
        if not source or not path.exists():
            continue
        if (path / "data.mdb").is_file():
            from caffeio.data.db.lmdb import count_records

            try:
                return count_records(str(path))
            except DataError:
                return None
        if path.is_file() and path.suffix in (".txt", ".list", ".lst"):
            with open_regular(path) as lines:
                return sum(1 for line in lines if line.strip())
    return None


def snapshot_iterations(solver: SolverParameter) -> list[int]:
    """Iterations after which the weights are written, the last one included."""
    every, stop = solver.snapshot, solver.max_iter
    out = list(range(every, stop + 1, every)) if every > 0 else []
    if solver.snapshot_after_train and stop > 0 and (not out or out[-1] != stop):
        out.append(stop)
    return out


def test_iterations(solver: SolverParameter, profile: Profile) -> list[int]:
    """Iterations at which the test nets run (solver.cpp, Step and Solve)."""
    if not solver.test_iter or solver.test_interval <= 0:
        return []
    every = solver.test_interval
    first = 0 if solver.test_initialization else every
    return list(range(first, solver.max_iter + 1, every))


def spans(iterations: Sequence[int]) -> str:
    """`every 500 from 500 to 10,000 (20)`, or the few numbers themselves."""
    if not iterations:
        return "never"
    if len(iterations) <= 3:
        return ", ".join(f"{i:,}" for i in iterations)
    steps = {b - a for a, b in pairwise(iterations)}
    if len(steps) == 1:
        step = steps.pop()
        return (
            f"every {step:,} from {iterations[0]:,} to {iterations[-1]:,} ({len(iterations):,} x)"
        )
    body, last = iterations[:-1], iterations[-1]
    return f"{spans(body)}, and {last:,}"


@dataclass(frozen=True)
class SeenImages:
    """How much data one run uses."""

    batch: int | None  # of one worker
    workers: int
    iter_size: int
    iterations: int
    dataset: int | None

    @property
    def per_update(self) -> int | None:
        """Images in one update."""
        return None if self.batch is None else self.batch * self.workers * self.iter_size

    @property
    def images(self) -> int | None:
        """Images in the whole run."""
        return None if self.per_update is None else self.per_update * self.iterations

    @property
    def epochs(self) -> float | None:
        """Passes over the data set."""
        if self.images is None or not self.dataset:
            return None
        return self.images / self.dataset

    def summary_rows(self) -> dict[str, str]:
        """Rows of a table."""
        if self.batch is None:
            return {"images seen": "unknown (no batch size found)"}
        parts = [f"{self.batch:,} a batch"]
        if self.iter_size != 1:
            parts.append(f"iter_size {self.iter_size}")
        if self.workers != 1:
            parts.append(f"{self.workers} workers")
        rows = {"images in an update": f"{self.per_update:,}"}
        if len(parts) > 1:
            rows["images in an update"] += f" ({' x '.join(parts)})"
        rows["images seen"] = f"{self.images:,}"
        if self.epochs is not None:
            rows["epochs"] = f"{self.epochs:.4g} of {self.dataset:,} images"
        return rows

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "batch": self.batch,
            "workers": self.workers,
            "iter_size": self.iter_size,
            "images_per_update": self.per_update,
            "images": self.images,
            "dataset": self.dataset,
            "epochs": self.epochs,
        }


def images_seen(
    solver: SolverParameter, feed: Feed, profile: Profile, workers: int, dataset: int | None
) -> SeenImages:
    """The data that `workers` use in a whole run. Raises NetError: they cannot share the batch."""
    batch = feed.batch
    if batch is not None:
        batch = worker_batch(
            batch, workers, profile, field=feed.field, layer=feed.layer, where=feed.place or None
        )
    return SeenImages(batch, workers, max(solver.iter_size, 1), solver.max_iter, dataset)


def coverage(solver: SolverParameter, feed: Feed) -> str:
    """How much of the test set one test sees."""
    if not solver.test_iter or feed.batch is None:
        return ""
    images = solver.test_iter[0] * feed.batch
    if feed.records:
        return f"{images:,} images, {share(images, feed.records)} of {feed.records:,}"
    return f"{images:,} images"
