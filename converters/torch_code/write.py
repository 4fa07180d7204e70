"""Files for PyTorch alone: a module's source beside its weights, and torch.export programs."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caffeio import __version__
from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from caffeio.converters.programs import load_program
from caffeio.converters.torch_code.module import ModuleWriter, WrittenModule
from caffeio.converters.verify.check import Checked, check
from caffeio.converters.verify.models import Arrays
from caffeio.converters.verify.reference import own_data, predictions, reference_net
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.proto.files import read_net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.weights.load import Weights
from caffeio.proto.weights.safetensors import MODULE, write_tensors
from caffeio.visible import visible

PathLike = str | os.PathLike[str]
MARK = "written by caffeio"


class TorchModel:
    """A module that takes and returns tensors in a row, as blobs by name."""

    def __init__(
        self, module: Any, shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[str]
    ) -> None:
        self.module, self.outputs = module, list(outputs)
        self.inputs = dict(shapes)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the module on copies of the inputs."""
        given = [torch.from_numpy(np.array(inputs[name])) for name in self.inputs]
        with torch.no_grad():
            found = self.module(*given)
        tops = found if isinstance(found, tuple) else (found,)
        return {n: t.detach().numpy() for n, t in zip(self.outputs, tops, strict=True)}


def write_module(
    prototxt: PathLike,
    weights: Weights | None,
    path: PathLike,
    options: DeployOptions,
    target: PathLike,
) -> tuple[WrittenModule, list[str]]:
    """Write `path` (.py) and its weights beside it (.safetensors); returns notes as well.

    `target` is what the file will be called. Raises UnsupportedError that names a layer without a
    PyTorch form, and what `load_deploy_net` raises.
    """
    net, notes = load_deploy_net(prototxt, weights, options)
    name = visible(str(Path(os.fspath(prototxt)).name)) if _is_path(prototxt) else "a prototxt"
    stem = Path(target).stem
    head = f"{visible(net.name) or stem}, {MARK} {__version__} from {name}."
    written = ModuleWriter(net, options.outputs, stem).run(_plain(head))
    with atomic_write(path, error=CaffeIOError) as file:
        file.write(written.source.encode())
    arrays = {key: t.detach().cpu().contiguous().numpy() for key, t in written.tensors.items()}
    told = {MODULE: Path(target).name}
    write_tensors(Path(path).with_suffix(".safetensors"), arrays, metadata=told)
    notes.append(f"its weights are in {Path(target).with_suffix('.safetensors').name} beside it")
    return written, notes


def _is_path(prototxt: PathLike) -> bool:
    return "\n" not in os.fspath(prototxt)


def _plain(text: str) -> str:
    """`text` as part of a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def check_module(
    prototxt: PathLike,
    weights: Weights | None,
    path: PathLike,
    written: WrittenModule,
    options: DeployOptions,
) -> Checked:
    """Import the file, load its weights, and run it against the net of the user's files."""
    module = import_file(Path(path))
    if importlib.util.find_spec("safetensors") is not None:
        model = module.load_model()
    else:
        from caffeio.proto.weights.safetensors import read_tensors

        model = getattr(module, written.name)()
        tensors = read_tensors(Path(path).with_suffix(".safetensors"))
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
        model.eval()
    return _compare(prototxt, weights, model, written.inputs, written.outputs, options)


def import_file(path: Path) -> Any:
    """Run a Python file as a module that is not kept."""
    name = f"_caffeio_{path.stem}_{os.getpid()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    keep = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keep
    return module


def _compare(
    prototxt: PathLike,
    weights: Weights | None,
    model: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    options: DeployOptions,
) -> Checked:
    file = read_net(prototxt, dialect=options.dialect)
    known = predictions(file, weights, options)[1]
    shapes = {name: known[name] for name in inputs}
    net = reference_net(file, weights, options, outputs, {**options.input_shapes, **shapes})
    own = own_data(net, file, options, shapes)
    return check(net, TorchModel(model, shapes, outputs), outputs, own)


_NO_NAME = re.compile(
    r"[\[\](){},;'\"\\\s]|[^\x20-\uffff]|[\x7f-\x9f]"
)  # torch cannot read it back


class NetProgram(nn.Module):
    """A net whose inputs and outputs are tensors in a row, with the net's own parameter names."""

    def __init__(
        self, net: Net, inputs: Sequence[str], outputs: Sequence[str], rest: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.run: Any
        object.__setattr__(self, "run", net)
        self.inputs, self.outputs, self.rest = list(inputs), list(outputs), dict(rest)
        for name, child in net.named_children():
            plain = _NO_NAME.sub("_", name)
            while plain in self._modules:
                plain += "_"
            self._modules[plain] = child

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the net."""
        blobs = self.run({**self.rest, **dict(zip(self.inputs, inputs, strict=True))})
        return tuple(blobs[name] for name in self.outputs)


def write_program(
    prototxt: PathLike, weights: Weights | None, path: PathLike, options: DeployOptions
) -> tuple[list[str], list[str], list[str]]:
    """Write a torch.export program; returns its inputs, its outputs, and notes."""
    net, notes = load_deploy_net(prototxt, weights, options)
    made = {top for step in net.steps if not step.layer.is_source for top in step.tops}
    outputs = list(options.outputs) or [blob for blob in net.outputs if blob in made]
    if not outputs:
        raise UnsupportedError(f"net {net.name!r} has no output to export")
    read = {name for step in net.steps for name in step.bottoms}
    tops = [top for step in net.steps if step.layer.is_source for top in step.tops]
    sources = [top for top in tops if top in read]
    if missing := [blob for blob in outputs if blob not in net.outputs]:
        raise UnsupportedError(
            f"blob {missing[0]!r} is read by other layers: a program's outputs are the net's"
        )
    net.requires_grad_(False)
    given = tuple(torch.zeros(net.blob_shapes[name]) for name in sources)
    rest = {n: torch.zeros(net.blob_shapes[n]) for n in tops if n not in read}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own, about its graphs
        try:
            program = torch.export.export(
                NetProgram(net, sources, outputs, rest), given, strict=False
            )
            torch.export.save(program, buffer, extra_files={"caffeio": __version__})
        except Exception as error:  # noqa: BLE001 - whatever a layer does that cannot be recorded
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedError(f"torch.export cannot record the net: {text[0]}") from None
    with atomic_write(path, error=CaffeIOError) as file:
        file.write(buffer.getvalue())
    return sources, outputs, notes


def check_program(
    prototxt: PathLike,
    weights: Weights | None,
    path: PathLike,
    ends: tuple[Sequence[str], Sequence[str]],
    options: DeployOptions,
) -> Checked:
    """Load the program and run it against the net of the user's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = load_program(path).module()
        except Exception as error:  # noqa: BLE001 - torch's own, of what it has written itself
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(f"torch.export cannot read it back: {text}") from None
    return _compare(prototxt, weights, module, *ends, options)
