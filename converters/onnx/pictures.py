"""Preprocessing as part of a model: a picture as programs hold it goes in, uint8 (N, H, W, C).

What Caffe's data layer does in TEST stands before the net: the centre is cut out, the mean goes,
the rest is scaled, with the roundings of the Caffe that the net is for. Pictures must have their
size already: resizing is the program's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffeio._json import to_json
from caffeio.converters.deploy.deploy_net import DeployOptions, as_given
from caffeio.converters.onnx.build import Built
from caffeio.converters.preprocessing import DRAWING, parse_mean
from caffeio.data.base import read_mean
from caffeio.data.draws import NO_DRAWS
from caffeio.data.transform.normalize import CropWindow, Image
from caffeio.data.transform.transformer import Transformer
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.recipe import folders_of
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile
from caffeio.shape_text import format_shape

Shape = tuple[int, ...]


@dataclass(frozen=True)
class PictureOptions:
    """What the user says of the pictures; what is not said is in transform_param of the net."""

    mean: str = ""  # numbers in the net's order of channels, or a .binaryproto
    scale: float | None = None
    order: str = "bgr"  # of the picture that goes in; the net's own is BGR
    size: tuple[int, int] | None = None  # height and width of the picture


@dataclass
class PictureInput:
    """How the pictures for input `blob` become what the net reads."""

    blob: str
    transformer: Transformer
    shape: Shape  # of the pictures: (N, H, W, C)
    order: str

    @property
    def window(self) -> CropWindow:
        """The part of a picture that the net sees."""
        picture = Image(np.zeros(self.shape[1:], np.uint8), planar=False)
        return self.transformer.place(picture, NO_DRAWS)[1]

    @property
    def takes_any_size(self) -> bool:
        """Whether nothing depends on the size of a picture."""
        return self.transformer.mean is None and self.transformer.crop_size is None

    def draw(self, seed: int) -> np.ndarray:
        """Make random pictures."""
        return np.random.default_rng(seed).integers(0, 256, self.shape).astype(np.uint8)

    @property
    def made(self) -> Shape:
        """The shape of what a batch of pictures becomes."""
        image = Image(np.zeros(self.shape[1:], np.uint8), planar=False)
        return (self.shape[0], *self.transformer.output_shape(image))

    def transform(self, pictures: np.ndarray) -> np.ndarray:
        """What Caffe's transformer makes of pictures."""
        rows = []
        for picture in pictures[..., ::-1] if self.order == "rgb" else pictures:
            image = Image(np.ascontiguousarray(picture), planar=False)
            out = np.empty(self.transformer.output_shape(image), np.float32)
            self.transformer.write(*self.transformer.place(image, NO_DRAWS), out)
            rows.append(out)
        return np.stack(rows)

    def describe(self) -> dict[str, Any]:
        """What a program must know, for the model's metadata."""
        t, p = self.transformer, self.transformer.param
        _, _, height, width, _, _ = self.window
        return {
            "input": self.blob,
            "layout": "NHWC",
            "type": "uint8",
            "channels": self.order.upper() if self.shape[3] == 3 else "gray",
            "height": self.shape[1],
            "width": self.shape[2],
            "crop": [height, width],
            "mean": "image" if t.mean is not None else list(p.mean_value),
            "scale": float(p.scale),
        }

    def entry(self) -> dict[str, str]:
        """Return the metadata that tell of the pictures."""
        return {"caffe:preprocess": to_json(self.describe())}

    def note(self) -> str:
        """What goes in, for people."""
        d = self.describe()
        size = format_shape(self.shape)
        how = {"BGR": " (as cv2.imread gives them)", "RGB": "", "gray": ""}[d["channels"]]
        return f"pictures go in: uint8 {size} (NHWC), {d['channels']}{how}; resize them beforehand"

    def add(self, built: Built) -> str:
        """Put the preprocessing before the graph; returns the name of the picture, its input."""
        graph, blob = built.graph, self.blob
        graph.layer = None
        nodes, graph.nodes = graph.nodes, []
        x = graph.fresh("image")
        built.inputs[built.inputs.index(blob)] = x
        built.elements[x] = np.dtype(np.uint8)
        graph.shapes[x] = self.shape
        y = graph.op("Transpose", [graph.to_float(x)], perm=(0, 3, 1, 2))
        if self.order == "rgb" and self.shape[3] == 3:
            y = graph.op("Gather", [y, graph.ints((2, 1, 0), "order")], axis=1)
        y = self._cut(built, y)
        y = self._normalized(built, y)
        if not graph.nodes or graph.nodes[-1].outputs != [y]:
            raise AssertionError("the last node makes the net's input")
        graph.nodes[-1].outputs = [blob]
        graph.nodes += nodes
        return x

    def _cut(self, built: Built, x: str) -> str:
        g, (top, left, height, width, _, full) = built.graph, self.window
        if (height, width) == full:
            return x
        places = ((top, left), (top + height, left + width), (2, 3))
        names = ("starts", "ends", "axes")
        bounds = [g.ints(row, name) for row, name in zip(places, names, strict=True)]
        return str(g.op("Slice", [x, *bounds]))

    def _normalized(self, built: Built, x: str) -> str:
        """(x - mean) * scale, or NVIDIA's x * scale - mean * scale."""
        g, t = built.graph, self.transformer
        top, left, height, width, _, _ = self.window
        channels = self.shape[3]
        mean: np.ndarray | None = None
        if t.mean is not None:
            mean = t.mean[:, top : top + height, left : left + width]
        elif len(t.means):
            mean = np.broadcast_to(t.means_of(channels), (channels,)).reshape(-1, 1, 1)
        image = Image(np.zeros(self.shape[1:], np.uint8), planar=False)
        if t.scales_first(image):
            x = g.op("Mul", [x, g.const(t.scale, "scale")]) if t.scale != 1 else x
            mean = None if mean is None else mean * t.scale
            return str(g.op("Sub", [x, g.const(mean, "mean")])) if mean is not None else x
        x = g.op("Sub", [x, g.const(mean, "mean")]) if mean is not None else x
        return str(g.op("Mul", [x, g.const(t.scale, "scale")])) if t.scale != 1 else x


