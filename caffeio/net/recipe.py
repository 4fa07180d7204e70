"""From a file to a net, told once: which layers, in which state, by whose rules, built how."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from caffeio.errors import CaffeIOError, Locator, NetError
from caffeio.memory import collector_paused
from caffeio.net.graph import NetGraph, build_graph, net_state
from caffeio.net.unknown_fields import of_active_layers, refuse_unknown
from caffeio.profiles import Profile, choose_profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.text.overrides import apply_overrides
from caffeio.proto.text.text_format import UnknownField

if TYPE_CHECKING:
    import torch

    from caffeio.boost_random import CaffeRng
    from caffeio.data.base import Options
    from caffeio.net.net import Net
    from caffeio.proto.weights.load import Weights

Shapes = Mapping[str, Sequence[int]]


def folders_of(path: Path | None) -> tuple[str, ...]:
    """Where relative paths of a file are looked up: the working directory, then beside the file."""
    return ("", str(path.resolve().parent)) if path else ("",)


def _no_place(index: int) -> str:
    return ""


@dataclass(frozen=True)
class NetRecipe:
    """Everything that decides which net a file becomes. Nothing is built, and no torch needed yet.

    `message` is the net as read, upgraded and changed by the user's overrides; `state` the phase,
    level and stages that filter its layers; `profile` the Caffe whose numbers are computed;
    `search_path` the folders in which relative paths are looked up. `input_shapes` gives shapes of
    data layers' tops by blob name, where their source does not.
    """

    message: pb.NetParameter
    state: pb.NetState
    profile: Profile
    dialect: str = "bvlc"
    title: str = ""  # as Caffe's log calls it: "net file: net.prototxt"
    search_path: tuple[str, ...] = ("",)
    locate: Locator = _no_place  # layer i of the message -> "file:line:column"
    unknown: Sequence[UnknownField] = ()
    upgrade_log: Sequence[tuple[str, str]] = ()  # Caffe's lines about the upgrade, with severity
    inline: bool = False  # written into the solver
    is_text: bool = False  # as written; blobs of a binary net tell only shapes
    allow_python: bool = False
    input_shapes: Shapes = field(default_factory=dict)

    def __post_init__(self) -> None:
        apply_stats_batch_size(self.message)

    @classmethod
    def of_file(
        cls,
        file: NetFile,
        *,
        phase: str = "TEST",
        level: int = 0,
        stages: Iterable[str] = (),
        profile: str | Profile | None = None,
        overrides: Sequence[str] = (),
        title: str = "",
        allow_python: bool = False,
        input_shapes: Shapes | None = None,
        ignore_unknown: bool = False,
    ) -> Self:
        """The recipe of a file alone, as Caffe's tools read one.

        `profile` is a name, or None for that of the file's dialect. `overrides` are `KEY=VALUE`
        changes. Raises NetError for an unknown phase, ParseError for a field that no known Caffe
        has in a layer that takes part, unless `ignore_unknown`.
        """
        if phase not in ("TRAIN", "TEST"):
            raise NetError(f"phase must be TRAIN or TEST, not {phase!r}")
        apply_overrides(file.message, overrides)
        recipe = cls(
            file.message,
            net_state(file.message, phase, level, stages),
            choose_profile(profile, file.dialect),
            file.dialect,
            title,
            folders_of(file.path),
            lambda index: file.locate("layer", index),
            file.unknown,
            file.upgraded.log if file.upgraded else (),
            is_text=file.text is not None,
            allow_python=allow_python,
            input_shapes=input_shapes or {},
        )
        recipe.check_unknown(ignore_unknown)
        return recipe

    @classmethod
    def of_tool(
        cls,
        model: str | os.PathLike[str],
        *,
        phase: str,
        level: int = 0,
        stages: Iterable[str] = (),
        profile: str | Profile | None = None,
        overrides: Sequence[str] = (),
        allow_python: bool = False,
        ignore_unknown: bool = False,
    ) -> Self:
        """The recipe of a file as the program `caffe` reads one: its title, its empty stage."""
        return cls.of_file(
            read_net(model), phase=phase, level=level, stages=list(stages) or [""],
            profile=profile, overrides=overrides, title=f"net file: {model}",
            allow_python=allow_python, ignore_unknown=ignore_unknown,
        )  # fmt: skip

    def check_unknown(self, ignore: bool = False) -> None:
        """Refuse fields that no known Caffe has, in layers that take part in this state."""
        if not ignore:
            refuse_unknown(of_active_layers(self.unknown, self.message, self.state))

    def check_sources(self) -> None:
        """Raise DataError if a data layer names what is not there; nothing is opened or built."""
        from caffeio.net.sources import check_sources

        check_sources(self.graph(), self.profile, self.search_path)

    @collector_paused()
    def graph(self) -> NetGraph:
        """The layers that take part, wired, with splits; as the profile merges them."""
        return build_graph(
            self.message,
            state=self.state,
            locate=self.locate,
            is_text=self.is_text,
            profile=self.profile,
        )

    @collector_paused()
    def build(
        self,
        *,
        device: torch.device | str = "cpu",
        rng: torch.Generator | CaffeRng | None = None,
        data: Options | None = None,
        missing_data_ok: bool = False,
        graph: NetGraph | None = None,
        net_class: type[Net] | None = None,
        weights: Iterable[Weights] = (),
    ) -> Net:
        """Build the net and fill its blobs on `device`; on "meta" it has shapes only.

        data: how the sources of data layers are opened; None opens none, their tops must then be
            given to every forward. With `missing_data_ok` a source that cannot be opened is noted
            in `net.source_errors`; else it raises.
        rng: a CaffeRng draws fillers and sources as real Caffe does, in its order.
        graph: one that `graph()` has made, to be built as it is.
        net_class: the kind of net to make; Net if it is not given.
        weights: what is copied into the blobs, in this order; without an `rng` nothing is drawn
            for blobs that they replace.

        Raises CaffeIOError; sources that were opened are closed then.
        """
        from caffeio.net.copy_weights import replaced_blobs
        from caffeio.net.net import Net
        from caffeio.net.sources import close_sources, open_sources

        graph = graph or self.graph()
        errors: dict[str, CaffeIOError] = {}
        sources = {}
        if data is not None:
            noted = errors if missing_data_ok else None
            sources = open_sources(graph, self.profile, self.search_path, data, errors=noted)
        try:
            net = (net_class or Net)(
                graph,
                profile=self.profile,
                sources=sources,
                input_shapes=self.input_shapes,
                allow_python=self.allow_python,
                search_path=self.search_path,
            )
            net.source_errors = errors
            net.dialect = self.dialect
            if str(device) != "meta":
                given = list(weights)  # opened here: an error of the net or its data comes first
                found = [replaced_blobs(net, item) for item in given] if rng is None else []
                net.initialize(device, rng, replaced=set().union(*found))
                for item in given:
                    net.copy_trained_layers_from(item)
        except BaseException:
            close_sources(sources)
            raise
        return net


def apply_stats_batch_size(net: pb.NetParameter) -> None:
    """The net's field counts for all its BatchNorms (Intel's apply_bn_stats_batch_size.cpp)."""
    if net.bn_stats_batch_size:
        for layer in net.layer:
            if layer.type == "BatchNorm":
                layer.batch_norm_param.stats_batch_size = net.bn_stats_batch_size
