"""Fields of forks that change the data and are not read here: told before a source is opened.

`show` warns of them, `lint` finds them, a data source refuses them. A net whose data are given
is built all the same.

The canonical schema numbers what BVLC does not have from 20000 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from caffeio.layers.registry import is_data_type
from caffeio.proto import caffe_pb2 as pb

_FORKS = 20_000
_READ = {
    "transform_param": (
        "resize_param", "noise_param", "emit_constraint", "crop_h", "crop_w", "distort_param",
        "expand_param", "random_resize_param", "random_aspect_ratio_param",
        "img_rand_resize_lower", "img_rand_resize_upper", "rand_resize_ratio_lower",
        "rand_resize_ratio_upper", "vertical_stretch_lower", "vertical_stretch_upper",
        "horizontal_stretch_lower", "horizontal_stretch_upper", "interpolation_algo_down",
        "interpolation_algo_up", "allow_upscale",
    ),
    "data_param": ("shuffle",),
    "image_data_param": ("min_height", "min_width"),
    "annotated_data_param": ("batch_sampler", "label_map_file", "anno_type"),
    "hdf5_data_param": (),
    "memory_data_param": (),
    "window_data_param": (),
    "dummy_data_param": (),
}  # fmt: skip
_HARMLESS = frozenset(  # they change how fast a batch comes, or what is shown meanwhile
    ("use_gpu_transform", "random_seed", "display", "debug_params", "visualize", "threads",
     "parser_threads", "cache", "precache", "share_in_parallel", "dataset_share_per_node")
)  # fmt: skip


def unread_fields(param: pb.LayerParameter) -> Iterator[str]:
    """Find the fields that change a data layer's numbers and that no source here reads: paths."""
    if not is_data_type(param.type):
        return
    for message, read in _READ.items():
        if param.HasField(message):
            for field, value in getattr(param, message).ListFields():
                foreign = field.number >= _FORKS and field.name not in (*read, *_HARMLESS)
                if foreign and not _is_default(field, value):
                    yield f"{message}.{field.name}"


def _is_default(field: Any, value: Any) -> bool:
    plain = not field.is_repeated and field.message_type is None
    return plain and bool(value == field.default_value)