def find_pictures(
    file: NetFile,
    options: DeployOptions,
    choices: PictureOptions,
    profile: Profile,
    inputs: dict[str, Shape],
) -> PictureInput:
    """The preprocessing of the net of `file`, whose `inputs` have these shapes.

    Raises UnsupportedError if nothing tells it, or if it is random.
    """
    message, _ = as_given(file, options)
    layer = next(
        (x for x in message.layer if x.HasField("transform_param") and set(x.top) & set(inputs)),
        None,
    )
    told = bool(choices.mean) or choices.scale is not None
    if layer is None and not told:
        raise UnsupportedError(
            "no layer of the net has a transform_param: say what is done with pictures, as in "
            "--mean 104,117,123 --scale 1"
        )
    blob = _picture_input(inputs, layer.top if layer is not None else ())
    param = pb.TransformationParameter()
    if layer is not None:
        param.CopyFrom(layer.transform_param)
    odd = [name for name in DRAWING if param.HasField(name)]
    if odd and not told:
        raise UnsupportedError(
            f"transform_param.{odd[0]} draws at random, which a model does not: say what is done "
            "with pictures, as in --mean 104,117,123 --scale 1"
        )
    for name in (*DRAWING, "resize_param", "noise_param", "mirror"):
        param.ClearField(name)
    _override(param, choices)
    mean = _mean(param, file)
    shape = inputs[blob]
    size = choices.size or (mean.shape[1:] if mean is not None else shape[2:])
    transformer = Transformer(param, "TEST", profile=profile, mean=mean)
    found = PictureInput(blob, transformer, (shape[0], *map(int, size), shape[1]), choices.order)
    _check_pictures(found, shape, choices)
    return found


def _picture_input(inputs: dict[str, Shape], tops: Sequence[str]) -> str:
    fit = [n for n, s in inputs.items() if len(s) == 4 and s[1] in (1, 3)]
    fit = [n for n in fit if n in tops] or fit
    if len(fit) != 1:
        shapes = ", ".join(f"{n} {format_shape(s)}" for n, s in inputs.items())
        raise UnsupportedError(f"which input pictures go into is not clear: there are {shapes}")
    return fit[0]


def _override(param: pb.TransformationParameter, choices: PictureOptions) -> None:
    """Let what the user says stand in place of what the net says."""
    if choices.scale is not None:
        param.scale = choices.scale
    if not choices.mean:
        return
    param.ClearField("mean_file")
    param.ClearField("mean_value")
    mean = parse_mean(choices.mean)
    if isinstance(mean, str):
        param.mean_file = mean
    else:
        param.mean_value.extend(mean)


def _mean(param: pb.TransformationParameter, file: NetFile) -> np.ndarray | None:
    if not param.mean_file:
        return None
    for folder in ("", *folders_of(file.path)):
        path = f"{folder}/{param.mean_file}" if folder else param.mean_file
        try:
            return read_mean(path)
        except (CaffeIOError, OSError) as error:
            problem = error
    raise UnsupportedError(f"the mean cannot be read: {problem}")


def _check_pictures(pictures: PictureInput, shape: Shape, choices: PictureOptions) -> None:
    """Refuse pictures that do not become the net's input."""
    try:
        made = pictures.made[1:]
    except CaffeIOError as error:
        raise UnsupportedError(str(error)) from None
    if made != tuple(shape[1:]):
        size = format_shape(pictures.shape[1:3])
        sizes = format_shape(made), format_shape(shape[1:])
        raise UnsupportedError(
            f"pictures of {size} become {sizes[0]}, but input {pictures.blob!r} is {sizes[1]}"
            + ("" if choices.size else ": give the size of the pictures with --size")
        )
