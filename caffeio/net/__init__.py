"""What a net is: a graph of layers, the module that runs it, and its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.data.base import DataSource as DataSource
    from caffeio.net.load import load_net as load_net
    from caffeio.net.net import Net as Net
    from caffeio.net.recipe import NetRecipe as NetRecipe
    from caffeio.net.step import LearnableParam as LearnableParam
    from caffeio.net.step import Step as Step
    from caffeio.net.step import Trace as Trace

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Net": "caffeio.net.net",
        "load_net": "caffeio.net.load",
        "NetRecipe": "caffeio.net.recipe",
        "DataSource": "caffeio.data.base",
        "LearnableParam": "caffeio.net.step",
        "Step": "caffeio.net.step",
        "Trace": "caffeio.net.step",
    },
)
