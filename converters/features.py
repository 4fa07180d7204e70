"""What a net sees in one picture: feature maps, the likeliest classes, boxes, and what mattered.

What mattered is the gradient of the best class's score by the pixels (Simonyan, Vedaldi and
Zisserman, 2014: "Deep inside convolutional networks", section 3).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from caffeio.data.base import read_mean
from caffeio.data.records.annotated_datum import AnnotatedBox
from caffeio.data.transform.image import planar, read_image, resize
from caffeio.errors import CaffeIOError, DataError, NetError
from caffeio.layers.registry import family_of
from caffeio.net.graph import is_included, net_state
from caffeio.net.net import Net
from caffeio.net.recipe import folders_of
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.shape_text import format_shape
from caffeio.tools.sheet import draw_boxes, grid, headed
from caffeio.tools.tiles import Picture, to_bgr

Values = NDArray[np.float32]
ROWS, COLUMNS = 8, 12  # blobs, maps of each
SMALL, LARGE = 198, 420  # pixels of the picture itself, alone and with boxes


@dataclass
class Preprocessing:
    """How a picture becomes a net's input: (pixels - mean) * scale, BGR unless `rgb`."""

    mean: Sequence[float] | str | None = None  # of each channel, or a mean file
    scale: float | None = None
    rgb: bool = False


@dataclass
class SeenPicture:
    """What a net made of a picture."""

    preparation: str  # how the picture was prepared
    classes: list[tuple[int, str, float]] = field(default_factory=list)  # number, name, score
    boxes: list[tuple[AnnotatedBox, float, str]] = field(
        default_factory=list
    )  # with score and name
    maps: dict[str, list[int]] = field(default_factory=dict)  # blob -> the channels that are drawn
    notes: list[str] = field(default_factory=list)
    picture: Picture | None = None


def see(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    picture: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    blobs: Sequence[str] = (),
    names: Sequence[str] = (),
    top: int = 5,
    threshold: float = 0.5,
    saliency: bool = True,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    profile: str | None = None,
    allow_python: bool = False,
) -> SeenPicture:
    """Run one picture through a net and draw what happens.

    A net with data layers is made a deploy net, and its transform_param is used, as far as
    `preprocessing` says nothing else. The picture is resized to the input, aspect not kept. blobs:
    whose maps are drawn, by default some of all depths. names: of the classes. threshold: of boxes.
    Raises CaffeIOError.
    """
    options = DeployOptions(
        input_shapes or {}, profile=profile, allow_python=allow_python, need_weights=True
    )
    net, notes = load_deploy_net(model, weights, options)
    name, shape = _input(net)
    chosen, words = _prepared(model, preprocessing or Preprocessing())
    original = read_image(os.fspath(picture), color=shape[1] == 3)
    x = _as_input(original, shape, *chosen)
    tensor = torch.from_numpy(x).requires_grad_(saliency)
    with torch.set_grad_enabled(saliency):
        outputs = net({name: tensor})
    seen = SeenPicture(f"resized to {shape[3]}x{shape[2]}, {words}", notes=notes)
    shown = to_bgr(original[None] if original.ndim == 2 else original.transpose(2, 0, 1))
    large = [shown]
    scores = _scores(net, outputs)
    if scores is not None:
        values = outputs[scores].detach().reshape(-1).numpy()
        order = np.argsort(-values, kind="stable")[:top]
        seen.classes = [(int(i), _name(int(i), names), float(values[i])) for i in order]
        if saliency:
            large += _saliency(net, scores, int(order[0]), tensor, shown, seen)
    else:
        seen.boxes = _boxes(outputs, threshold, names)
        large = [draw_boxes(_larger(shown, LARGE), [box for box, _, _ in seen.boxes],
                            [f"{name} {score:.2f}" for _, score, name in seen.boxes])]  # fmt: skip
    rows = _rows(net, blobs or _some(net), seen)
    bars = [(name, score) for _, name, score in seen.classes]
    seen.picture = headed(large, bars, grid(rows), LARGE if scores is None else SMALL)
    return seen


def _input(net: Net) -> tuple[str, tuple[int, ...]]:
    """The name and shape of the one picture that a net takes."""
    if len(net.inputs) != 1:
        raise NetError(f"the net has the inputs {', '.join(net.inputs)}: one picture is wanted")
    name = net.inputs[0]
    shape = next(
        tuple(map(int, step.layer.top_shapes[step.tops.index(name)]))
        for step in net.steps
        if name in step.tops and step.layer.is_source
    )
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise NetError(
            f"input {name!r} has shape {format_shape(shape)}: no picture of 1 or 3 channels"
        )
    return name, (1, *shape[1:])


Chosen = tuple[NDArray[Any] | None, float, bool]


def _prepared(model: str | os.PathLike[str], options: Preprocessing) -> tuple[Chosen, str]:
    """Mean, scale and order of colours: what is asked for, else what the net's data layer says."""
    file = read_net(model)
    param, where = pb.TransformationParameter(), "nothing is subtracted or scaled"
    state = net_state(file.message, "TEST", 0, ())
    for layer in file.message.layer:
        if layer.HasField("transform_param") and not layer.bottom and is_included(layer, state):
            param, where = layer.transform_param, f"as layer {layer.name!r} says"
            break
    scale = options.scale if options.scale is not None else float(param.scale)
    mean: NDArray[Any] | None = None
    if isinstance(options.mean, str):
        mean = read_mean(options.mean)
    elif options.mean is not None:
        mean = np.array(options.mean, np.float32).reshape(-1, 1, 1)
    elif param.mean_file:
        places = [Path(folder) / param.mean_file for folder in ("", *folders_of(file.path))]
        mean = read_mean(str(next((p for p in places if p.exists()), places[0])))
    elif param.mean_value:
        mean = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
    if options.mean is not None or options.scale is not None:
        where = "as you said"
    said = []
    if mean is not None:
        said.append(f"mean {', '.join(f'{v:g}' for v in mean.reshape(len(mean), -1).mean(1))}")
    if scale != 1:
        said.append(f"times {scale:g}")
    words = f"{where}: {', '.join(said)}" if said else where
    return (mean, scale, options.rgb), words + ("; RGB" if options.rgb else "")


