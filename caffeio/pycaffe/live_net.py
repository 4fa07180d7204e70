"""A net whose blobs are live: layers run one by one on memory that scripts read and write.

Source: src/caffe/net.cpp (Init, ForwardFromTo, BackwardFromTo, Reshape, ClearParamDiffs).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.errors import CaffeIOError
from caffeio.layers import LayerContext
from caffeio.layers.python.native import native_class
from caffeio.net.builder import Assembler, check_param_specs, loss_weights
from caffeio.net.graph import LayerNode, NetGraph
from caffeio.net.net import Net
from caffeio.net.step import Step, Trace, raw_blobs
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.load import Weights
from caffeio.pycaffe.blob import Blob
from caffeio.pycaffe.formula_runners import SwishRunner, make_runner, repeatable
from caffeio.pycaffe.graph_runner import GraphRunner
from caffeio.pycaffe.memory import CPU, Memory
from caffeio.pycaffe.python_layers import LivePython, PythonRunner, is_users, make_python
from caffeio.pycaffe.runners import Runner
from caffeio.pycaffe.sharing_runners import ShareRunner
from caffeio.pycaffe.state import compute_device
from caffeio.pycaffe.weight_runners import ScaleRunner
from caffeio.shape_text import caffe_shape

Hook = Callable[[int], Any]
HOOKS = ("before_forward", "after_forward", "before_backward", "after_backward")


class CaffeError(RuntimeError):
    """What would have ended a real Caffe's process."""


