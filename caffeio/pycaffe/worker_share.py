"""What of a net's data is this process's, where scripts have set a number of solvers.

Sources: src/caffe/layers/data_layer.cpp (Skip), NVIDIA's src/caffe/net.cpp (Init).
"""

from __future__ import annotations

from dataclasses import replace

from caffeio.data import Options
from caffeio.net.recipe import NetRecipe
from caffeio.net.worker_batch import share_batches
from caffeio.proto import caffe_pb2 as pb
from caffeio.pycaffe.state import state


def own_batches(recipe: NetRecipe) -> NetRecipe:
    """The recipe with this solver's part of each batch, where batches are those of all solvers.

    Raises NetError if they cannot be shared evenly.
    """
    return share_batches(recipe, state.solver_count)


def own_records(recipe: NetRecipe, data: Options) -> Options:
    """`data` with this solver's share of the records of a training net; a test reads all."""
    if recipe.state.phase != pb.TRAIN:
        return data
    return replace(data, rank=state.solver_rank, world=state.solver_count)
