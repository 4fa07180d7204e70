"""A TEST net prepared for inference: fewer operations, packed weights, the same outputs.

BatchNorm, Scale, ReLU and sums are folded into the convolution before them, Split and Dropout
vanish, ReLU writes in place, values are freed when their last reader has run. Outputs agree with
those of the layers as written up to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from caffeio.errors import NetError
from caffeio.net.image_slices import parts_of
from caffeio.net.late_blobs import LateBlobs
from caffeio.net.overwritten import MemoryPlan, plan_memory
from caffeio.net.step import Step, raw_blobs
from caffeio.net.values import Operation, Program, program_of
from caffeio.net.watch import Watch
from caffeio.ops.batch_norm import fused_batch_norm_scale
from caffeio.ops.folded_conv import FoldedConvolution, can_fold
from caffeio.ops.lrn import lrn_in_pieces
from caffeio.ops.pooling import PoolAtShape
from caffeio.ops.quick_dense import QuickDense


def can_prepare(net_phase: str, steps: Sequence[Step], memory: MemoryPlan) -> bool:
    """Whether a net may be prepared: in TEST, made of pure layers, nothing overwritten unseen."""
    if net_phase != "TEST" or memory.stale:
        return False
    if any(use is not None and (use.stale or use.losses) for use in memory.uses):
        return False
    return all(_is_pure(step) for step in steps)


def _is_pure(step: Step) -> bool:
    layer = step.layer
    return layer.is_source or (layer.pure and not layer.train_phase)


def _is_same(step: Step) -> bool:
    """Whether the tops are the bottom under other names."""
    layer: Any = step.layer
    return step.node.type == "Split" or (step.node.type == "Dropout" and layer.factor == 1)


Hooks = Sequence[Mapping[Any, Any]]


def hooks_of(modules: Iterable[nn.Module]) -> Hooks:
    """The registers of forward hooks of `modules` and of all modules: empty, as a rule."""
    everywhere: Any = nn.modules.module
    own = [each for m in modules for each in (m._forward_hooks, m._forward_pre_hooks)]
    return [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks, *own]


def can_run_now(hooks: Hooks) -> bool:
    """Whether a forward without gradients may run prepared: no hooks, no tracer, no transform."""
    return not (
        any(hooks)
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def can_run_on(blobs: Sequence[Tensor]) -> bool:
    """Whether blobs are where a prepared net runs: float32, on the CPU or all on one CUDA GPU."""
    kinds = {blob.device.type for blob in blobs}
    if any(blob.dtype != torch.float32 for blob in blobs) or not kinds <= {"cpu", "cuda"}:
        return False
    return len({blob.device for blob in blobs}) <= 1


def is_recording() -> bool:
    """Whether a CUDA graph is being recorded: then nobody may wait, as `Watch` does."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


class Prepared:
    """What runs in place of a net's layers, as long as `watch` sees no change of their blobs."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[str]) -> None:
        self.program = program_of(steps, outputs, _is_same)
        _fold_chains(self.program)
        _fold_sums(self.program)
        _join_norms(self.program)
        _write_over(self.program)
        _call_directly(self.program)
        self.program.set_free()
        self._parts = parts_of(self.program)
        self.watch = Watch([step.layer for step in steps if len(step.layer.blobs)])

    def run(self, sources: Sequence[tuple[Tensor, ...]]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute the outputs and the loss from the tops of every source, in the net's order."""
        program = self.program
        values: list[Any] = [None] * program.count
        for (_, written), tops in zip(program.sources, sources, strict=True):
            for value, top in zip(written, tops, strict=True):
                values[value] = top
        for run in self._parts:
            run(values)
        loss: Tensor | None = None
        for value, weight in program.losses:
            top = values[value]
            term = top.sum() if top.dim() else top
            term = term if weight == 1 else term * weight
            loss = term if loss is None else loss + term
        return {name: values[value] for name, value in program.outputs.items()}, loss


def _is_fresh(operation: Operation) -> bool:
    return operation.fresh or (operation.step.layer.fresh and len(operation.writes) == 1)


def _only_reader(program: Program, value: int, readers: Mapping[int, list[Operation]]) -> Any:
    """The operation that alone reads `value`, or None."""
    found = readers.get(value, [])
    return found[0] if len(found) == 1 and value not in program.requested else None


