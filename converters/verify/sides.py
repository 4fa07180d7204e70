"""The two models of a comparison: what the user's file names are, and what can be seen in them."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffeio.converters.deploy.deploy_net import DeployOptions
from caffeio.converters.kinds import kind_of
from caffeio.converters.programs import load_program
from caffeio.converters.verify.models import Arrays, NetModel, OnnxModel
from caffeio.converters.verify.reference import predictions, reference_net
from caffeio.converters.weightfiles import FORMATS, read_weights
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net, Trace
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.weights.load import Weights
from caffeio.proto.weights.npz import BROKEN_ARCHIVE

SUFFIXES = {s: name for name, form in FORMATS.items() for s in form.suffixes}


@dataclass
class Seen:
    """What a run has shown: blobs by name as they end up, and tops by (layer, index)."""

    blobs: Arrays = field(default_factory=dict)
    tops: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    trace: Sequence[Trace] = ()


@dataclass
class Files:
    """The files of one side: a net and weights, or one file that is all."""

    net: Path | None = None
    weights: Path | None = None
    whole: Path | None = None  # ONNX, TorchScript, torch.export

    @property
    def paths(self) -> list[Path]:
        """The paths of all files."""
        return [path for path in (self.net, self.weights, self.whole) if path is not None]

    @property
    def label(self) -> str:
        """As the user wrote them."""
        return " + ".join(map(str, self.paths))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in self.paths}


def pair_up(names: Sequence[str]) -> tuple[Files, Files]:
    """The two sides that a list of files means: each a net with weights, or a file of its own.

    A file of weights without a net of its own belongs to the net before it, or else to the net of
    the other side. Raises CaffeIOError if they are not two.
    """
    sides: list[Files] = []
    for name in names:
        path = Path(name)
        kind = _kind(path)
        last = sides[-1] if sides else None
        if kind == "net":
            if (
                last is not None
                and last.net is None
                and last.weights is not None
                and len(sides) == 1
            ):
                last.net = path  # weights first, their net behind
            else:
                sides.append(Files(net=path))
        elif kind == "whole":
            sides.append(Files(whole=path))
        elif last is not None and last.net is not None and last.weights is None:
            last.weights = path
        else:
            sides.append(Files(weights=path))
    if len(sides) != 2:
        raise CaffeIOError(
            f"{len(sides)} models are named, two are wanted: each a net prototxt with its weights, "
            "a caffemodel, an ONNX model or a PyTorch program"
        )
    nets = [side.net for side in sides if side.net is not None]
    for side in sides:
        own = side.weights is not None and SUFFIXES.get(side.weights.suffix, "caffemodel")
        if side.net is None and side.weights is not None and own != "caffemodel":
            if not nets:
                raise CaffeIOError("holds no net: name its prototxt too", where=str(side.weights))
            side.net = nets[0]
    return sides[0], sides[1]


def _kind(path: Path) -> str:
    if not path.exists():
        raise CaffeIOError("there is no such file", where=str(path))
    suffix = path.suffix.lower()
    if suffix in (".onnx", ".pt2") or (suffix in (".pt", ".pth") and is_script(path)):
        return "whole"
    if suffix in SUFFIXES and suffix != ".caffemodel":
        return "weights"
    kind = kind_of(path)
    if kind in ("net", "caffemodel", "caffemodel.h5"):
        return "net" if kind == "net" else "weights"
    raise UnsupportedError(f"a {kind} cannot be run", where=str(path))


def is_script(path: Path) -> bool:
    """Whether a .pt file is a TorchScript program, not only tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except BROKEN_ARCHIVE:
        return False


class BuiltNetSide:
    """A net with weights as `load_net` has it in TEST; losses end in what they measure."""

    def __init__(self, files: Files, options: DeployOptions) -> None:
        self.files = files
        first = files.net or files.weights
        assert first is not None
        self.file: NetFile = read_net(first, dialect=options.dialect)
        self.weights: Weights | None = None
        if files.weights is not None:
            kind = SUFFIXES.get(files.weights.suffix.lower(), "caffemodel")
            self.weights = read_weights(files.weights, kind)
        self.outputs, shapes = predictions(self.file, self.weights, options)
        self.net: Net = reference_net(self.file, self.weights, options, self.outputs, shapes)
        self.inputs = NetModel(self.net).inputs

    def see(self, inputs: Mapping[str, np.ndarray]) -> Seen:
        """Run the net; everything shows."""
        self.net.keep_trace = True
        blobs = NetModel(self.net).run(inputs)
        trace = list(self.net.trace)
        self.net.keep_trace = False
        tops = {
            (t.step.node.name, i): top.detach().numpy()
            for t in trace
            for i, top in enumerate(t.tops)
        }
        return Seen(blobs, tops, trace)

    def parameters(self, layer: str) -> list[np.ndarray] | None:
        """The blobs of a layer."""
        found = self.net.params.get(layer)
        return None if found is None else [b.detach().numpy() for b in found]


