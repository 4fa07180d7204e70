"""The base of data sources: DataSource, its SourceContext and Options, and how it reads paths."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from caffeio.boost_random import CaffeRng
from caffeio.data.draws import LayerSeeds, draw_setup, entropy
from caffeio.data.transform.transformer import Transformer
from caffeio.errors import CaffeIOError, DataError, LayerError
from caffeio.layers.base import FOREIGN_FIELD, LayerContext
from caffeio.layers.registry import REGISTRY
from caffeio.layers.sources import SourceLayer
from caffeio.layers.unread_fields import unread_fields
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.regular import read_regular
from caffeio.proto.weights.blobproto import read_blobproto
from caffeio.shape_text import format_shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Options:
    """How a source is read.

    rank, world: which of how many processes reads (sharding as the profile's `data_sharding`).
    shared_seed: a number on which all ranks agree; it keys the random streams of the samples and,
        with several ranks, the shuffle. None: fresh entropy for one process, 0 for several.
    threads: threads that decode and transform; 0 does it all in `next`; None: as many as this
        process has cores, one for small bare pixels.
    device: where the batches are wanted. For CUDA the pixels travel as uint8 through pinned
        memory and are normalised there (the same float32 numbers).
    channels_last: 4-D batches get torch's channels_last memory format.
    exact: CUBIC resizing gives real Caffe's pixels, without Intel IPP in OpenCV: with numba (the
        extra `fast`) as fast as with IPP, otherwise about four times as slow. False: IPP, where
        about 2 % of the pixels differ by 1 (docs/performance.md has figures).
    on_bad_record: "stop" makes a record that cannot be read an error; "skip" takes the record
        behind it in its place, and tells `note` once a record.
    """

    rank: int = 0
    world: int = 1
    shared_seed: int | None = None
    threads: int | None = None
    device: torch.device | None = None
    channels_last: bool = False
    exact: bool = True
    on_bad_record: str = "stop"
    note: Callable[[str], None] | None = None


@dataclass(frozen=True)
class SourceContext:
    """The layer that a source serves: what it says, where it stands."""

    param: pb.LayerParameter
    phase: str = "TRAIN"
    profile: Profile = BVLC
    search_path: tuple[str, ...] = ()
    where: str = ""
    options: Options = field(default_factory=Options)

    def source_layer(self) -> SourceLayer:
        """The layer type's own object: it knows the shapes of the tops.

        Raises DataError for parameters that it refuses, and for fields of forks that nothing reads.
        """
        for path in unread_fields(self.param):
            raise self.error(FOREIGN_FIELD, path)
        cls = REGISTRY[self.param.type]
        context = LayerContext(self.phase, self.profile, self.where, (), tuple(self.param.top))
        layer = cls(self.param, context)
        assert isinstance(layer, SourceLayer)
        try:
            layer.configure()
        except LayerError as error:
            raise DataError(error.message, where=self.where or None) from None
        return layer

    def error(self, message: str, field: str = "") -> DataError:
        """An error that names the layer, the field and the place in the file."""
        place = f"layer {self.param.name!r} (type {self.param.type})"
        place += f", {field}" if field else ""
        return DataError(f"{place}: {message}", where=self.where or None)

    def wrap(self, error: CaffeIOError, field: str = "") -> DataError:
        """The same error with the layer's name and place in front."""
        return self.error(str(error), field)

    def check(self, ok: object, message: str, field: str = "") -> None:
        """Raise `error(message)` unless `ok`."""
        if not ok:
            raise self.error(message, field)

    def find(self, name: str, field: str) -> str:
        """The path of `name`: from the working directory, then from the search path's folders."""
        self.check(name, "names no file", field)
        tried = [name, *(os.path.join(folder, name) for folder in self.search_path)]
        for path in tried:
            if os.path.exists(path):
                return path
        places = dict.fromkeys(os.path.abspath(path) for path in tried)
        raise self.error(f"{name!r} does not exist; looked for {' and '.join(places)}", field)

    def read_bytes(self, path: str, field: str) -> bytes:
        """The bytes of a regular file that `field` names."""
        try:
            return read_regular(path)
        except OSError as error:
            raise self.error(f"{path!r} cannot be read: {error.strerror}", field) from None

    def read_text(self, path: str, field: str) -> str:
        """The text of a regular file that `field` names."""
        return self.read_bytes(path, field).decode("utf-8", "surrogateescape")

    def join(self, root: str, name: str) -> str:
        """root_folder + name as it is, or from the search path where that does not exist."""
        path = root + name
        if not os.path.exists(path):
            for folder in self.search_path:
                if os.path.exists(os.path.join(folder, path)):
                    return os.path.join(folder, path)
        return path

    def read_mean(self) -> NDArray[np.float32] | None:
        """transform_param.mean_file, (C, H, W) float32; None without one."""
        name = self.param.transform_param.mean_file
        if not name:
            return None
        path = self.find(name, "transform_param.mean_file")
        try:
            return read_mean(path)
        except DataError as error:
            raise self.wrap(error, "transform_param.mean_file") from None

    def transformer(self) -> Transformer:
        """The transformer that transform_param describes."""

        def fail(message: str, field: str) -> DataError:
            return self.error(message, f"transform_param.{field}" if field else "transform_param")

        t = self.param.transform_param
        both = t.mean_file and len(t.mean_value)
        mean = None if both else self.read_mean()
        return Transformer(t, self.phase, profile=self.profile, mean=mean, fail=fail)


