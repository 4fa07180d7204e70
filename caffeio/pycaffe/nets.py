"""caffe.Net: a live net behind pycaffe's interface. Source: python/caffe/pycaffe.py, _caffe.cpp."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caffeio.data import Options
from caffeio.errors import CaffeIOError
from caffeio.net.recipe import NetRecipe
from caffeio.net.step import AUTOMATIC
from caffeio.proto.files import read_net
from caffeio.proto.weights.hdf5 import write_caffemodel_h5
from caffeio.proto.weights.load import load_weights, write_caffemodel
from caffeio.pycaffe.blob import Blob, BlobVec
from caffeio.pycaffe.layer_objects import layer_object
from caffeio.pycaffe.live_net import CaffeError, LiveNet
from caffeio.pycaffe.state import compute_device, glog, state
from caffeio.pycaffe.worker_share import own_batches, own_records
from caffeio.training.net_lines import log_filtering, log_net, log_upgrade

Array = NDArray[np.float32]
PHASES = ("TRAIN", "TEST")


class Net:
    """A net that scripts build, feed, run and change.

    Net(network_file, phase, level=0, stages=None, weights=None), or the old form
    Net(network_file, weights, phase). Raises RuntimeError where Caffe's process would end.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        file, phase, level, stages, weights = _arguments(args, options)
        _check_file(file)
        if weights is not None:
            _check_file(weights)
        live = _build_net(file, phase, level, stages)
        self._attach(live)
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def _of(cls, live: LiveNet) -> Net:
        """The interface of a net that a solver has built."""
        net = cls.__new__(cls)
        net._attach(live)
        return net

    def _attach(self, live: LiveNet) -> None:
        self._live = live
        self._cache: dict[str, Any] = {}

    # -- what there is -----------------------------------------------------------------------

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def _blob_names(self) -> list[str]:
        return [AUTOMATIC if n.startswith(AUTOMATIC) else n for n in self._live.live]

    @property
    def _blobs(self) -> list[Blob]:
        return list(self._live.live.values())

    @property
    def _layer_names(self) -> list[str]:
        return self._live.layer_names

    @property
    def _blob_loss_weights(self) -> list[float]:
        return [self._live.loss_weight_of(name) for name in self._live.live]

    @property
    def layers(self) -> list[Any]:
        """The layers; those of type Python are the script's own objects."""
        made: list[Any] = self._cached("layers", lambda: [layer_object(r) for r in self._runners])
        return made

    @property
    def _runners(self) -> list[Any]:
        return self._live.runners

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """All blobs by name, in the order in which they were made."""
        made: OrderedDict[str, Blob] = self._cached(
            "blobs", lambda: OrderedDict(zip(self._blob_names, self._blobs, strict=True))
        )
        return made

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The loss weights of all blobs."""
        made: OrderedDict[str, float] = self._cached(
            "blob_loss_weights",
            lambda: OrderedDict(zip(self._blob_names, self._blob_loss_weights, strict=True)),
        )
        return made

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        """The layers by name."""
        made: OrderedDict[str, Any] = self._cached(
            "layer_dict", lambda: OrderedDict(zip(self._layer_names, self.layers, strict=True))
        )
        return made

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """The learnable blobs by layer name."""
        made: OrderedDict[str, BlobVec] = self._cached(
            "params",
            lambda: OrderedDict(
                (name, layer.blobs)
                for name, layer in zip(self._layer_names, self.layers, strict=True)
                if len(layer.blobs) > 0
            ),
        )
        return made

    @property
    def inputs(self) -> list[str]:
        """Names of the tops of Input layers."""
        made: list[str] = self._cached("inputs", lambda: self._live.inputs)
        return made

    @property
    def outputs(self) -> list[str]:
        """Names of the blobs that no layer reads."""
        made: list[str] = self._cached("outputs", lambda: [
            AUTOMATIC if n.startswith(AUTOMATIC) else n for n in self._live.outputs
        ])  # fmt: skip
        return made

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Names of the tops by layer."""
        made: OrderedDict[str, list[str]] = self._cached(
            "top_names", lambda: self._ends(lambda step: step.tops)
        )
        return made

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Names of the bottoms by layer."""
        made: OrderedDict[str, list[str]] = self._cached(
            "bottom_names", lambda: self._ends(lambda step: step.bottoms)
        )
        return made

    def _ends(self, names: Callable[[Any], Sequence[str]]) -> OrderedDict[str, list[str]]:
        return OrderedDict(
            (step.node.name, [AUTOMATIC if n.startswith(AUTOMATIC) else n for n in names(step)])
            for step in self._live.steps
        )

    def _ids(self, names: Sequence[str]) -> list[int]:
        order = list(self._live.live)
        return [order.index(name) for name in names]

    @property
    def _inputs(self) -> list[int]:
        return self._ids(self._live.inputs)

    @property
    def _outputs(self) -> list[int]:
        return self._ids(self._live.outputs)

    def _top_ids(self, layer: int) -> list[int]:
        return self._ids(self._live.steps[layer].tops)

    def _bottom_ids(self, layer: int) -> list[int]:
        return self._ids(self._live.steps[layer].bottoms)

    # -- running -----------------------------------------------------------------------------

    def _forward(self, start: int, end: int) -> float:
        """Run layers `start` to `end`, both included; returns the loss."""
        return float(self._live.run_forward(start, end))

    def _backward(self, start: int, end: int) -> None:
        """Run layers `start` to `end` back, both included."""
        self._live.run_backward(start, end)

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: Any,
    ) -> dict[str, Array]:
        """Run the layers from `start` to `end` (names, both included); all by default.

        `inputs` are copied into the input blobs first: all of them, or none. Returns the arrays of
        the outputs (of `end`'s tops, if it is given) and of `blobs`: views that the next forward
        changes. Raises ValueError for an unknown layer.
        """
        first = self._layer_names.index(start) if start is not None else 0
        last = len(self._layer_names) - 1
        wanted = list(self.outputs)
        if end is not None:
            last = self._layer_names.index(end)
            wanted = list(self.top_names[end])
        if inputs:
            if set(inputs) != set(self.inputs):
                raise Exception("Input blob arguments do not match net inputs.")  # noqa: TRY002 - pycaffe's own
            for name, value in inputs.items():
                _check_batch(value, self.blobs[name], "Input")
                self.blobs[name].data[...] = value
        self._forward(first, last)
        return {name: self.blobs[name].data for name in [*wanted, *(blobs or [])]}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **top_diffs: Any,
    ) -> dict[str, Array]:
        """Run the layers back from `start` to `end` (names, both included); all by default.

        It goes on from the diffs that lie in the blobs; `top_diffs` are copied into those of the
        outputs first: all of them, or none. Returns the diffs of the inputs (of `end`'s bottoms,
        if it is given) and of the blobs `diffs`, as views. The diffs of params add up.
        """
        first = self._layer_names.index(start) if start is not None else len(self.layers) - 1
        last = 0
        wanted = list(self.inputs)
        if end is not None:
            last = self._layer_names.index(end)
            wanted = list(self.bottom_names[end])
        if top_diffs:
            if set(top_diffs) != set(self.outputs):
                raise Exception("Top diff arguments do not match net outputs.")  # noqa: TRY002 - pycaffe's own
            for name, value in top_diffs.items():
                _check_batch(value, self.blobs[name], "Diff")
                self.blobs[name].diff[...] = value
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in [*wanted, *(diffs or [])]}

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, Array]:
        """Run any number of rows, batch by batch; returns copies of all rows of the outputs."""
        found: dict[str, list[Array]] = {name: [] for name in {*self.outputs, *(blobs or [])}}
        for batch in self._batch(inputs):
            for name, value in self.forward(blobs, None, None, **batch).items():
                found[name].extend(value.copy())
        return _rows(found, len(next(iter(inputs.values()))))

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **given: Any
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run any number of rows forward and back; returns copies of outputs and of diffs.

        `given` holds the inputs and the diffs of the outputs, by name.
        """
        tops = {name: value for name, value in given.items() if name in self.outputs}
        inputs = {name: value for name, value in given.items() if name in self.inputs}
        found: dict[str, list[Array]] = {n: [] for n in {*self.outputs, *(blobs or [])}}
        grads: dict[str, list[Array]] = {n: [] for n in {*self.inputs, *(diffs or [])}}
        batches = zip_longest(self._batch(inputs), self._batch(tops))
        for batch, top in batches:
            for name, value in self.forward(blobs, None, None, **(batch or {})).items():
                found[name].extend(value.copy())
            for name, value in self.backward(diffs, None, None, **(top or {})).items():
                grads[name].extend(value.copy())
        rows = len(next(iter(given.values())))
        return _rows(found, rows), _rows(grads, rows)

    def _batch(self, arrays: dict[str, Any]) -> Iterator[dict[str, Array]]:
        """Parts of the arrays as large as a batch; the last is filled up with zeros."""
        if not arrays:
            return
        rows = len(next(iter(arrays.values())))
        size = next(iter(self.blobs.values())).num
        whole = rows // size * size
        for at in range(0, whole, size):
            yield {name: np.asarray(v)[at : at + size] for name, v in arrays.items()}
        if whole < rows:
            yield {
                name: np.concatenate([
                    np.asarray(v)[whole:], np.zeros((whole + size - rows, *np.shape(v)[1:]))
                ]) for name, v in arrays.items()
            }  # fmt: skip

    def reshape(self) -> None:
        """Let all layers shape their tops by what the input blobs are now."""
        self._live.reshape()

    def clear_param_diffs(self) -> None:
        """Set the diffs of all params to zeros."""
        self._live.clear_param_diffs()

    def set_input_arrays(self, data: Array, labels: Array) -> None:
        """Let a MemoryData layer, which must be the first, read from these arrays (no copy).

        float32 and C-contiguous: data (N, C, H, W), labels (N) or (N, 1, 1, 1); N must be a
        multiple of the batch size. Raises RuntimeError.
        """
        from caffeio.data.sources.memory_data import MemorySource

        runner = self._runners[0]
        source = self._live.sources.get(runner.step.node.key)
        if not isinstance(source, MemorySource):
            title = "set_input_arrays may only be called if the first layer is a MemoryDataLayer"
            raise RuntimeError(title)  # noqa: TRY004 - pycaffe's own
        for name, array, axes in (("data", data, (4,)), ("labels", labels, (1, 4))):
            if not (isinstance(array, np.ndarray) and array.dtype == np.float32):
                raise RuntimeError(f"{name} array must be float32")
            if not array.flags.c_contiguous:
                raise RuntimeError(f"{name} array must be C contiguous")
            if array.ndim not in axes:
                raise RuntimeError(f"{name} array must be {axes[-1]}-d")
        try:
            source.reset(torch.from_numpy(data), torch.from_numpy(labels))
        except CaffeIOError as error:
            raise CaffeError(str(error)) from None

    def before_forward(self, hook: Callable[[int], Any]) -> None:
        """Call `hook(i)` before layer i runs."""
        self._live.hooks["before_forward"].append(hook)

    def after_forward(self, hook: Callable[[int], Any]) -> None:
        """Call `hook(i)` after layer i has run."""
        self._live.hooks["after_forward"].append(hook)

    def before_backward(self, hook: Callable[[int], Any]) -> None:
        """Call `hook(i)` before layer i runs back."""
        self._live.hooks["before_backward"].append(hook)

    def after_backward(self, hook: Callable[[int], Any]) -> None:
        """Call `hook(i)` after layer i has run back."""
        self._live.hooks["after_backward"].append(hook)

    # -- weights -----------------------------------------------------------------------------

    def copy_from(self, file: str | os.PathLike[str]) -> None:
        """Copy the weights of a file of any format into the layers of the same name."""
        path = _path(file)
        _check_file(path)
        try:
            ignored = self._live.copy_trained_layers_from(load_weights(path))
        except CaffeIOError as error:
            raise CaffeError(str(error)) from None
        for name in ignored:
            glog.info("net.cpp:744", f"Ignoring source layer {name}")

    def load_hdf5(self, file: str | os.PathLike[str]) -> None:
        """Copy the weights of an .h5 file."""
        self.copy_from(file)

    def share_with(self, other: Net) -> None:
        """Use the memory of `other`'s params for the layers of the same name."""
        self._live.share_live(other._live)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the net and its weights as a .caffemodel; diffs are left out."""
        live = self._live
        try:
            arrays = live.blob_arrays()
            write_caffemodel(_path(file), live.to_proto(), arrays, dialect=live.dialect)
        except CaffeIOError as error:
            raise CaffeError(str(error)) from None

    def save_hdf5(self, file: str | os.PathLike[str]) -> None:
        """Write the weights as an HDF5 file."""
        try:
            write_caffemodel_h5(_path(file), self._live.to_proto(), self._live.owned_arrays())
        except CaffeIOError as error:
            raise CaffeError(str(error)) from None


def _arguments(
    args: Sequence[Any], options: dict[str, Any]
) -> tuple[str, str, int, Sequence[str], str | None]:
    """The arguments of either form of the constructor."""
    given = dict(zip(("network_file", "phase", "level", "stages", "weights"), args, strict=False))
    if len(args) == 3 and isinstance(args[1], (str, bytes, os.PathLike)):
        given = {"network_file": args[0], "weights": args[1], "phase": args[2]}
        _warn_old(*args)
    elif "pretrained_param_file" in options:
        options["weights"] = options.pop("pretrained_param_file")
    if "param_file" in options:
        options["network_file"] = options.pop("param_file")
    unknown = set(options) - {"network_file", "phase", "level", "stages", "weights"}
    given.update(options)
    if unknown or "network_file" not in given or "phase" not in given or len(args) > 5:
        raise TypeError(
            "Net takes (network_file, phase, level=0, stages=None, weights=None), or the old "
            "(network_file, weights, phase)"
        )
    phase = int(given["phase"])
    if phase not in (0, 1):
        raise RuntimeError("Unknown phase.")
    stages = [_path(stage) for stage in given.get("stages") or ()]
    weights = given.get("weights")
    weights = None if weights is None else _path(weights)
    return _path(given["network_file"]), PHASES[phase], given.get("level") or 0, stages, weights


def _warn_old(file: Any, weights: Any, phase: Any) -> None:
    for line in (
        "DEPRECATION WARNING - deprecated use of Python interface",
        'Use this instead (with the named "weights" parameter):',
        f"Net('{_path(file)}', {phase}, weights='{_path(weights)}')",
    ):
        glog.warning("_caffe.cpp:139", line)


def _path(file: Any) -> str:
    return os.fsdecode(file)


def _check_file(file: str) -> None:
    if not os.path.exists(file):
        raise RuntimeError(f"Could not open file {file}")


def _check_batch(value: Any, blob: Blob, title: str) -> None:
    rows = np.shape(value)[0]
    if rows != blob.shape[0]:
        raise Exception(f"{title} is not batch sized")  # noqa: TRY002 - pycaffe's own


def _rows(found: dict[str, list[Array]], rows: int) -> dict[str, Array]:
    return {name: np.asarray(values[:rows]) for name, values in found.items()}


def _build_net(file: str, phase: str, level: int, stages: Sequence[str]) -> LiveNet:
    try:
        recipe = NetRecipe.of_file(
            read_net(file), phase=phase, level=level, stages=stages, title=file, allow_python=True
        )
        log_upgrade(glog, recipe.upgrade_log)
        log_filtering(glog, recipe.message, recipe.state)
        recipe = own_batches(recipe)
        data = own_records(recipe, Options())
        net = recipe.build(rng=state.rng, data=data, net_class=LiveNet)
    except CaffeIOError as error:
        raise CaffeError(str(error)) from None
    log_net(glog, net, recipe)
    assert isinstance(net, LiveNet)
    net.dialect = recipe.dialect
    return net


__all__ = ["Net", "compute_device"]