class OnnxSide:
    """An ONNX model in onnxruntime, with every value that a node makes."""

    def __init__(self, files: Files) -> None:
        assert files.whole is not None
        self.files = files
        onnx = import_module("onnx")
        graph = onnx.load(files.whole, load_external_data=False).graph
        made = [name for node in graph.node for name in node.output if name]
        self.model = OnnxModel(files.whole, made, batch=1)
        self.inputs = self.model.inputs
        self.outputs = [self.model.blobs[o.name] for o in graph.output]
        self.nodes = [(node.name.split("/")[0], list(node.output)) for node in graph.node]
        self.initializers = {t.name: t for t in graph.initializer}
        self._path, self._onnx = files.whole, onnx

    def see(self, inputs: Mapping[str, np.ndarray]) -> Seen:
        """Run the model; a layer's last node makes its tops."""
        values = self.model.run(inputs)
        tops: dict[tuple[str, int], np.ndarray] = {}
        for layer, names in self.nodes:
            for i, name in enumerate(names):
                if name in values:
                    tops[layer, i] = values[name]
        return Seen(values, tops)

    def parameters(self, layer: str) -> list[np.ndarray] | None:
        """The initializers that are called as the layer's blobs."""
        found = [t for name, t in self.initializers.items() if name.rpartition(".")[0] == layer]
        if not found or any(t.external_data for t in found):
            return None
        return [self._onnx.numpy_helper.to_array(t) for t in found]


class TorchSide:
    """A TorchScript or torch.export program: only its outputs show."""

    def __init__(self, files: Files, inputs: Mapping[str, tuple[int, ...]], outputs: Sequence[str]):
        assert files.whole is not None
        self.files, self.inputs, self.outputs = files, dict(inputs), list(outputs)
        path = str(files.whole)
        try:
            if files.whole.suffix == ".pt2":
                self.program: Any = load_program(path).module()
            else:
                with warnings.catch_warnings():
                    for kind in (DeprecationWarning, FutureWarning):  # but such files are there
                        warnings.simplefilter("ignore", kind)
                    self.program = import_module("torch.jit").load(path, map_location="cpu")
        except Exception as error:  # noqa: BLE001  (zip, pickle and torch's own)
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise CaffeIOError(f"is no PyTorch program: {text}", where=path) from None

    def see(self, inputs: Mapping[str, np.ndarray]) -> Seen:
        """Run it: inputs in the other side's order, outputs named in that order."""
        given = [torch.from_numpy(np.array(inputs[name])) for name in self.inputs]
        with torch.no_grad():
            try:
                found = self.program(*given)
            except (RuntimeError, TypeError, AttributeError):
                found = self.program(dict(zip(self.inputs, given, strict=True)))
        if isinstance(found, dict):
            return Seen({name: value.numpy() for name, value in found.items()})
        values = found if isinstance(found, (tuple, list)) else [found]
        return Seen({name: v.numpy() for name, v in zip(self.outputs, values, strict=False)})

    def parameters(self, layer: str) -> None:
        """Nothing: the program's own names are not the net's."""
        return


Side = BuiltNetSide | OnnxSide | TorchSide


def open_sides(
    first: Files, second: Files, options: DeployOptions, other: DeployOptions
) -> tuple[Side, Side]:
    """Open both; a program of PyTorch takes its inputs' names from the other side."""
    opened: list[Side | None] = [None, None]
    for i, (files, chosen) in enumerate(((first, options), (second, other))):
        if files.whole is None:
            opened[i] = BuiltNetSide(files, chosen)
        elif files.whole.suffix == ".onnx":
            opened[i] = OnnxSide(files)
    for i, files in enumerate((first, second)):
        if opened[i] is None:
            known = opened[1 - i]
            if known is None:
                raise UnsupportedError("two PyTorch programs have no names to compare by")
            opened[i] = TorchSide(files, known.inputs, known.outputs)
    assert opened[0] is not None and opened[1] is not None
    return opened[0], opened[1]
