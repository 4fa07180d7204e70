"""torchvision's own models at full size: converted for Caffe 1.0, compared, and read by OpenCV.

Run as `python tests/converters/from_onnx/nightly.py [MODEL...]` where a torchvision that fits torch
is installed; the suite does not import it. Weights are random. What torchvision lacks is ours, in
larger pictures than the suite's. Prints a table, a row a model and exporter; exits with 1 if a
model is refused or off.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from caffeio.converters.from_onnx.compile import DEFAULT_TARGET, Compiled, compile_model
from caffeio.converters.from_onnx.torch_export import by_dynamo, by_torchscript
from caffeio.converters.from_onnx.verify import build_net, verify
from caffeio.converters.from_onnx.write import write_files
from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.converters.verify.numbers import relative_difference
from caffeio.errors import CaffeIOError
from tests.converters.from_onnx.helpers import of_equal_rank
from tests.converters.from_onnx.nets import make

SIZES = {"inception_v3": 299, "ssdlite320_mobilenet_v3_large": 320}
CLASSIFIERS = (
    "resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "densenet121", "squeezenet1_1", "shufflenet_v2_x1_0", "efficientnet_b0",
    "mnasnet1_0", "regnet_y_400mf", "googlenet", "inception_v3",
)  # fmt: skip
OTHERS = ("ssdlite320_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50")
OURS = {  # with larger pictures where the net does not fix them
    "unet_transpose": (1, 3, 256, 256), "unet_resize": (1, 3, 256, 256),
    "unet_bilinear": (1, 3, 256, 256), "yolo5": None, "yolo8": None,
    "crnn": (1, 1, 16, 100), "paddle_ocr_rec": (1, 1, 16, 160),
}  # fmt: skip
# By the statistics of four pictures float32 computes these to 3e-4 only (torch's own against its
# float64): they keep statistics that are drawn.
DRAWN = ("regnet_y_400mf", "googlenet", "densenet121")
EXPORTERS: dict[str, Callable[..., Any]] = {"TorchScript": by_torchscript, "dynamo": by_dynamo}
_KEPT: list[Any] = []  # what lives as long as the process
NEAR, SAME = 1e-5, 1e-4  # of onnxruntime; of torch, by OpenCV's own arithmetic
# What is farther off is held against the module in float64, beside onnxruntime's (torch's)
# numbers. FCN-ResNet-50's float32 is 9e-5 from its float64, whoever computes it.
HEAD = (
    "| model | exporter | layers | off onnxruntime by | off torch in OpenCV by | seconds |\n"
    "|---|---|---|---|---|---|"
)


class Heads(nn.Module):
    """A detector of torchvision up to its scores and offsets: what follows them is host code."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(x).values()))
        return found["cls_logits"], found["bbox_regression"]


class Out(nn.Module):
    """The first of the outputs that a segmentation model has by name."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Any:
        return self.whole(x)["out"]


def torchvision_models() -> Any:
    """torchvision.models; its operators in C++ are not needed, and a wheel for CUDA lacks them."""
    if find_spec("torchvision") is not None and not torch.cuda.is_available():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):  # which its import asks for
            with suppress(RuntimeError):  # it is there
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return import_module("torchvision.models")


def of_torchvision(name: str) -> nn.Module:
    """A model with random weights."""
    models, more = torchvision_models(), {}
    if name in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": False}
    if name in CLASSIFIERS:
        return models.get_model(name, weights=None, **more)
    whole = models.get_model(name, weights=None, weights_backbone=None)
    return Heads(whole) if name.startswith("ssd") else Out(whole)


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    """A model in evaluation, and an input for it."""
    if name in OURS:
        module, x = make(name)
        size = OURS[name]
        return module, x if size is None else torch.randn(*size)
    torch.manual_seed(0)
    module, size = of_torchvision(name).train(), SIZES.get(name, 224)
    for part in module.modules():  # as after a training: nothing is 0 or 1 by chance
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.normal_(part.bias, 0, 0.2)
            part.momentum = 0.0 if name in DRAWN else None  # None: those of the pictures below
            assert part.running_var is not None
            part.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        module(torch.randn(4, 3, size, size))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_var is not None:
                part.running_var.clamp_(min=1e-2)  # smaller ones are noise of four pictures
    return module.eval(), torch.randn(1, 3, size, size)


def by_opencv(net: Compiled, x: Tensor) -> list[Any]:
    """OpenCV's numbers of the two files."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"net.{kind}") for kind in ("prototxt", "caffemodel")]
        write_files(net, files[1], files[0], "a nightly run")
        reader = cv2.dnn.readNetFromCaffe(*files)
    reader.enableWinograd(False)  # a fast form of 3 x 3 kernels that is 6e-5 off by itself
    reader.setInput(x.numpy(), next(iter(net.inputs.values())))
    return list(reader.forward(list(net.outputs.values())))