def _fold_chains(program: Program) -> None:
    """Let each convolution of images take in what follows it and only it."""
    readers = program.readers()
    gone: set[Operation] = set()
    for operation in program.operations:
        if len(operation.reads) != 1 or not can_fold(operation.step.layer):
            continue
        conv: Any = operation.step.layer
        made = FoldedConvolution(conv)
        while made.slope is None:
            following = _only_reader(program, operation.writes[0], readers)
            if following is None or not _take_in(made, following.step):
                break
            operation.writes = following.writes
            gone.add(following)
        operation.run, operation.fresh = made, True
    program.operations = [item for item in program.operations if item not in gone]


def _take_in(made: FoldedConvolution, step: Step) -> bool:
    """Fold the layer of `step` if it can be; returns whether it was."""
    type_name, layer = step.node.type, step.layer
    unknown: Any = layer
    if type_name == "ReLU":
        made.slope = unknown.slope
        return True
    free = made.scale is None and len(step.bottoms) == 1
    if type_name == "BatchNorm" and free and made.norm is None:
        made.norm = unknown
    elif type_name == "Scale" and free and unknown.fusible:
        made.scale = unknown
    else:
        return False
    if not made.is_finite():
        setattr(made, "norm" if type_name == "BatchNorm" else "scale", None)
        return False
    if type_name == "BatchNorm" and unknown.relu:
        made.slope = 0.0
    return True


def _fold_sums(program: Program) -> None:
    """Let a convolution add the other bottom of the Eltwise sum (and ReLU) that alone reads it."""
    for operation in list(program.operations):
        layer: Any = operation.step.layer
        if operation.step.node.type != "Eltwise" or len(operation.reads) != 2:
            continue
        if layer.operation != "SUM" or list(layer.coeff) != [1, 1] or layer.loses_first:
            continue
        _fold_sum(program, operation)


def _fold_sum(program: Program, add: Operation) -> None:
    readers, makers = program.readers(), program.makers()
    order = {item: i for i, item in enumerate(program.operations)}
    found = [
        makers[value]
        for value in add.reads
        if value in makers and _only_reader(program, value, readers) is add
    ]
    convs = [
        op for op in found
        if isinstance(op.run, FoldedConvolution) and op.run.slope is None and not op.run.adds
    ]  # fmt: skip
    if not convs or add.reads[0] == add.reads[1]:
        return
    conv = max(convs, key=order.__getitem__)
    made: Any = conv.run
    (other,) = (value for value in add.reads if value != conv.writes[0])
    made.adds = True
    maker = makers.get(other)
    made.in_place = (
        maker is not None
        and _is_fresh(maker)
        and all(_is_fresh(reader) for reader in readers[other])  # none looks into its memory
        and max(readers[other], key=order.__getitem__) is add
        and other not in (*program.requested, conv.reads[0])
    )
    relu = _only_reader(program, add.writes[0], readers)
    gone = [conv]
    if relu is not None and relu.step.node.type == "ReLU":
        made.slope = relu.step.layer.slope
        add.writes = relu.writes
        gone.append(relu)
    add.reads, add.run, add.fresh = [conv.reads[0], other], made, True
    program.operations = [item for item in program.operations if item not in gone]


def _join_norms(program: Program) -> None:
    """Run BatchNorm + Scale (+ ReLU) without a convolution before them as one operation."""
    readers = program.readers()
    gone: set[Operation] = set()
    for operation in program.operations:
        norm: Any = operation.step.layer
        if operation.step.node.type != "BatchNorm" or not norm.fusible or operation in gone:
            continue
        scale = _only_reader(program, operation.writes[0], readers)
        if scale is None or scale.step.node.type != "Scale" or not scale.step.layer.fusible:
            continue
        operation.writes, relu = scale.writes, False
        gone.add(scale)
        behind = _only_reader(program, operation.writes[0], readers)
        if behind is not None and behind.step.node.type == "ReLU" and not behind.step.layer.slope:
            operation.writes, relu = behind.writes, True
            gone.add(behind)
        operation.run = partial(
            fused_batch_norm_scale, norm=norm, scale=scale.step.layer, relu=relu
        )
        operation.fresh = True
    program.operations = [item for item in program.operations if item not in gone]


