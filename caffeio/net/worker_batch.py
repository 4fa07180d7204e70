"""The batch of one of several workers, where the file says the batch of all of them together.

Source: NVIDIA's src/caffe/parallel.cpp (P2PSync::divide_batch_size) and net.cpp (Net::Init).
"""

from __future__ import annotations

from dataclasses import replace

from caffeio.errors import NetError
from caffeio.net.graph import is_included
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb

FIELDS = (
    "data_param", "hdf5_data_param", "image_data_param", "memory_data_param", "window_data_param",
)  # fmt: skip


def worker_batch(
    total: int, workers: int, profile: Profile, *, field: str, layer: str, where: str | None = None
) -> int:
    """The images that one of `workers` takes at once, of a `field` with a batch_size of `total`.

    Raises NetError if the profile divides batches, this one among them, and no whole number is
    left: NVIDIA's older Caffes stop there, its later ones train with the next larger batch.
    """
    if not profile.divides_batch or workers == 1 or field not in FIELDS:
        return total
    if total % workers:
        below, above = total - total % workers, total - total % workers + workers
        fits = f"{below} or {above}" if below else str(above)
        raise NetError(
            f"layer {layer!r}: {field}.batch_size {total} is the batch of all workers together "
            f"(Caffe {profile.name!r}), and {workers} workers cannot share it evenly: give {fits}, "
            "or another number of workers",
            where=where,
        )
    return total // workers


def share_batches(recipe: NetRecipe, workers: int) -> NetRecipe:
    """The recipe of the net that each of `workers` builds; the same one where nothing is divided.

    Raises NetError as `worker_batch`, which names the layer's place.
    """
    if not recipe.profile.divides_batch or workers == 1:
        return recipe
    message = pb.NetParameter()
    message.CopyFrom(recipe.message)
    for index, layer in enumerate(message.layer):
        where = recipe.locate(index) or recipe.title or None
        if not is_included(layer, recipe.state, where or ""):
            continue
        for field in FIELDS:
            param = getattr(layer, field)
            if layer.HasField(field) and param.HasField("batch_size"):
                param.batch_size = worker_batch(
                    param.batch_size, workers, recipe.profile, field=field, layer=layer.name,
                    where=where,
                )  # fmt: skip
    return replace(recipe, message=message)