def read_mean(path: str) -> NDArray[np.float32]:
    """Read a mean image (`*.binaryproto`, num = 1): (C, H, W) float32."""
    values = read_blobproto(path)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 3:
        raise DataError(
            f"mean image {path!r} is {format_shape(values.shape, ' x ')}, not 1 x C x H x W"
        )
    return np.array(values, np.float32)


class DataSource(ABC):
    """Gives the tops of one data layer, batch after batch.

    The tensors of a batch may be reused once the next batch is asked for: copy what must stay.
    Use it as a context manager, or call `close`.
    """

    top_shapes: list[Shape]  # of the first batch; later ones may differ where Caffe lets them
    epoch_size: int | None = None  # records of one pass over all data, if that is known
    on_restart: Callable[[], None] | None = None  # called when a pass over a database has ended

    def __init__(self, layer: SourceContext) -> None:
        self.layer = layer
        o = layer.options
        layer.check(0 <= o.rank < o.world, f"rank {o.rank} is none of {o.world} readers")
        key = o.shared_seed
        if key is None:
            key = entropy() if o.world == 1 else 0
        self.key = key  # of the samples' random streams

    @abstractmethod
    def next(self) -> tuple[Tensor, ...]:
        """The next batch: float32 tensors, one a top, in the order of the tops."""

    def overwritten(self, index: int, values: Tensor) -> None:
        """Take what layers in place left in top `index`; of use where a top is filled only once."""
        del index, values

    def draw_setup(self, rng: CaffeRng) -> None:
        """Take from the main generator what real Caffe takes when it sets this layer up.

        From here on the source repeats the numbers of a real Caffe whose generator was in this
        state. Call it before the first `next`, in the order of the net's layers.
        """
        profile = self.layer.profile
        draws = draw_setup(
            self.layer.param, self.layer.phase, rng, reader_thread=profile.data_reader_thread
        )
        # On a CPU Intel's fork loads in the main thread; BVLC loads in a thread that it has just
        # seeded.
        self.use_seeds(draws, rng if draws.thread is None or profile.data_reader_thread
                       else CaffeRng(draws.thread))  # fmt: skip

    def use_seeds(self, draws: LayerSeeds, thread: CaffeRng) -> None:  # noqa: B027
        """Seed the source's generators; sources without randomness have none.

        `thread` is the generator of the thread that loads.
        """

    def close(self) -> None:  # noqa: B027 - many sources hold nothing
        """Stop threads and close files. Calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        return self.next()


def batch_of(layer: SourceContext, size: int, field: str) -> int:
    """A batch size, which must be positive."""
    layer.check(size > 0, "a positive batch size is required", f"{field}.batch_size")
    return size