def _as_input(
    image: NDArray[Any], shape: Sequence[int], mean: NDArray[Any] | None, scale: float, rgb: bool
) -> Values:
    """(1, C, H, W) float32."""
    _, channels, height, width = shape
    pixels = planar(resize(image, width, height)).astype(np.float32)
    if mean is not None:
        if mean.shape[0] not in (1, channels):
            raise DataError(f"the mean has {mean.shape[0]} channels, the input has {channels}")
        if mean.shape[1:] != (1, 1):
            top, left = ((a - b) // 2 for a, b in zip(mean.shape[1:], (height, width), strict=True))
            if min(top, left) < 0:
                raise DataError(f"the mean of {mean.shape[1:]} is smaller than the input")
            mean = mean[:, top : top + height, left : left + width]
        pixels = pixels - mean
    if rgb:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels * np.float32(scale), np.float32)[None]


def _scores(net: Net, outputs: Mapping[str, Any]) -> str | None:
    """The output that is a score for each class, if there is one."""
    for name, value in outputs.items():
        if value.dim() >= 2 and value.shape[0] == 1 and 1 < value.shape[1] == value.numel():
            return name
    return None


def _boxes(
    outputs: Mapping[str, Any], threshold: float, names: Sequence[str]
) -> list[tuple[AnnotatedBox, float, str]]:
    """Detections above the threshold: rows of image, label, score, corners (DetectionOutput)."""
    out = []
    for value in outputs.values():
        if value.dim() != 4 or value.shape[3] != 7:
            continue
        for _, label, score, *corners in value.detach().reshape(-1, 7).tolist():
            if label >= 0 and score >= threshold:
                name = _name(int(label), names)
                out.append((AnnotatedBox(int(label), 0, *corners), float(score), name))
    return sorted(out, key=lambda row: -row[1])


def _saliency(
    net: Net, scores: str, best: int, x: torch.Tensor, shown: Picture, seen: SeenPicture
) -> list[Picture]:
    """The picture with its pixels' weight laid over it; none where a layer has no gradient."""
    made = {top: step for step in net.steps for top in step.tops}
    step = made.get(scores)
    if step is not None and step.node.type == "Softmax":  # its input: a sure net has no gradient
        scores = step.bottoms[0]
    value = net.blobs[scores].reshape(-1)[best]
    try:
        [gradient] = torch.autograd.grad(value, x)
    except (CaffeIOError, RuntimeError) as error:
        seen.notes.append(f"no saliency: {error}")
        return []
    heat = gradient.abs().amax(1)[0].numpy()
    heat = cv2.GaussianBlur(heat / (heat.max() or 1), (0, 0), max(heat.shape) / 100 + 0.3)
    large = _larger(shown)
    size = (large.shape[1], large.shape[0])
    heat = cv2.resize(np.asarray(heat / (heat.max() or 1), np.float32), size)
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    gray = cv2.cvtColor(cv2.cvtColor(large, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    mixed = 0.35 * gray + 0.65 * colours
    return [np.asarray(mixed, np.uint8)]


def _larger(picture: Picture, side: int = 480) -> Picture:
    scale = side / max(picture.shape[:2])
    how = cv2.INTER_NEAREST if scale > 4 else cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how), np.uint8)


def _some(net: Net) -> list[str]:
    """Blobs with maps, of all depths: each layer's, thinned out evenly."""
    found = list(dict.fromkeys(
        top
        for step in net.steps
        if family_of(step.node.type) in ("conv", "pool", "norm", "join")
        and step.node.type != "Split"
        for top in step.tops
        if top not in net.outputs and _has_maps(net.blobs.get(top))
    ))  # fmt: skip
    if len(found) <= ROWS:
        return found
    return [found[round(i * (len(found) - 1) / (ROWS - 1))] for i in range(ROWS)]


def _has_maps(value: torch.Tensor | None) -> bool:
    return value is not None and value.dim() == 4 and min(value.shape[2:]) > 1


def _rows(
    net: Net, blobs: Sequence[str], seen: SeenPicture
) -> list[tuple[str, list[tuple[str, Picture]]]]:
    rows = []
    for blob in blobs:
        value = net.blobs.get(blob)
        if value is None:
            raise NetError(f"the net has no blob {blob!r}")
        if not _has_maps(value):
            shape = format_shape(value.shape)
            raise NetError(f"blob {blob!r} of shape {shape} has no maps to draw")
        maps = value.detach()[0].float().numpy()
        strongest = np.argsort(-np.abs(maps).mean((1, 2)), kind="stable")[:COLUMNS]
        channels = sorted(int(i) for i in strongest)
        seen.maps[blob] = channels
        rows.append((blob, [(f"#{i}", _map(maps[i])) for i in channels]))
    return rows


def _map(values: NDArray[Any]) -> Picture:
    """One map from its lowest (dark) to its highest value (bright)."""
    gray = to_bgr(values[None])
    return np.asarray(cv2.applyColorMap(gray[:, :, 0], cv2.COLORMAP_VIRIDIS), np.uint8)


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"