def distance(found: Sequence[Any], exact: Sequence[Any]) -> float:
    """The largest difference of arrays from others, each of its largest value; inf for a nan."""
    return max(
        relative_difference(np.asarray(a).reshape(np.shape(b)), np.asarray(b))
        for a, b in zip(found, exact, strict=True)
    )


def outputs_of(module: nn.Module, x: Tensor) -> list[Tensor]:
    """A module's outputs as a list."""
    with torch.no_grad():
        found = module(x)
    return list(found) if isinstance(found, tuple) else [found]


@dataclass
class Checked:
    """A module, its example, the model, and what torch computes in float32 and in float64."""

    module: nn.Module
    x: Tensor
    model: Any
    net: Compiled
    wanted: list[Tensor]
    exact: list[Tensor] = field(default_factory=list)

    def in_float64(self) -> list[Tensor]:
        """The module's outputs in float64, computed once."""
        if not self.exact:
            self.exact = outputs_of(copy.deepcopy(self.module).double(), self.x.double())
        return self.exact

    def ranks(self) -> tuple[float, float]:
        """How far the Caffe net's numbers are from float64, and how far onnxruntime's are."""
        name, blob = next(iter(self.net.inputs.items()))
        runner = OnnxRunner(
            self.net.model.runnable(), need_runtime=True, weights=self.net.model.weights
        )
        theirs = runner({name: self.x.numpy()})
        with torch.no_grad():
            net = build_net(self.net)
            net({blob: self.x})
        mine = [net.blobs[top].numpy() for top in self.net.outputs.values()]
        exact = self.in_float64()
        return distance(mine, exact), distance([theirs[n] for n in self.net.outputs], exact)


def opencv_cell(checked: Checked) -> tuple[str, bool]:
    """What OpenCV makes of the net for Caffe 1.0, else of the one for OpenCV; whether it fits."""
    said = ""
    for target in (DEFAULT_TARGET, "opencv"):
        try:
            default = target == DEFAULT_TARGET
            made = checked.net if default else compile_model(checked.model, target=target)
            found = by_opencv(made, checked.x)
        except (CaffeIOError, cv2.error) as error:
            said = f"not read: {str(error).strip().splitlines()[0][:120]}"
            continue
        off = distance(found, checked.wanted)
        more = "" if default else f" (`--target {target}`)"
        said = f"{off:.1g}{more}"
        if off <= SAME:
            return said, True
        exact = checked.in_float64()
        mine, theirs = distance(found, exact), distance(checked.wanted, exact)
        said += f"; float64: {mine:.1g}, torch {theirs:.1g}"
        if of_equal_rank(mine, theirs):
            return said, True
    return said, False


def check(name: str, exporter: str) -> tuple[str, bool]:
    """Convert one model; its row of the table, and whether all is well."""
    module, x = prepared(name)
    wanted = outputs_of(module, x)
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = EXPORTERS[exporter](module, (x,))
        net = compile_model(model, where=name)
        worst = verify(net).worst
    except CaffeIOError as error:
        return f"| {name} | {exporter} | refused: {error.message[:300]} | | | |", False
    checked, fits, said = Checked(module, x, model, net, wanted), worst <= NEAR, f"{worst:.1g}"
    if not fits:
        mine, theirs = checked.ranks()
        said += f"; float64: {mine:.1g}, onnxruntime {theirs:.1g}"
        fits = of_equal_rank(mine, theirs)
    seconds = time.monotonic() - began
    cell, read = opencv_cell(checked)
    row = f"| {name} | {exporter} | {len(net.layers)} | {said} | {cell} | {seconds:.0f} |"
    return row, fits and read


def main(names: list[str]) -> int:
    """Check the models; returns the exit code."""
    print(HEAD, flush=True)
    bad = []
    for name in names or (*CLASSIFIERS, *OTHERS, *OURS):
        for exporter in EXPORTERS:
            row, fits = check(name, exporter)
            print(row, flush=True)
            if not fits:
                bad.append(f"{name} ({exporter})")
    if bad:
        print(f"FAILED: {', '.join(bad)}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
