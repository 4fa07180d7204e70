"""What a picture must go through before a net reads it, in words and as a script for a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from caffeio.errors import UnsupportedError
from caffeio.layers.registry import reads_data
from caffeio.net.graph import is_included, net_state
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import format_shape

Shape = tuple[int, ...]
RUNTIMES = ("opencv", "onnxruntime", "pytorch")
# Fields of transform_param that draw at random.
DRAWING = ("random_resize_param", "random_aspect_ratio_param", "distort_param", "expand_param")


def parse_mean(text: str) -> tuple[float, ...] | str:
    """Read the value of --mean: numbers as in `104,117,123`, else it is the name of a mean file."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return text


@dataclass(frozen=True)
class Recipe:
    """How a picture becomes the blob `blob`; `told` says whether the net's file says so."""

    blob: str
    shape: Shape  # (N, C, H, W)
    told: bool
    resize: tuple[int, int] | None = None  # height and width, if the file tells
    crop: bool = False  # is the middle of the picture cut out?
    mean: tuple[float, ...] = ()
    mean_file: str = ""
    scale: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that a picture is resized to."""
        return self.resize or (self.shape[2], self.shape[3])

    def rows(self) -> list[tuple[str, str]]:
        """Title and words, in the order in which things happen."""
        channels, height, width = self.shape[1:]
        colours = "one gray channel" if channels == 1 else "BGR, as cv2.imread gives them"
        rows = [("input", f"{self.blob}: float32, {format_shape(self.shape)} (N, C, H, W)")]
        if not self.told:
            rows.append(("colours", f"{colours}, unless it was trained otherwise"))
            return [*rows, ("mean, scale", "this file does not tell: see the training prototxt")]
        rows.append(("colours", colours))
        size = f"resized to {self.size[0]}x{self.size[1]} (height x width)"
        if self.mean_file and self.resize is None:
            size = "resized to the size of the mean"
        elif self.crop and self.resize is None:
            size = "as the database has them (often 256x256; the script resizes to the crop)"
        rows.append(("pictures", size))
        if self.crop:
            rows.append(("crop", f"{height}x{width} out of the middle"))
        if self.mean_file:
            rows.append(("mean", f"the image {self.mean_file} subtracted"))
        elif any(self.mean):
            each = f" ({', '.join('BGR')})" if len(self.mean) == 3 else ""
            rows.append(("mean", f"{', '.join(f'{m:g}' for m in self.mean)} subtracted{each}"))
        rows.append(("scale", f"times {self.scale:.7g}" if self.scale != 1 else "none: 0 to 255"))
        return rows + [("note", note) for note in self.notes]

    def line(self) -> str:
        """All of it in one line."""
        return "; ".join(f"{title}: {words}" for title, words in self.rows())


def recipe_of(net: pb.NetParameter, shapes: Mapping[str, Shape | None]) -> Recipe | None:
    """The recipe of the pictures that `net` reads in TEST; `shapes` are those of its inputs.

    None if it reads no pictures of one or three channels, or their size is not known.
    """
    state = net_state(net, "TEST")
    layers = [layer for layer in net.layer if is_included(layer, state)] or list(net.layer)
    sources = [x for x in layers if not x.bottom and reads_data(x.type) and x.top]
    told = [x for x in sources if x.HasField("transform_param")] or sources
    pictures = {n: s for n, s in shapes.items() if s and len(s) == 4 and s[1] in (1, 3)}
    pictures = {n: s for n, s in pictures.items() if all(d > 0 for d in s[1:])}
    for layer in told:
        if layer.top[0] in pictures:
            return _of_layer(layer, pictures[layer.top[0]])
    for name, shape in pictures.items():
        return Recipe(name, (max(1, shape[0]), *shape[1:]), told=False)
    return None


def _of_layer(layer: pb.LayerParameter, shape: Shape) -> Recipe:
    t, resize = layer.transform_param, None
    image = layer.image_data_param
    if image.new_height and image.new_width:
        resize = (image.new_height, image.new_width)
    for given in t.resize_param:  # the first one counts
        if resize is None and given.height and given.width:
            resize = (given.height, given.width)
    notes = [f"{n} draws at random in training" for n in DRAWING if t.HasField(n)]
    return Recipe(
        layer.top[0],
        (1, *shape[1:]),
        told=True,
        resize=resize,
        crop=bool(t.crop_size),
        mean=tuple(t.mean_value),
        mean_file=t.mean_file,
        scale=t.scale,
        notes=tuple(notes),
    )


def script(recipe: Recipe, runtime: str, stem: str) -> str:
    """A short program that feeds a picture to `<stem>.onnx` or `<stem>.py`.

    Raises UnsupportedError for a runtime that there is no script for.
    """
    if runtime not in RUNTIMES:
        raise UnsupportedError(f"there are scripts for {', '.join(RUNTIMES)}, not {runtime!r}")
    name = PurePath(stem).stem
    channels, height, width = recipe.shape[1:]
    flag = ", cv2.IMREAD_GRAYSCALE" if channels == 1 else ""
    tall, wide = recipe.size
    lines = [
        "import sys",
        "",
        "import cv2",
        "import numpy as np",
        *_IMPORTS[runtime].format(name=name).splitlines(),
        "",
        f"image = cv2.imread(sys.argv[1]{flag})",
    ]
    size, by_mean = f"({wide}, {tall})", recipe.mean_file and recipe.resize is None
    if recipe.mean_file:
        npy = PurePath(recipe.mean_file).with_suffix(".npy").name
        lines.append(f'mean = np.load("{npy}").squeeze()  # caffeio convert MEAN.binaryproto {npy}')
        size = "mean.shape[-1:-3:-1]" if by_mean else size
    lines.append(f"image = cv2.resize(image, {size})")
    lines.append("x = np.atleast_3d(image).transpose(2, 0, 1).astype(np.float32)")
    if recipe.mean_file:
        lines.append("x = x - mean")
    elif any(recipe.mean):
        values = ", ".join(f"{m:g}" for m in recipe.mean)
        lines.append(f"x = x - np.array([{values}], np.float32).reshape(-1, 1, 1)")
    if by_mean and recipe.crop:
        lines.append(f"top, left = (x.shape[1] - {height}) // 2, (x.shape[2] - {width}) // 2")
        lines.append(f"x = x[:, top : top + {height}, left : left + {width}]")
    elif (tall, wide) != (height, width):
        top, left = (tall - height) // 2, (wide - width) // 2
        lines.append(f"x = x[:, {top} : {top + height}, {left} : {left + width}]")
    lines += [f"x = x * np.float32({recipe.scale:.9g})"] if recipe.scale != 1 else []
    lines.append("x = np.ascontiguousarray(x[np.newaxis])")
    text = _RUN[runtime].format(name=name, blob=recipe.blob)
    return "\n".join([*lines, text]) + "\n"


_IMPORTS = {
    "opencv": "",
    "onnxruntime": "import onnxruntime",
    "pytorch": "import torch\nfrom {name} import load_model",
}
_RUN = {
    "opencv": """net = cv2.dnn.readNetFromONNX("{name}.onnx")
net.setInput(x, "{blob}")
print(net.forward().ravel().tolist())""",
    "onnxruntime": """session = onnxruntime.InferenceSession("{name}.onnx")
y = session.run(None, {{"{blob}": x}})[0]
print(y.ravel().tolist())""",
    "pytorch": """with torch.no_grad():
    y = load_model()(torch.from_numpy(x))
print((y[0] if isinstance(y, tuple) else y).flatten().tolist())""",
}
