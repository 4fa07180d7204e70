"""scipy.misc as it was until SciPy 1.1: images by Pillow. Source: scipy/misc/pilutil.py."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np

from caffeio.errors import UnsupportedError

_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "cubic": 3}


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError:
        raise UnsupportedError("scipy.misc's images need the package pillow") from None


def bytescale(data: Any, cmin: Any = None, cmax: Any = None, high: int = 255, low: int = 0) -> Any:
    """Scale an array so that cmin..cmax (its own range) becomes low..high, as uint8.

    Arrays of uint8 stay as they are.
    """
    data = np.asarray(data)
    if data.dtype == np.uint8:
        return data
    if high > 255 or low < 0 or high < low:
        raise ValueError("`high` and `low` must be from 0 to 255, and `high` not below `low`")
    cmin = data.min() if cmin is None else cmin
    cmax = data.max() if cmax is None else cmax
    span = cmax - cmin
    if span < 0:
        raise ValueError("`cmax` should be larger than `cmin`.")
    scale = float(high - low) / (span or 1)
    scaled = (data - cmin) * scale + low
    return (scaled.clip(low, high) + 0.5).astype(np.uint8)


def toimage(
    arr: Any, high: int = 255, low: int = 0, cmin: Any = None, cmax: Any = None, mode: Any = None,
    channel_axis: int | None = None,
) -> Any:  # fmt: skip
    """An array as a Pillow image: (H, W) grey, or with an axis of 3 or 4 channels."""
    pillow, data = _pillow(), np.asarray(arr)
    if data.ndim == 2:
        if mode == "F":
            return pillow.fromarray(data.astype(np.float32))
        return pillow.fromarray(bytescale(data, cmin, cmax, high, low))
    if data.ndim != 3 or not {3, 4} & set(data.shape):
        raise ValueError("'arr' does not have a suitable array shape for any mode.")
    if channel_axis is None:
        sizes = 3 if 3 in data.shape else 4
        channel_axis = data.shape.index(sizes)
    data = np.moveaxis(bytescale(data, cmin, cmax, high, low), channel_axis, 2)
    return pillow.fromarray(np.ascontiguousarray(data))


def fromimage(im: Any, flatten: bool = False, mode: str | None = None) -> Any:
    """A Pillow image as an array."""
    if mode is not None and mode != im.mode:
        im = im.convert(mode)
    elif im.mode == "P":
        im = im.convert("RGBA" if "transparency" in im.info else "RGB")
    if flatten:
        im = im.convert("F")
    elif im.mode == "1":
        im = im.convert("L")
    return np.array(im)


def imread(name: Any, flatten: bool = False, mode: str | None = None) -> Any:
    """Read an image file as an array."""
    with _pillow().open(name) as image:
        return fromimage(image, flatten=flatten, mode=mode)


def imsave(name: Any, arr: Any, format: str | None = None) -> None:
    """Write an array as an image file."""
    image = toimage(arr, channel_axis=2) if np.ndim(arr) == 3 else toimage(arr)
    image.save(name, format) if format else image.save(name)


def imresize(arr: Any, size: Any, interp: str = "bilinear", mode: Any = None) -> Any:
    """Resize an image: `size` is a percentage (int), a fraction (float), or (height, width)."""
    image = toimage(arr, mode=mode)
    if isinstance(size, int | np.integer):
        factor = size / 100.0
        shape = (int(image.size[0] * factor), int(image.size[1] * factor))
    elif isinstance(size, float | np.floating):
        shape = (math.floor(image.size[0] * size), math.floor(image.size[1] * size))
    else:
        shape = (int(size[1]), int(size[0]))
    return fromimage(image.resize(shape, resample=_FILTERS[interp]))


def imrotate(arr: Any, angle: float, interp: str = "bilinear") -> Any:
    """Rotate an image about its centre, in degrees against the clock."""
    return fromimage(toimage(arr).rotate(angle, resample=_FILTERS[interp]))


def imshow(arr: Any) -> None:
    """Show an image."""
    toimage(arr).show()


def __getattr__(name: str) -> Any:
    """logsumexp, comb and factorial are in scipy.special today."""
    if name in ("logsumexp", "comb", "factorial", "factorial2", "factorialk"):
        return getattr(import_module("scipy.special"), name)
    raise AttributeError(f"module 'scipy.misc' has no attribute {name!r}")
