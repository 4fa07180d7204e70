"""DataTransformer: decode, resize, crop, subtract the mean, scale, mirror; bit for bit Caffe's.

Sources: src/caffe/data_transformer.cpp of BVLC and of the sara fork. Order of one sample: mirror
draw, random resize, resize and noise, crop draws, then (pixel - mean) * scale in float32, written
mirrored. A mean file is indexed where the pixel was, before cropping and mirroring.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffeio.data.draws import Draws, Word, undecided
from caffeio.data.records.datum import Datum
from caffeio.data.transform import augment, nvidia
from caffeio.data.transform.cubic import ImagePart
from caffeio.data.transform.image import COLOR, GRAY, NATIVE, Encoded, Pixels, decode
from caffeio.data.transform.noise import apply_noise
from caffeio.data.transform.normalize import CropWindow, Fail, Image, Normalizer, default_fail
from caffeio.layers.transforms import check_transform, crop_of, transformed
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import format_shape


class Plan(NamedTuple):
    """What is done to an image of a known size."""

    cut: augment.Cut | None  # what is resized; None: nothing
    window: CropWindow  # of the resized image

    def rows(self) -> int:
        """How many rows of the image are needed, from its top."""
        end = self.window.y + self.window.height
        return end if self.cut is None else self.cut.rows(end)


class Transformer(Normalizer):
    """What `transform_param` makes of an image.

    `mean` is the mean file's array (C, H, W) float32, already read. The profile's data_crop_fields,
    data_crop_before_resize and data_scaled_mean say whose transformer it is.
    """

    def __init__(
        self,
        param: pb.TransformationParameter,
        phase: str,
        *,
        profile: Profile = BVLC,
        mean: NDArray[np.float32] | None = None,
        fail: Fail = default_fail,
    ) -> None:
        super().__init__(param, profile, mean, fail)
        self.phase = phase
        self.crop = int(param.crop_size)
        self.crop_size = crop_of(param, profile)
        self.mirror = bool(param.mirror)
        self.train = phase == "TRAIN"
        self.flag = COLOR if param.force_color else GRAY if param.force_gray else NATIVE
        self.resizes = bool(param.resize_param) or bool(param.noise_param)
        check_transform(param, self._fail)
        for field in ("resize_param", "noise_param"):  # a net may be built without its data
            if len(getattr(param, field)) > 1:
                self._fail("more than one is not implemented", field)
        self._as_nvidia = nvidia.nvidia_resizes(param)
        self._by_shorter_side = param.HasField("random_resize_param")
        self.randomly_resized = (
            self._as_nvidia or self._by_shorter_side or param.HasField("random_aspect_ratio_param")
        )
        # words that a sample draws beforehand, and a guess of how many more it will want
        self.predrawn = int(self.mirror) + 2 * int(self.train and self.crop_size is not None)
        self.lookahead = 0
        if self.randomly_resized or self.resizes:
            self.lookahead = 13 if param.HasField("random_aspect_ratio_param") else 2
        # where samples share a generator, a file that turns out to be broken must draw nothing
        self._by_rows = not self.resizes and self.thread_draws() is not None

    def needs_exact_cubic(self) -> bool:
        """Whether any resizing may be CUBIC, where OpenCV's IPP gives other pixels."""
        p = self.param
        params = [*p.resize_param]
        if p.HasField("random_resize_param"):
            params.append(p.random_resize_param.resize_param)
        if p.HasField("random_aspect_ratio_param"):
            params.append(p.random_aspect_ratio_param.resize_param)
        name = pb.TransformationParameter.InterpolationAlgo.Name
        modes = (name(p.interpolation_algo_down), name(p.interpolation_algo_up))
        return any(pb.ResizeParameter.CUBIC in r.interp_mode for r in params) or (
            nvidia.nvidia_resizes(p) and "INTER_CUBIC" in modes
        )

    def thread_draws(self) -> int | None:
        """Draws from the thread's generator a sample takes; None if they decide anything."""
        p = self.param
        resizes = [*p.resize_param]
        for name in ("random_resize_param", "random_aspect_ratio_param"):
            if p.HasField(name):
                resizes.append(getattr(p, name).resize_param)
        if any(len(r.interp_mode) > 1 for r in resizes) or any(n.saltpepper for n in p.noise_param):
            return None
        return sum(len(r.interp_mode) for r in resizes)

    def predraw(self, height: int, width: int, next_word: Word) -> None:
        """Take from `next_word` what resizing an image of this size takes, and do nothing else."""
        if self.randomly_resized:
            self._random_cut(height, width, Draws((), next_word, undecided))

    # -- image -> window -------------------------------------------------------------------

    def load(self, datum: Datum) -> Image:
        """The pixels of a Datum; encoded ones are decoded as force_color and force_gray say."""
        if datum.encoded:
            return Image(decode(datum.data, self.flag), False)
        return Image(datum.pixels(), True)

    def output_shape(self, image: Image) -> tuple[int, int, int]:
        """(C, H, W) that this image becomes, without drawing anything; checks means and crop."""
        channels, height, width = image.shape
        if len(self.means):
            self.means_of(channels)
        sized = self.randomly_resized or self.resizes or self.scales_first(image)
        if self.mean is not None and not sized:
            self.check_mean(channels, (height, width))
        if self.crop_size and not self.randomly_resized and not self.resizes:
            self._check_crop(height, width)
        channels, height, width = transformed(self.param, self.profile, image.shape)
        if image.planar and not self.crop_size and (height, width) != image.shape[1:]:
            self._fail("bare pixels are not resized: encode the images", "resize_param")
        return channels, height, width

    def _check_crop(self, height: int, width: int) -> None:
        assert self.crop_size is not None
        if height < self.crop_size[0] or width < self.crop_size[1]:
            size = format_shape(dict.fromkeys(self.crop_size), " x ")
            self._fail(
                f"{size} is larger than the image, whose height is {height} and width {width}",
                "crop_size",
            )

    def place(self, image: Image | Encoded, draws: Draws) -> tuple[Image, CropWindow]:
        """Resize `image`, choose the window that is written; pixels beside it may be left out."""
        if isinstance(image, Encoded):
            if self._by_rows:
                plan = self.plan(image.height, image.width, draws)
                return self.follow(Image(image.top(plan.rows()), False), plan)
            image = Image(image.top(image.height), False)
        if self.resizes:
            return self._place_resized(image, draws)
        _, height, width = image.shape
        return self.follow(image, self.plan(height, width, draws))

    def plan(self, height: int, width: int, draws: Draws) -> Plan:
        """Draw what an image of this size draws: what of it is resized, and the window."""
        mirror = self.mirror and draws.next_word() % 2 != 0
        cut = self._random_cut(height, width, draws) if self.randomly_resized else None
        if cut is not None:
            width, height = cut.to
        return Plan(cut, self._window(height, width, mirror, draws))

    def follow(self, image: Image, plan: Plan) -> tuple[Image, CropWindow]:
        """Carry out a plan for this image; rows below what the plan needs may be missing."""
        cut, window = plan
        if cut is None:
            return image, window
        part = ImagePart(window.y, window.x, window.height, window.width)
        pixels = cut.take(self._interleaved(image), part)
        return Image(pixels, False, (window.y, window.x)), window

    def _place_resized(self, image: Image, draws: Draws) -> tuple[Image, CropWindow]:
        """The same with resize_param and noise_param, which change the whole image."""
        mirror = self.mirror and draws.next_word() % 2 != 0
        if self.randomly_resized:
            _, height, width = image.shape
            cut = self._random_cut(height, width, draws)
            image = Image(cut.take(self._interleaved(image)), False)
        before = image
        if not image.planar:
            pixels = image.pixels
            for resize in self.param.resize_param:
                pixels = augment.apply_resize(pixels, resize, draws.thread_rng)
            for noise in self.param.noise_param:
                pixels = apply_noise(pixels, noise, draws.thread_rng)
            image = Image(pixels, False)
        _, height, width = image.shape
        window = self._window(height, width, mirror, draws)
        if self.crop_size is not None and self.profile.data_crop_before_resize:
            self._check_inside(before, window)
            return before, window
        return image, window

    def _window(self, height: int, width: int, mirror: bool, draws: Draws) -> CropWindow:
        """Choose the window of an image of this size."""
        full = (height, width)
        if self.crop_size is None:
            return CropWindow(0, 0, height, width, mirror, full)
        self._check_crop(height, width)
        rows, cols = self.crop_size
        if self.train:
            y = draws.next_word() % (height - rows + 1)
            x = draws.next_word() % (width - cols + 1)
        else:
            y, x = (height - rows) // 2, (width - cols) // 2
        return CropWindow(y, x, rows, cols, mirror, full)

    def _check_inside(self, image: Image, window: CropWindow) -> None:
        """The sara fork cuts the crop out of the image before resize_param and noise_param."""
        _, height, width = image.shape
        if window.y + window.height > height or window.x + window.width > width:
            self._fail(
                f"the crop at row {window.y}, column {window.x} of the resized image lies outside "
                f"of the image before resize_param ({height} x {width}), from which this Caffe "
                "takes the pixels",
                "resize_param",
            )

    def _interleaved(self, image: Image) -> Pixels:
        """The pixels as (H, W[, C]) bytes."""
        pixels = image.pixels
        if image.planar and nvidia.nvidia_resizes(self.param):
            return np.ascontiguousarray(pixels.transpose(1, 2, 0))
        if image.planar:  # the sara fork reads the planes as if they were interleaved
            if pixels.dtype != np.uint8:
                self._fail("a Datum of floats cannot be resized", "random_resize_param")
            channels, height, width = image.shape
            return np.ascontiguousarray(pixels).reshape(height, width, channels)
        return pixels

    def _random_cut(self, height: int, width: int, draws: Draws) -> augment.Cut:
        p, rngs = self.param, (draws.transformer_rng, draws.thread_rng)
        if self._as_nvidia:
            return nvidia.nvidia_resize(height, width, p, draws.transformer_rng)
        if self._by_shorter_side:
            return augment.random_resize(height, width, p.random_resize_param, *rngs)
        aspect = p.random_aspect_ratio_param
        return augment.random_aspect_ratio(height, width, aspect, self.crop, *rngs)