def _write_over(program: Program) -> None:
    """Let ReLU work in place where nothing else reads its bottom."""
    readers, makers = program.readers(), program.makers()
    for operation in program.operations:
        if operation.step.node.type != "ReLU" or len(operation.reads) != 1:
            continue
        maker = makers.get(operation.reads[0])
        alone = _only_reader(program, operation.reads[0], readers) is operation
        if maker is not None and alone and _is_fresh(maker):
            layer: Any = operation.step.layer
            slope = layer.slope
            operation.run = (
                partial(torch.nn.functional.leaky_relu_, negative_slope=slope)
                if slope else torch.relu_
            )  # fmt: skip


def _call_directly(program: Program) -> None:
    """Compute Softmax of few numbers as that of many, not digit by digit as Caffe does.

    And a plain dense layer in one call: its blobs stay the same tensors, or all is made anew. The
    windows of a pooling are worked out once.
    """
    for operation in program.operations:
        layer: Any = operation.step.layer
        type_name = operation.step.node.type
        if type_name == "Softmax":
            operation.run = partial(torch.softmax, dim=layer.dim)
        plain = type_name == "InnerProduct" and not layer.transpose and not layer.relu
        if plain and layer.start == 1:
            operation.run = QuickDense(layer)
        if type_name == "Pooling" and not (layer.is_global and layer.method == "AVE"):
            operation.run = PoolAtShape(layer)
        if type_name == "LRN":
            operation.run = partial(lrn_in_pieces, layer)


class PreparableNet(Protocol):
    """What is asked of the net that is prepared."""

    steps: list[Step]
    keep_blobs: bool

    @property
    def name(self) -> str:
        """The net's name."""

    @property
    def phase(self) -> str:
        """TRAIN or TEST."""

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer consumes."""

    def modules(self) -> Iterator[nn.Module]:
        """The modules of all layers."""

    def read_data(self, step: Step, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The tops of a data layer."""

    def run_layers(
        self, given: Mapping[str, Tensor], *, keep: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Run the layers as written; returns the blobs and the loss."""


class Inference:
    """The prepared form of one net, made when it first runs."""

    def __init__(self, net: PreparableNet) -> None:
        self._net = weakref.proxy(net)
        self._possible = can_prepare(net.phase, net.steps, plan_memory(net.steps, gradients=False))
        self._on_gpu = any(blob.is_cuda for blob in self._blobs())
        self._hooks = hooks_of(net.modules())
        self._prepared: Prepared | None = None

    def _blobs(self) -> list[nn.Parameter]:
        return [blob for step in self._net.steps for blob in raw_blobs(step.layer)]

    def ready(self) -> Prepared | None:
        """What the next forward may run, made anew if blobs have changed; None: as written."""
        if not self._possible or not can_run_now(self._hooks):
            return None
        if self._on_gpu and is_recording():
            return None
        if self._prepared is None or self._prepared.watch.has_changed():
            self._prepared = None
            if can_run_on(self._blobs()):
                self._prepared = Prepared(self._net.steps, self._net.outputs)
        return self._prepared

    def run(
        self, prepared: Prepared, given: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor | None, Mapping[str, Tensor]]:
        """Run the net; returns outputs, loss and all blobs, or only the outputs again."""
        net = self._net
        read = [(step, net.read_data(step, given)) for step, _ in prepared.program.sources]
        outputs, loss = prepared.run([tops for _, tops in read])
        if not net.keep_blobs:
            return outputs, loss, outputs
        kept = {
            name: top.clone()
            for step, tops in read
            for name, top in zip(step.tops, tops, strict=True)
        }
        return outputs, loss, LateBlobs(outputs, partial(self._as_written, kept, prepared.watch))

    def _as_written(self, inputs: Mapping[str, Tensor], watch: Watch) -> dict[str, Tensor]:
        if watch.has_changed():
            raise NetError(
                f"net {self._net.name!r}: its blobs have changed since the forward whose values "
                "are asked for: run it again"
            )
        with torch.no_grad():
            blobs: dict[str, Tensor] = self._net.run_layers(inputs, keep=True)[0]
        return blobs