class LiveAssembler(Assembler):
    """Makes the blobs of a net while it sets up the layers: Python layers see the real ones."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.live: dict[str, Blob] = {}
        self.wires: list[tuple[list[Blob], list[Blob]]] = []

    def build(self, node: LayerNode) -> Step:
        """Make the layer of `node` and its blobs."""
        bottoms = [self.live[name] for name in node.param.bottom if name in self.live]
        if self._is_live_python(node):
            step, tops = self._build_python(node, bottoms)
        else:
            step = super().build(node)
            tops = []
            for i, name in enumerate(step.tops):
                in_place = i in node.in_place
                tops.append(self.live[name] if in_place else Blob(step.layer.top_shapes[i]))
        self.live.update(zip(step.tops, tops, strict=True))
        self.wires.append((bottoms, tops))
        return step

    def _is_live_python(self, node: LayerNode) -> bool:
        if node.type != "Python":
            return False
        return native_class(node.param) is None or is_users(node.param, self.search_path)

    def _build_python(self, node: LayerNode, bottoms: list[Blob]) -> tuple[Step, list[Blob]]:
        param = node.param
        if not param.HasField("phase"):
            param.phase = pb.TRAIN if self.graph.phase == "TRAIN" else pb.TEST
        names = tuple(param.top)
        context = LayerContext(
            phase=pb.Phase.Name(param.phase),
            profile=self.profile,
            where=node.where,
            bottom_names=tuple(param.bottom),
            top_names=names,
            allow_python=True,
            search_path=self.search_path,
        )
        layer = make_python(param, context)
        tops = [
            self.live[name] if i in node.in_place else Blob(empty=True)
            for i, name in enumerate(names)
        ]
        layer.start(bottoms, tops)
        layer.bottom_shapes = tuple(blob.shape for blob in bottoms)
        layer.top_shapes = tuple(blob.shape for blob in tops)
        for name, blob in zip(names, tops, strict=True):
            self.blob_shapes[name] = blob.shape
        weights = loss_weights(node, type(layer), len(names))
        learns = tuple(
            i >= len(param.param) or param.param[i].lr_mult != 0 for i in range(len(layer.blobs))
        )
        check_param_specs(node, layer)
        stop = tuple(not flag for flag in node.propagate_down) or (False,) * len(bottoms)
        step = Step(node, layer, tuple(param.bottom), names, weights, stop, learns)
        return step, tops


class LiveNet(Net):
    """A net that runs on blobs.

    `forward` and autograd are replaced by `run_forward(start, end)` and `run_backward(start, end)`,
    which read and write `live[name].data` and `.diff`.
    """

    def __init__(self, graph: NetGraph, **options: Any) -> None:
        super().__init__(graph, **{**options, "allow_python": True})
        self.recording = graph.phase == "TRAIN" or graph.force_backward
        self.hooks: dict[str, list[Hook]] = {name: [] for name in HOOKS}
        self.runners: list[Runner] = []
        self.dialect = "bvlc"  # whose schema a file of its weights has

    def _assemble(self, **options: Any) -> Assembler:
        self._assembler = LiveAssembler(**options)
        return self._assembler

    def initialize(
        self,
        device: torch.device | str = "cpu",
        rng: torch.Generator | CaffeRng | None = None,
        *,
        replaced: Collection[int] = (),
    ) -> LiveNet:
        """Fill the blobs of the layers as the prototxt says, and wire the runners."""
        super().initialize("cpu", rng, replaced=replaced)
        self.live = self._assembler.live
        memories: dict[int, Blob] = {}
        self.blob_of = memories  # by the id of the layers' own tensors
        for step, (bottoms, tops) in zip(self.steps, self._assembler.wires, strict=True):
            params = self._params_of(step, memories)
            if isinstance(step.layer, LivePython):
                runner: Runner = PythonRunner(step, bottoms, tops, params)
            else:
                source = self.sources.get(step.node.key)
                runner = make_runner(step, bottoms, tops, params, source)
            self.runners.append(runner)
        self.loss = torch.zeros(())
        self._mark_backward()
        self._mark_unrepeatable()
        self._begin()
        return self

    @staticmethod
    def _params_of(step: Step, memories: dict[int, Blob]) -> list[Blob]:
        """The blobs of a layer; those of shared params share their memory."""
        if isinstance(step.layer, LivePython):
            step.layer.bind()
            found = list(step.layer.code.blobs)
            for mine, blob in zip(raw_blobs(step.layer), found, strict=True):
                owner = memories.setdefault(id(mine), blob)
                blob.share_data(owner)
                blob.share_diff(owner)
            return found
        out = []
        for mine, spec in zip(raw_blobs(step.layer), step.layer.blob_specs, strict=True):
            owner_blob = memories.get(id(mine))
            blob = Blob(spec.shape)
            if owner_blob is None:
                blob.memory["data"] = Memory(mine.data, pinned=True)
                memories[id(mine)] = blob
            else:
                blob.share_data(owner_blob)
                blob.share_diff(owner_blob)
            out.append(blob)
        return out

    def _mark_backward(self) -> None:
        """Which layers, bottoms and params Caffe computes gradients of."""
        force = self.graph.force_backward
        for step, runner in zip(self.steps, self.runners, strict=True):
            layer = step.layer
            runner.needed = step.needs_backward
            runner.bottom_needs_gradient = list(step.bottom_needs_gradient)
            runner.dies_forward = layer.dies_forward()
            if runner.needed:
                runner.dies_backward = layer.dies_backward(step.bottom_needs_gradient)
            runner.param_needs_gradient = [
                (learn or force) and not spec.statistic
                for learn, spec in zip(step.param_needs_gradient, layer.blob_specs, strict=True)
            ]
            if runner.needed and not layer.heeds_propagate_down:
                runner.bottom_needs_gradient = [i != 1 for i in range(len(runner.bottoms))]
                if layer.learns_all:
                    runner.param_needs_gradient = [True] * len(runner.params)
            for i, need in enumerate(runner.param_needs_gradient):
                raw_blobs(layer)[i].requires_grad_(need)

    def _begin(self) -> None:
        """What Init leaves in the blobs: loss weights, constants, shared memory."""
        for runner in self.runners:
            for i, weight in runner.losses:
                runner.tops[i].diff[...] = weight
            runner.begin()

    # -- running ---------------------------------------------------------------------------

    def run_forward(self, start: int = 0, end: int | None = None) -> Tensor:
        """Run layers `start` to `end` (both included); returns their part of the loss."""
        device = compute_device()
        last = len(self.runners) - 1 if end is None else end
        total: Tensor | None = None
        record = self.recording
        before, after = self.hooks["before_forward"], self.hooks["after_forward"]
        self.trace = []
        with torch.no_grad():
            for i in range(start, last + 1):
                runner = self.runners[i]
                for hook in before:
                    hook(i)
                if runner.dies_forward:
                    self._die(runner, runner.dies_forward)
                try:
                    runner.forward(device, record)
                except (CaffeIOError, RuntimeError, IndexError, TypeError, ValueError) as error:
                    raise self._fault(runner, error) from error
                if runner.losses:
                    part = runner.loss(device)
                    total = part if total is None or part is None else total + part
                if self.keep_trace:
                    self._trace(runner, device)
                for hook in after:
                    hook(i)
        self.loss = total if total is not None else torch.zeros(())
        return self.loss

    def run_backward(self, start: int | None = None, end: int = 0) -> None:
        """Run layers `start` to `end` back (both included), on the diffs that lie in the blobs."""
        device = compute_device()
        first = len(self.runners) - 1 if start is None else start
        if not self.recording:
            self.recording = True
            self._recover(device)
        before, after = self.hooks["before_backward"], self.hooks["after_backward"]
        with torch.no_grad():
            for i in range(first, end - 1, -1):
                runner = self.runners[i]
                for hook in before:
                    hook(i)
                if runner.needed:
                    if runner.dies_backward:
                        self._die(runner, runner.dies_backward)
                    runner.backward(device)
                    if self.trace and self.keep_trace:
                        for value, blob in zip(self.trace[i].bottoms, runner.bottoms, strict=True):
                            value.grad = blob.gradient(device).clone()
                for hook in after:
                    hook(i)

    def _trace(self, runner: Runner, device: torch.device) -> None:
        """Note copies of what a layer read and wrote, for debug_info."""
        tops = tuple(blob.values(device).clone() for blob in runner.tops)
        bottoms = tuple(blob.values(device).clone() for blob in runner.bottoms)
        self.trace.append(Trace(runner.step, bottoms, tops))

    def _fault(self, runner: Runner, error: Exception) -> Exception:
        """The error of a layer, with its name; a Python layer's errors are the script's own."""
        if isinstance(runner, PythonRunner) or isinstance(error, CaffeError):
            return error
        if isinstance(error, CaffeIOError):
            return CaffeError(str(error))
        shapes = ", ".join(caffe_shape(b.shape) for b in runner.bottoms)
        found = runner.layer.error(f"does not fit bottoms of shape {shapes}: {error}")
        return CaffeError(str(found))

    @staticmethod
    def _die(runner: Runner, reason: str) -> None:
        """Raise what would have ended a real Caffe's process."""
        raise CaffeError(str(runner.layer.error(reason)))

    def _recover(self, device: torch.device) -> None:
        """After a forward without graphs: make those of in-place chains, whose inputs are gone."""
        with torch.no_grad():
            for maker, rest in self._chains():
                if maker.must_record or not any(runner.needed for runner in rest):
                    continue
                value = maker.compute(device)
                for runner in rest:
                    value = runner.follow(value, device)

    def _chains(self) -> list[tuple[Runner, list[Runner]]]:
        """Every layer whose top others work on in place, with those, in order."""
        chains: dict[int, tuple[Runner, list[Runner]]] = {}
        for runner in self.runners:
            for top in runner.tops:
                if runner.in_place and id(top) in chains:
                    chains[id(top)][1].append(runner)
                else:
                    chains[id(top)] = (runner, [])
        return [chain for chain in chains.values() if chain[1]]

    def _mark_unrepeatable(self) -> None:
        """Find the layers whose graphs must be kept by every forward, asked for or not."""
        shared = any(isinstance(runner, ShareRunner) for runner in self.runners)
        for maker, rest in self._chains():
            kept = any(isinstance(r, (GraphRunner, SwishRunner, ScaleRunner)) for r in rest)
            stateful = any(isinstance(r, GraphRunner) and r.stateful for r in rest)
            if kept and (shared or stateful or not repeatable(maker)):
                for runner in (maker, *rest):
                    runner.must_record = True
        for runner in self.runners:
            if isinstance(runner, GraphRunner) and runner.stateful:
                runner.must_record = True

    # -- the rest of Net's interface ---------------------------------------------------------

    def forward(self, inputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Run all layers; returns the outputs' tensors."""
        for name, value in (inputs or {}).items():
            self.live[name].set_values(value.to(torch.float32, copy=True).contiguous())
        self.run_forward()
        device = compute_device()
        return {name: self.live[name].values(device) for name in self.graph.outputs}

    def reshape(self) -> None:
        """Let all layers shape their tops by what their bottoms are now; nothing is computed."""
        for runner in self.runners:
            try:
                runner.reshape(runner.bottoms, runner.tops)
            except CaffeIOError as error:
                raise CaffeError(str(error)) from None

    def clear_param_diffs(self) -> None:
        """Set the diffs of all params to zeros."""
        for runner in self.runners:
            for blob in runner.params:
                blob.memory["diff"].zero(blob.count)

    def copy_trained_layers_from(self, weights: Weights) -> list[str]:
        """Copy blobs by layer name; returns the names of source layers that this net lacks."""
        self.to_host()
        ignored = super().copy_trained_layers_from(weights)
        self.host_changed()
        return ignored

    def share_trained_layers_with(self, other: Net) -> None:
        """Use the memory of `other`'s params for the layers of the same name."""
        assert isinstance(other, LiveNet)
        self.share_live(other)

    def blob_arrays(self) -> list[list[np.ndarray]]:
        """The blobs of every layer, newest values, as arrays in main memory."""
        self.to_host()
        return super().blob_arrays()

    def to_host(self) -> None:
        """Let the layers' own parameters be the newest values, in main memory."""
        for runner in self.runners:
            if runner.params:
                runner.ready(CPU)

    def host_changed(self) -> None:
        """Note that the parameters in main memory have been written to."""
        for runner in self.runners:
            for blob in runner.params:
                blob.memory["data"].changed_on(CPU)

    def owned_arrays(self) -> list[list[np.ndarray | None]]:
        """The blobs of every layer, None where another layer owns them: HDF5 stores owners only."""
        seen: set[int] = set()
        out: list[list[np.ndarray | None]] = []
        for layer, arrays in zip(self.layers, self.blob_arrays(), strict=True):
            ids = [id(blob) for blob in raw_blobs(layer)]
            out.append([None if i in seen else a for i, a in zip(ids, arrays, strict=True)])
            seen.update(ids)
        return out

    def share_live(self, other: LiveNet) -> None:
        """Use the parameter memory of `other` for the layers that have the same name there."""
        theirs: dict[str, Runner] = {}
        for runner in other.runners:
            theirs.setdefault(runner.step.node.name, runner)
        for runner in self.runners:
            source = theirs.get(runner.step.node.name)
            if source is None:
                continue
            for mine, blob in zip(runner.params, source.params, strict=True):
                mine.share_data(blob)
            for i, tensor in enumerate(raw_blobs(source.layer)[: len(runner.params)]):
                raw_blobs(runner.layer)[i].data = tensor.data

    def names(self, chosen: Iterable[str]) -> Sequence[int]:
        """The indices of layers by name."""
        return [self.layer_names.index(name) for name in chosen]
