"""Graph -> Net: the layers of a net in one state, as a torch module that runs and trains.

Sources: src/caffe/net.cpp (Init, AppendParam, ForwardFromTo, CopyTrainedLayersFrom, ToProto),
src/caffe/blob.cpp (FromProto), src/caffe/layers/batch_norm_layer.cpp (masking of statistics).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from caffeio._lazy import lazy_names
from caffeio.boost_random import CaffeRng
from caffeio.data import DataSource
from caffeio.errors import CaffeIOError, DataError, NetError
from caffeio.fillers import check_filler, fill
from caffeio.layers.base import BlobSpec
from caffeio.net.builder import (
    Assembler,
    keeps_later,
    learnable_params,
    refusal_backward,
    refusal_forward,
)
from caffeio.net.copy_weights import copy_trained_layers
from caffeio.net.graph import NetGraph
from caffeio.net.memory import (
    Contents,
    needs_memory,
    on_memory,
    overwritten,
)
from caffeio.net.overwritten import Use, plan_memory
from caffeio.net.prepared import Inference
from caffeio.net.refusal import refuse_backward
from caffeio.net.room import check_weights
from caffeio.net.save import save_net
from caffeio.net.sources import close_sources
from caffeio.net.step import (
    AUTOMATIC,
    LearnableParam,
    Shape,
    Step,
    Trace,
    fuse_steps,
    raw_blobs,
    register_layer,
    shown,
)
from caffeio.ops.batch_norm import fused_batch_norm_scale
from caffeio.ops.digits import is_exact
from caffeio.ops.module import Layer
from caffeio.ops.neuron import relu_over
from caffeio.ops.shape import split_in_order
from caffeio.ops.tracing import is_exporting
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.load import Weights
from caffeio.shape_text import caffe_shape

__all__ = ["DataSource", "LearnableParam", "Net", "Step", "Trace"]

_FORWARD_ATTRIBUTES = ("blobs", "loss", "trace")  # attributes that every forward sets


class Net(nn.Module):
    """A Caffe net: `net(inputs)` runs it, autograd gives Caffe's gradients.

    Inputs and outputs are dicts of float32 tensors by blob name. After a forward, `net.loss` is
    the weighted total of the losses (a scalar tensor) and, while `keep_blobs` is set,
    `net.blobs[name]` is every blob (the last value of an in-place chain).
    """

    def __init__(
        self,
        graph: NetGraph,
        *,
        profile: Profile = BVLC,
        sources: Mapping[str, DataSource] | None = None,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        allow_python: bool = False,
        search_path: Iterable[str] = (),
    ) -> None:
        """Build all layers on the meta device; `initialize` gives the blobs memory and values.

        `sources` maps names of data layers to what they read from; without one a data layer's
        tops must be given to `forward`, and their shapes come from `input_shapes` (by blob name)
        or from what the layer's parameters let one guess.
        """
        super().__init__()
        self.graph = graph
        self.profile = profile
        self.sources: dict[str, DataSource] = dict(sources or {})
        self.source_errors: dict[str, CaffeIOError] = {}  # why a data layer has no source
        self.dialect = "bvlc"  # in which `save` writes a .caffemodel
        self.keep_blobs = True  # False: a blob is freed when its last reader has run
        self.prepared = False  # True: TEST without gradients may run as `prepare` says
        self._inference: Inference | None = None  # made at the first forward that may
        self.keep_trace = False  # True: `trace` holds what every layer read and wrote
        self.trace: list[Trace] = []
        self.blobs: Mapping[str, Tensor] = {}
        self.loss: Tensor = torch.zeros(())
        assembler = self._assemble(
            graph=graph,
            profile=profile,
            sources=self.sources,
            input_shapes=input_shapes or {},
            allow_python=allow_python,
            search_path=search_path,
        )
        self.steps: list[Step] = assembler.run()
        self.blob_shapes: dict[str, Shape] = {
            shown(name): shape for name, shape in assembler.blob_shapes.items()
        }
        self._loss_weights = {
            top: weight
            for step in self.steps
            for top, weight in zip(step.tops, step.loss_weights, strict=True)
        }
        self._owners = _param_owners(self.steps)
        self._automatic = [top for s in self.steps for top in s.tops if shown(top) != top]
        self.learnable = learnable_params(self.steps, graph.force_backward)
        self._refusal_forward = refusal_forward(self.steps)  # what Caffe would die of in Forward
        self._refusal = refusal_backward(self.steps)  # what Caffe would die of in Backward
        self._gradient_left: dict[int, Tensor] = {}  # in memory whose gradient is a loss weight
        self._set_plan(self.steps)
        counts: dict[str, int] = {}
        for step in self.steps:
            register_layer(self, step.node.name, step.layer, counts)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FORWARD_ATTRIBUTES:  # torch's own looks through all its registers
            object.__setattr__(self, name, value)
        elif isinstance(value, nn.Module) or name not in self.__dict__.get("_modules", ()):
            super().__setattr__(name, value)
        else:  # a layer may be called as an attribute of the net is: "loss"
            object.__setattr__(self, name, value)

    def _assemble(self, **options: Any) -> Assembler:
        """What sets up the layers and their wiring; a net of another kind may have its own."""
        return Assembler(**options)

    # -- names -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The net's name."""
        return self.graph.name

    @property
    def phase(self) -> str:
        """TRAIN or TEST: chosen when the net is built (train() and eval() do not change it)."""
        return self.graph.phase

    @property
    def layer_names(self) -> list[str]:
        """Names of all layers, splits included, in the order in which they run."""
        return [step.node.name for step in self.steps]

    @property
    def layer_types(self) -> list[str]:
        """Types of all layers, in the same order."""
        return [step.node.type for step in self.steps]

    @property
    def layers(self) -> list[Layer]:
        """The layers' modules, in the same order."""
        return [step.layer for step in self.steps]

    @property
    def inputs(self) -> list[str]:
        """Tops of the Input layers, in order."""
        return list(self.graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer consumes, in Caffe's order (by bytes)."""
        return list(self.graph.outputs)

    def loss_weight_of(self, blob: str) -> float:
        """The loss weight of a blob: that of the layer that makes it last."""
        return self._loss_weights.get(blob, 0.0)

    def owner_of(self, param: str) -> tuple[Step, int] | None:
        """The layer and the index of the blob that owns the shared param called `param`."""
        return self._owners.get(param)

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Blobs by layer name in Caffe's order; of layers with the same name the first."""
        out: dict[str, list[Tensor]] = {}
        for step in self.steps:
            if len(step.layer.blobs) and step.node.name not in out:
                out[step.node.name] = list(step.layer.blobs)
        return out

    # -- memory and values -----------------------------------------------------------------

    def initialize(
        self,
        device: torch.device | str = "cpu",
        rng: torch.Generator | CaffeRng | None = None,
        *,
        replaced: Collection[int] = (),
    ) -> Net:
        """Give all blobs memory on `device` and fill them as the prototxt says, in Caffe's order.

        Every layer draws, a sharer's draws are thrown away. With a CaffeRng the numbers are
        those of real Caffe with that seed. Without one, nothing is drawn for blobs whose ids are
        in `replaced`: their values must be written afterwards.
        """
        if torch.device(device).type == "cpu":
            check_weights(self)
        made: dict[int, nn.Parameter] = {}
        exact = rng if isinstance(rng, CaffeRng) else None
        for step in self.steps:
            layer = step.layer
            layer.rng = exact
            if exact is not None and step.node.key in self.sources:
                self.sources[step.node.key].draw_setup(exact)
            for i, spec in enumerate(layer.blob_specs):
                old = raw_blobs(layer)[i]
                stale = id(old) in made and keeps_later(layer, i)
                skipped = id(old) in replaced and exact is None and not stale
                values = _first_values(layer, spec, rng, skipped=skipped)
                if stale:
                    layer.add_buffer(f"later_{i}", values.numpy())
                if id(old) not in made:
                    made[id(old)] = nn.Parameter(values.to(device), requires_grad=old.requires_grad)
                layer.blobs[i] = made[id(old)]
            for i in layer.filled_again if exact is not None else ():
                spec = layer.blob_specs[i]
                fill(torch.empty(spec.shape), spec.filler, spec.default, rng, owner=layer)
            for module in layer.modules():
                for key, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[key] = buffer.to(device)
        for item in self.learnable:
            item.tensor = made[id(item.tensor)]
        self.loss = torch.zeros((), device=device)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Net:
        """Keep `learnable` true when .to(), .cuda() ... replace tensors."""
        keys = {id(item.tensor): item for item in self.learnable}
        places = [
            (item, layer, i)
            for layer in self.layers
            for i, blob in enumerate(raw_blobs(layer))
            if (item := keys.get(id(blob))) is not None
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._inference = None
        for item, layer, i in places:
            item.tensor = raw_blobs(layer)[i]
        return self

    def copy_trained_layers_from(self, weights: Weights) -> list[str]:
        """Copy blobs by layer name; returns the names of source layers that this net lacks.

        Raises WeightsError when the number of blobs or a shape differs; nothing is copied then.
        """
        return copy_trained_layers(self, weights)

    def share_trained_layers_with(self, other: Net) -> None:
        """Use `other`'s tensors for all layers that have the same name there (test nets do).

        Raises NetError when a shape differs. Source: Net::ShareTrainedLayersWith.
        """
        theirs: dict[str, Layer] = {}
        for step in other.steps:
            theirs.setdefault(step.node.name, step.layer)
        swap: dict[int, nn.Parameter] = {}
        for step in self.steps:
            source = theirs.get(step.node.name)
            if source is None:
                continue
            if len(source.blobs) != len(step.layer.blobs):
                raise NetError(
                    f"layer {step.node.name!r}: incompatible number of blobs: "
                    f"{len(source.blobs)} in the train net, {len(step.layer.blobs)} in this one"
                )
            for i, blob in enumerate(raw_blobs(source)):
                # a blob shared with an owner of another shape counts in its layer's own shape
                there, here = source.blob_specs[i].shape, step.layer.blob_specs[i].shape
                if there != here:
                    raise NetError(
                        f"cannot share param {i} weights from layer {step.node.name!r}; shape "
                        f"mismatch: {caffe_shape(there)} in the train net, {caffe_shape(here)} in "
                        "this one"
                    )
                own = raw_blobs(step.layer)[i]
                if own is not blob and keeps_later(step.layer, i):
                    name = f"later_{i}"
                    if getattr(step.layer, name) is None:
                        step.layer.register_buffer(name, own.detach().clone(), persistent=False)
                swap[id(own)] = blob
                step.layer.blobs[i] = blob
        for item in self.learnable:
            item.tensor = swap.get(id(item.tensor), item.tensor)

    def to_proto(self) -> pb.NetParameter:
        """Name and layers as Caffe's snapshots hold them, without the blobs' payload."""
        net = pb.NetParameter(name=self.graph.name)
        for step in self.steps:
            layer = net.layer.add()
            layer.CopyFrom(step.node.param)
            del layer.blobs[:]
        return net

    def blob_arrays(self) -> list[list[np.ndarray]]:
        """The blobs of every layer in order, as float32 arrays on the CPU (views if there)."""
        return [
            [
                blob.detach().cpu().contiguous().numpy().reshape(spec.kept_shape or blob.shape)
                for blob, spec in zip(layer.blobs, layer.blob_specs, strict=True)
            ]
            for layer in self.layers
        ]

    def save(self, path: str | os.PathLike[str], *, dialect: str | None = None) -> None:
        """Write the weights; the suffix tells the format.

        `.caffemodel` (in `dialect`; default: that of the net's file), `.h5` or `.hdf5` as Caffe's
        snapshots, `.safetensors`, `.pt` or `.pth` (a state_dict for `load_state_dict`) and `.npz`.
        The file appears when it is whole. Raises UnsupportedError for another suffix,
        SnapshotError if it cannot be written, WeightsError if the format cannot hold it,
        DialectError if the dialect cannot express the net.
        """
        save_net(self, path, dialect)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy of the net holds: no data sources, and no blobs of the last forward.

        They belong to one process and to one autograd graph.
        """
        errors = {name: self._no_source(name) for name in self.sources}
        return {
            **self.__dict__, "sources": {}, "source_errors": {**errors, **self.source_errors},
            "trace": [], "blobs": {}, "loss": self.loss.detach().clone(), "_inference": None,
        }  # fmt: skip

    def _no_source(self, name: str) -> CaffeIOError:
        return DataError(
            f"net {self.name!r}: a copy of a net has no data source of its own: give the tops of "
            f"data layer {name!r} as inputs"
        )

    # -- running ---------------------------------------------------------------------------

    def fuse(self) -> Net:
        """Run in-place BatchNorm + Scale (+ ReLU) chains as one native operation.

        The numbers are the same up to rounding, the blobs and parameters stay Caffe's. A ReLU in
        place behind another layer writes over that one's top, with the same numbers.
        """
        self._set_plan(fuse_steps(self.steps))
        self._free_early()
        return self

    def prepare(self, enabled: bool = True) -> Net:
        """Let forwards without gradients run a form made for inference, from the next one on.

        It counts for TEST nets under `torch.no_grad()` or `torch.inference_mode()`:
        BatchNorm, Scale, ReLU and sums are folded into the convolutions before them, whose weights
        are kept packed for this machine. Outputs agree with those of the layers as written up to
        rounding.
        `blobs` are computed by the layers as written when they are asked for. Blobs that change are
        noticed, but for a few single values of a large one written past PyTorch (through `.data`
        or NumPy): call this again then. Nets with random or stateful layers, with hooks, and
        forwards with gradients run as written. `enabled=False` runs all as written.
        """
        self.prepared, self._inference = enabled, None
        return self

    def _set_plan(self, steps: Sequence[Step]) -> None:
        """Run `steps` from now on; note what layers in place do to the memory of others."""
        self._plan = list(steps)
        self._memory = plan_memory(self._plan, gradients=self.profile.gradients_from_memory)
        for step, use in zip(self._plan, self._memory.uses, strict=True):
            step.memory = use
        # constants are filled once: the next pass begins with what layers in place leave there
        written = [name for step in self._plan for name in step.tops]
        self._constants = [
            (step, i, name)
            for step in self._plan
            if step.layer.fills_once
            for i, name in enumerate(step.tops)
            if written.count(name) > 1 or name in self._memory.stale
        ]

    def _free_early(self) -> None:
        """Note after which step a blob is not needed any more."""
        last: dict[str, int] = {}
        for i, step in enumerate(self._plan):
            stale = () if step.memory is None else (name for _, name in step.memory.stale)
            for name in (*step.bottoms, *step.tops, *stale):
                last[name] = i
        writers = self._memory.stale
        kept = {*self.outputs, *(name for _, _, name in self._constants)}
        keep = kept | {writers[name] for name in kept if name in writers}
        free: dict[int, list[str]] = {}
        for name, i in last.items():
            if name not in keep:
                free.setdefault(i, []).append(name)
        for i, step in enumerate(self._plan):
            step.free_after = tuple(free.get(i, ()))

    def forward(self, inputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Run all layers; returns the net's outputs by name.

        `inputs` gives the tops of Input layers, and may give those of data layers; other data
        layers read their source. Raises DataError when neither is there.
        """
        if self._refusal_forward is not None:
            raise self._refusal_forward
        given = inputs or {}
        if is_exporting():  # attributes are no part of a program
            env, _ = self.run_layers(given, keep=self.keep_blobs)
            return {name: env[name] for name in self.graph.outputs}
        if self.trace:
            self.trace = []
        if self.prepared and not (
            torch.is_grad_enabled() or self.keep_trace or torch.compiler.is_compiling()
        ):
            if self._inference is None:
                self._inference = Inference(self)
            if (ready := self._inference.ready()) is not None:
                outputs, loss, self.blobs = self._inference.run(ready, given)
                self._set_loss(loss, outputs)
                return outputs
        env, loss = self.run_layers(given, keep=self.keep_blobs)
        outputs = {name: env[name] for name in self.graph.outputs}
        self._set_loss(loss, outputs)
        self.blobs = env if self.keep_blobs else outputs
        return outputs

    def run_layers(
        self, given: Mapping[str, Tensor], *, keep: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Run the layers as written; returns the blobs (all that there were, with `keep`)."""
        env: dict[str, Tensor] = {}
        loss: Tensor | None = None
        contents = Contents()
        for step in self._plan:
            tops = self._run(step, env, given, contents)
            for name, value in zip(step.tops, tops, strict=True):
                env[name] = value
            for weight, value in zip(step.loss_weights, tops, strict=True):
                if weight:
                    term = self._loss_term(step, value, weight)
                    loss = term if loss is None else loss + term
            if not keep:
                for name in step.free_after:
                    del env[name]
        for name, writer in self._memory.stale.items():
            if name in env:
                env[name] = self._overwritten(env[name], env[writer])
        for step, i, name in self._constants:
            if step.node.key in self.sources and not is_exporting():
                self.sources[step.node.key].overwritten(i, env[name].detach())
        for name in self._automatic if keep else ():
            env[AUTOMATIC] = env.pop(name)
        return env, loss

    def _set_loss(self, loss: Tensor | None, outputs: Mapping[str, Tensor]) -> None:
        self.loss = loss if loss is not None else self._zero(outputs)
        if self._refusal is not None:
            self.loss = refuse_backward(self.loss, self._refusal)

    @staticmethod
    def _zero(outputs: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(outputs.values()), None)
        return torch.zeros(()) if some is None else some.new_zeros(())

    def _loss_term(self, step: Step, value: Tensor, weight: float) -> Tensor:
        """What a top adds to the loss: weight times its sum.

        In place, the weight lies in memory that Backward changes: later passes find that gradient.
        """
        if step.memory is not None and step.memory.losses:
            left = self._gradient_left.get(step.memory.losses[0][1])
            if left is not None:
                return (value * left.view_as(value)).sum()
        term = value.sum() if value.dim() else value
        return term if weight == 1 else term * weight

    def _overwritten(self, blob: Tensor, content: Tensor) -> Tensor:
        return overwritten(blob, content, gradients=self.profile.gradients_from_memory)

    def _run(
        self,
        step: Step,
        env: dict[str, Tensor],
        given: Mapping[str, Tensor],
        contents: Contents,
    ) -> tuple[Tensor, ...]:
        bottoms: tuple[Tensor, ...] = ()
        if step.layer.is_source:
            tops = self.read_data(step, given)
        else:
            bottoms = tuple(
                env[name].detach() if stop else env[name]
                for name, stop in zip(step.bottoms, step.stop_gradient, strict=True)
            )
            if self.keep_trace and torch.is_grad_enabled():
                bottoms = _with_gradients(bottoms, step.bottom_needs_gradient)
            if step.memory is None:
                tops = self._compute(step, bottoms)
            else:
                bottoms, tops = self._compute_on_memory(step, bottoms, env, contents)
        if step.memory is not None:
            self._note(step.memory, tops, contents)
        if self.keep_trace:
            self.trace.append(Trace(step, bottoms, tops))
        return tops

    def _compute(self, step: Step, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if step.fused:
            first, second = step.fused[0].layer, step.fused[1].layer
            if step.fused[1].node.type == "ReLU":
                return (relu_over(second, first(*bottoms)),)
            return (fused_batch_norm_scale(bottoms[0], first, second, relu=len(step.fused) == 3),)
        if step.node.type == "Split":
            if len(step.tops) > 2 and bottoms[0].requires_grad and is_exact(bottoms[0]):
                return split_in_order(bottoms[0], len(step.tops))
            if self.keep_trace:  # aliases, so that each top has a gradient of its own
                return tuple(bottoms[0].view_as(bottoms[0]) for _ in step.tops)
            return (bottoms[0],) * len(step.tops)
        result = step.layer(*bottoms)
        return result if isinstance(result, tuple) else (result,)

    def _compute_on_memory(
        self,
        step: Step,
        bottoms: tuple[Tensor, ...],
        env: dict[str, Tensor],
        contents: Contents,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run a step that reads what was overwritten; returns the bottoms as it found them."""
        use = step.memory
        assert use is not None
        if use.stale:
            found = list(bottoms)
            for i, writer in use.stale:
                found[i] = self._overwritten(found[i], env[writer])
            bottoms = tuple(found)
        if use.lost:
            bottoms = tuple(bottom.detach() for bottom in bottoms)
        if use.overwritten and needs_memory(bottoms, step.layer):
            return bottoms, on_memory(step, bottoms, contents)
        return bottoms, self._compute(step, bottoms)

    def _note(self, use: Use, tops: tuple[Tensor, ...], contents: Contents) -> None:
        """Keep what lies in memory for Backward, and later what Backward leaves there."""
        for i, memory in use.noted:
            top: Any = tops[i]  # torch leaves register_hook untyped
            contents.values[memory] = top.detach()
            hooked = memory in contents.hooked or memory not in self._memory.losses
            if top.requires_grad and not hooked:
                contents.hooked.add(memory)
                top.register_hook(partial(self._gradient_left.__setitem__, memory))

    def read_inputs(self) -> dict[str, Tensor]:
        """The next batch of every data layer that has a source, by blob name."""
        data: dict[str, Tensor] = {}
        for step in self.steps:
            if step.node.key in self.sources:
                data.update(zip(step.tops, self.sources[step.node.key].next(), strict=True))
        return data

    def read_data(self, step: Step, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The tops of a data layer: as given, else its source's next batch."""
        missing = [top for top in step.tops if top not in given]
        if not missing:
            return tuple(given[top] for top in step.tops)
        if step.node.key in self.sources:
            return self.sources[step.node.key].next()
        if step.node.key in self.source_errors:
            raise self.source_errors[step.node.key]
        if step.node.type == "Input":
            raise DataError(
                f"net {self.name!r}: no value is given for input {', '.join(missing)} "
                f"(given: {', '.join(given) or 'nothing'})"
            )
        raise DataError(
            f"net {self.name!r}: data layer {step.node.name!r} (type {step.node.type}) has no "
            f"source: give {', '.join(step.tops)} as inputs",
            where=step.node.where or None,
        )

    def close(self) -> None:
        """Stop the threads and close the files of the data sources; may be called more than once.

        The net goes on working where its data layers' tops are given to `forward`.
        """
        close_sources(self.sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def train(self, mode: bool = True) -> Net:
        """Accepted for PyTorch's sake: a Caffe net's phase is chosen when it is built."""
        super().train(mode)
        return self

    def reset_state(self) -> None:
        """Forget what recurrent layers carry from one forward to the next."""
        for layer in self.layers:
            reset = getattr(layer, "reset_state", None)
            if reset is not None:
                reset()


def _first_values(
    layer: Layer, spec: BlobSpec, rng: torch.Generator | CaffeRng | None, *, skipped: bool
) -> Tensor:
    """Fill a blob as its filler says; `skipped`: only check the filler, values do not matter."""
    values = torch.empty(spec.shape)
    if skipped:
        check_filler(spec.shape, spec.filler, owner=layer)
    else:
        fill(values, spec.filler, spec.default, rng, owner=layer)
        if spec.initial is not None:
            values.copy_(torch.as_tensor(spec.initial))
    return values if spec.kept_shape is None else values.reshape(spec.kept_shape)


def _with_gradients(bottoms: tuple[Tensor, ...], needs: Sequence[bool]) -> tuple[Tensor, ...]:
    """Ask for gradients that Caffe computes though nothing below learns: debug_info shows them."""
    return tuple(
        x.detach().requires_grad_() if need and not x.requires_grad else x
        for x, need in zip(bottoms, needs, strict=True)
    )


def _param_owners(steps: Iterable[Step]) -> dict[str, tuple[Step, int]]:
    """The layer and the index of the first blob of each param name: the one that owns it."""
    owners: dict[str, tuple[Step, int]] = {}
    for step in steps:
        for i, spec in enumerate(step.node.param.param):
            if spec.name:
                owners.setdefault(spec.name, (step, i))
    return owners


# `from caffeio.net.net import load_net` is how it was found before it had a file of its own
__getattr__, __dir__, _ = lazy_names(__name__, {"load_net": "caffeio.net.load"})
