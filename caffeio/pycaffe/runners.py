"""One runner a layer: forward and backward on the memory of its blobs, as Caffe's layers do.

A layer's values come from its torch module. Its gradients come from a graph of this layer alone,
kept from the forward, or from a formula where Caffe's Backward reads blobs that may have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from caffeio.net.step import Step
from caffeio.pycaffe.blob import Blob
from caffeio.pycaffe.formulas import Formula, formula_of, formula_of_top
from caffeio.pycaffe.memory import CPU
from caffeio.shapes.base import infer

# What these need in Backward is the layer's own copy in Caffe: later writers do not matter.
KEPT = frozenset(
    ("BatchNorm", "BN", "Dropout", "SpatialDropout", "Pooling", "L2Normalize", "Normalize",
     "LSTMUnit")
)  # fmt: skip
# In place these keep a copy; elsewhere they read the bottom when they go back.
KEPT_IN_PLACE = frozenset(("Scale", "PReLU", "Bias"))
# Their graph holds the bottom's memory itself, so that what a script writes there is seen.
HOLDS_BOTTOM = frozenset(("Convolution", "Deconvolution", "InnerProduct"))


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """What a layer returned, as a tuple of tops."""
    return result if isinstance(result, tuple) else (result,)


def place(value: Tensor) -> int:
    """Where a tensor's memory begins: equal for tensors that share it."""
    return value.untyped_storage().data_ptr()


def dense(value: Tensor) -> Tensor:
    """A tensor without holes or repeats."""
    if value.is_contiguous():
        return value
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return value
    return value.contiguous()


class Runner:
    """Runs one layer; subclasses say how."""

    has_backward: ClassVar[bool] = True

    def __init__(
        self, step: Step, bottoms: Sequence[Blob], tops: Sequence[Blob], params: Sequence[Blob]
    ) -> None:
        self.step, self.layer, self.kind = step, step.layer, step.node.type
        self.bottoms, self.tops, self.params = list(bottoms), list(tops), list(params)
        self.needed = False  # whether Caffe runs its backward
        self.bottom_needs: list[bool] = [False] * len(self.bottoms)
        self.param_needs: list[bool] = [False] * len(self.params)
        self.in_place = bool(self.tops) and any(t is b for t in self.tops for b in self.bottoms)
        self.must_record = False  # its forward cannot be repeated when a backward comes
        self.losses = [(i, w) for i, w in enumerate(step.loss_weights) if w]

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops; `record` what the backward needs."""
        raise NotImplementedError

    def backward(self, device: torch.device) -> None:
        """Compute the bottoms' diffs from the tops', and add to the diffs of the params."""
        raise NotImplementedError

    def begin(self) -> None:
        """Do what Caffe's SetUp does to the blobs, besides giving them shapes."""

    def reshape(self, bottoms: Sequence[Blob], tops: Sequence[Blob]) -> None:
        """Shape `tops` by the shapes of `bottoms`; shapes that depend on data stay."""
        if self.layer.is_source:
            return
        shapes = [blob.shape for blob in bottoms]
        found = infer(
            self.kind, self.layer.param, shapes, self.layer.profile, top_count=len(tops)
        ).tops
        for top, shape in zip(tops, found, strict=True):
            if shape is not None and min(shape, default=0) >= 0 and shape != top.shape:
                top.reshape(*shape)

    def compute(self, device: torch.device) -> Tensor:
        """The first top's data, computed anew; the blobs stay as they are."""
        if self.params:
            self.ready(device)
        return as_tuple(self.layer(*self.values(device)))[0].detach()

    def follow(self, value: Tensor, device: torch.device) -> Tensor:
        """What an in-place layer makes of `value`; its graph is kept, the blobs stay."""
        return as_tuple(self.layer(*self._with(value, device)))[0].detach()

    def _with(self, value: Tensor, device: torch.device) -> list[Tensor]:
        """The bottoms' data, with `value` in the place of what the layer writes over."""
        return [value if b is self.tops[0] else b.values(device) for b in self.bottoms]

    def values(self, device: torch.device) -> list[Tensor]:
        """The data of the bottoms."""
        return [blob.values(device) for blob in self.bottoms]

    def ready(self, device: torch.device) -> None:
        """Bring the newest values of the params to `device`."""
        for i, blob in enumerate(self.params):
            value = blob.values(device)
            mine = self.layer.blobs[i]
            if mine.data_ptr() != value.data_ptr():
                mine.data = value.view(mine.shape)

    def store(self, tops: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Let the results be the data of the tops; what shares memory with others is copied."""
        taken = {place(value) for value in values}
        taken.update(place(blob) for blob in self.layer.blobs)
        for blob, top in zip(self.tops, tops, strict=True):
            out = dense(top.detach())
            if out.dtype != torch.float32:
                out = out.float()
            where = place(out)
            if where in taken and out.numel():
                if self.in_place and out.data_ptr() == blob.values(out.device).data_ptr():
                    continue
                out = out.clone(memory_format=torch.contiguous_format)
            taken.add(where)
            blob.set_values(out)

    def loss(self, device: torch.device) -> Tensor | None:
        """The sum of the tops weighted by their diffs, which hold the loss weights."""
        total: Tensor | None = None
        for i, _ in self.losses:
            term = self.tops[i].values(device) * self.tops[i].gradient(device)
            term = term.sum() if term.dim() else term
            total = term if total is None else total + term
        return total


class GraphRunner(Runner):
    """Keeps the graph of this layer between forward and backward."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.graph: tuple[list[Tensor], tuple[Tensor, ...]] | None = None
        self.seen: list[int] = []
        self.seen_tops: list[int] = []
        kept_here = self.in_place and self.kind in KEPT_IN_PLACE
        self.kept = self.kind in KEPT or kept_here or self.layer.is_loss
        self.top_formula = formula_of_top(self.layer)

    def forward(self, device: torch.device, record: bool) -> None:
        values = self.values(device)
        if self.params:
            self.ready(device)
        if not (record or self.must_record) or not self.needed:
            self.graph = None
            self.store(as_tuple(self.layer(*values)), values)
            return
        tops = self.trace(values)
        self.store(tops, values)
        self.seen = [blob.memory["data"].version for blob in self.bottoms]
        if self.top_formula is not None:
            self.seen_tops = [blob.memory["data"].version for blob in self.tops]

    def follow(self, value: Tensor, device: torch.device) -> Tensor:
        if self.params:
            self.ready(device)
        top = self.trace(self._with(value, device), guard=False)[0].detach()
        self.seen = [blob.memory["data"].version for blob in self.bottoms]
        return top

    def trace(self, values: Sequence[Tensor], *, guard: bool = True) -> tuple[Tensor, ...]:
        """Run the layer with a graph that begins at its bottoms.

        What it keeps of them must not change later: `guard` sees to it.
        """
        leaves = []
        for blob, value, need in zip(self.bottoms, values, self.bottom_needs, strict=True):
            if self.kept and guard:
                memory = blob.memory["data"]
                if memory.held:
                    value = value.clone()
                else:
                    memory.guarded = True
            leaves.append(value.data.requires_grad_(need))
        with torch.enable_grad():
            tops = as_tuple(self.layer(*leaves))
        self.graph = (leaves, tops)
        return tops

    @property
    def stateful(self) -> bool:
        """Whether another forward would not give the same: it draws, or moves something on."""
        layer: Any = self.layer
        if self.kind in ("BatchNorm", "BN"):
            return not getattr(layer, "use_global", False)
        if self.kind == "Dropout":
            return bool(layer.drops)
        return hasattr(layer, "reset_state")

    def is_stale(self) -> bool:
        """Whether what Caffe's Backward would read has changed since the forward."""
        assert self.graph is not None
        if self.kept or self.stateful:
            return False
        if self.kind in HOLDS_BOTTOM:
            now = self.bottoms[0].values(self.graph[0][0].device)
            return now.data_ptr() != self.graph[0][0].data_ptr()
        return self.seen != [blob.memory["data"].version for blob in self.bottoms]

    def top_changed(self) -> bool:
        """Whether a top is not what the layer made, where that matters."""
        if self.top_formula is None:
            return False
        return self.seen_tops != [blob.memory["data"].version for blob in self.tops]

    def rebuild(self, device: torch.device) -> None:
        """Make the graph of what the bottoms hold now; the tops stay as they are."""
        if self.params:
            self.ready(device)
        self.trace(self.values(device))
        self.seen = [blob.memory["data"].version for blob in self.bottoms]

    def backward(self, device: torch.device) -> None:
        if self.top_formula is not None and self.top_changed():
            bottom, top = self.bottoms[0], self.tops[0]
            given = top.gradient(device)
            found = self.top_formula(
                self.layer, bottom.values(device), top.values(device), given
            )
            self.give([0], [found], [given])
            return
        if self.graph is None or self.is_stale():
            self.rebuild(device)
        assert self.graph is not None
        leaves, tops = self.graph
        pairs = [(o, t) for o, t in zip(tops, self.tops, strict=True) if o.requires_grad]
        wanted = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
        learned = [i for i, need in enumerate(self.param_needs) if need]
        inputs = [leaves[i] for i in wanted] + [self.layer.blobs[i] for i in learned]
        if not pairs or not inputs:
            self.give(wanted, [None] * len(wanted), [])
            return
        outs = [out for out, _ in pairs]
        given = [top.gradient(device) for _, top in pairs]
        found = torch.autograd.grad(outs, inputs, given, retain_graph=True, allow_unused=True)
        self.give(wanted, found[: len(wanted)], given)
        self.learn(learned, found[len(wanted) :])

    def give(
        self, wanted: Sequence[int], found: Sequence[Tensor | None], given: Sequence[Tensor]
    ) -> None:
        """Let the gradients found be the diffs of the bottoms."""
        taken = {place(value) for value in given}
        for i, value in zip(wanted, found, strict=True):
            blob = self.bottoms[i]
            if value is None:
                blob.memory["diff"].zero(blob.count)
                continue
            value = dense(value)
            where = place(value)
            if where in taken:
                value = value.clone(memory_format=torch.contiguous_format)
            taken.add(where)
            blob.set_gradient(value)

    def learn(self, learned: Sequence[int], found: Sequence[Tensor | None]) -> None:
        """Add gradients to the diffs of the params."""
        for i, value in zip(learned, found, strict=True):
            if value is None:
                continue
            add_gradient(self.params[i], value)


def add_gradient(blob: Blob, value: Tensor) -> None:
    """Add to the diff of a param; where nothing is there, become it."""
    memory = blob.memory["diff"]
    if memory.is_blank:
        value = value if value.is_contiguous() else value.contiguous()
        memory.put(value.view(blob.shape))
        return
    memory.tensor(blob.shape, value.device).add_(value.view(blob.shape))
    memory.changed_on(value.device)


class FormulaRunner(Runner):
    """Keeps nothing: backward reads the blobs."""

    def __init__(self, formula: Formula, *args: Any) -> None:
        super().__init__(*args)
        self.formula = formula
        self.layer.live_in_place = self.in_place  # type: ignore[assignment]

    def forward(self, device: torch.device, record: bool) -> None:
        values = self.values(device)
        self.store(as_tuple(self.layer(*values)), values)

    def backward(self, device: torch.device) -> None:
        if not self.bottom_needs[0]:
            return
        bottom, top = self.bottoms[0], self.tops[0]
        grad = top.gradient(device)
        bottom.set_gradient(
            self.formula(self.layer, bottom.values(device), top.values(device), grad)
        )


class SwishRunner(Runner):
    """Swish: Caffe keeps the sigmoid of the forward, and reads the top when it goes back."""

    sigmoid: Tensor | None = None

    def forward(self, device: torch.device, record: bool) -> None:
        values = self.values(device)
        if record or self.must_record:
            self.sigmoid = torch.sigmoid(values[0] * self.layer.param.swish_param.beta)
        self.store(as_tuple(self.layer(*values)), values)

    def follow(self, value: Tensor, device: torch.device) -> Tensor:
        self.sigmoid = torch.sigmoid(value * self.layer.param.swish_param.beta)
        return super().follow(value, device)

    def backward(self, device: torch.device) -> None:
        if not self.bottom_needs[0]:
            return
        beta = self.layer.param.swish_param.beta
        sigmoid = self.sigmoid
        if sigmoid is None:
            sigmoid = torch.sigmoid(self.bottoms[0].values(device) * beta)
        top = self.tops[0]
        slope = top.values(device) * beta
        slope = slope + sigmoid * (1 - slope)
        self.bottoms[0].set_gradient(top.gradient(device) * slope)


class SplitRunner(Runner):
    """All tops share the bottom's data; the bottom's diff is the sum of theirs."""

    def begin(self) -> None:
        for top in self.tops:
            top.share_data(self.bottoms[0])

    def forward(self, device: torch.device, record: bool) -> None:
        bottom = self.bottoms[0]
        for top in self.tops:
            if top.shape != bottom.shape:
                top.reshape(*bottom.shape)
            top.share_data(bottom)

    def backward(self, device: torch.device) -> None:
        if not self.bottom_needs[0]:
            return
        grads = [top.gradient(device) for top in self.tops]
        if len(grads) == 1:
            self.bottoms[0].set_gradient(grads[0].clone())
            return
        total = grads[0] + grads[1]
        for grad in grads[2:]:
            total += grad
        self.bottoms[0].set_gradient(total)


class ShareRunner(Runner):
    """The top is the bottom in another shape: data and diff are the same memory."""

    def begin(self) -> None:
        self.tops[0].share_data(self.bottoms[0])
        self.tops[0].share_diff(self.bottoms[0])

    def forward(self, device: torch.device, record: bool) -> None:
        bottom, top = self.bottoms[0], self.tops[0]
        (out,) = as_tuple(self.layer(bottom.values(device)))
        top.reshape(*out.shape)
        top.share_data(bottom)
        top.share_diff(bottom)

    def backward(self, device: torch.device) -> None:
        """Nothing: what comes from above lies in the bottom's diff already."""


class ParameterRunner(Runner):
    """The top is the layer's blob: data and diff are the same memory."""

    def begin(self) -> None:
        self.forward(CPU, record=False)

    def forward(self, device: torch.device, record: bool) -> None:
        self.tops[0].share_data(self.params[0])
        self.tops[0].share_diff(self.params[0])

    def backward(self, device: torch.device) -> None:
        """Nothing: what comes from above lies in the blob's diff already."""


class InputRunner(Runner):
    """The tops hold what the script writes."""

    def forward(self, device: torch.device, record: bool) -> None:
        """Nothing."""

    def backward(self, device: torch.device) -> None:
        """Nothing."""


class SourceRunner(InputRunner):
    """The tops are the next batch of a data source."""

    def __init__(self, source: Any, *args: Any) -> None:
        super().__init__(*args)
        self.source = source
        # constants are filled once: a script may write over them
        param = self.layer.param.dummy_data_param
        kinds = [filler.type for filler in param.data_filler] or ["constant"]
        dummy = self.kind == "DummyData"
        count = len(self.tops)
        kinds = kinds * count if len(kinds) == 1 else kinds
        self.constant = [dummy and kind == "constant" for kind in kinds[:count]] or [False] * count
        if not dummy:
            self.constant = [False] * count

    def fill_constants(self) -> None:
        """Set the tops of DummyData that never change."""
        if any(self.constant):
            made = [filler for filler in self.source.constants()]
            for blob, value in zip(self.tops, made, strict=True):
                if value is not None:
                    blob.set_values(value.to(torch.float32, copy=True))

    def forward(self, device: torch.device, record: bool) -> None:
        if self.constant and all(self.constant):
            return
        batch = self.source.next()
        for blob, value, constant in zip(self.tops, batch, self.constant, strict=True):
            if constant:
                continue
            if self.kind == "MemoryData":  # the script's own arrays
                blob.reshape(*value.shape)
                blob.memory["data"].point_at(value)
            else:
                blob.set_values(value.to(torch.float32, copy=True).contiguous())


class EltwiseRunner(Runner):
    """Eltwise, with what Caffe makes of it in place: it writes the top before it reads it."""

    winner: Tensor | None = None

    def forward(self, device: torch.device, record: bool) -> None:
        values = self.values(device)
        layer: Any = self.layer
        if self.in_place and layer.operation != "PROD":
            lowest = float(torch.finfo(torch.float32).min)
            start = 0.0 if layer.operation == "SUM" else lowest
            mine = self.tops[0]
            values = [
                torch.full_like(v, start) if b is mine else v
                for b, v in zip(self.bottoms, values, strict=True)
            ]
        if layer.operation == "MAX" and record and self.needed:
            self.winner = self._winner(values)
        self.store(as_tuple(layer(*values)), values)

    @staticmethod
    def _winner(values: Sequence[Tensor]) -> Tensor:
        """Which bottom gives the maximum."""
        best = torch.where(values[0] > values[1], values[0], values[1])
        index = torch.where(values[0] > values[1], 0, 1)
        for i, value in enumerate(values[2:], 2):
            index = torch.where(value > best, i, index)
            best = torch.where(value > best, value, best)
        return index

    def backward(self, device: torch.device) -> None:
        for i, need in enumerate(self.bottom_needs):
            if need:
                self.bottoms[i].set_gradient(self._gradient(i, device))

    def _gradient(self, i: int, device: torch.device) -> Tensor:
        layer: Any = self.layer
        top = self.tops[0]
        grad = top.gradient(device)
        if layer.operation == "SUM":
            coeff = layer.coeff[i]
            return grad.clone() if coeff == 1 else grad * coeff
        if layer.operation == "MAX":
            if self.winner is None:
                self.winner = self._winner(self.values(device))
            return torch.where(self.winner == i, grad, 0.0)
        factor: Tensor | None = None
        if layer.stable:
            for j, blob in enumerate(self.bottoms):
                if j != i:
                    value = blob.values(device)
                    factor = value if factor is None else value * factor
        else:
            factor = top.values(device) / self.bottoms[i].values(device)
        assert factor is not None
        own = self.bottoms[i] is top  # Caffe has written the factor over what came from above
        return factor * (factor if own else grad)


def make_runner(
    step: Step,
    bottoms: Sequence[Blob],
    tops: Sequence[Blob],
    params: Sequence[Blob],
    source: Any = None,
) -> Runner:
    """The runner of one layer."""
    given = (step, bottoms, tops, params)
    kind, layer = step.node.type, step.layer
    if layer.is_source:
        return InputRunner(*given) if source is None else SourceRunner(source, *given)
    if kind == "Split":
        return SplitRunner(*given)
    if kind == "Flatten" or (kind == "Reshape" and layer.param.reshape_param.pixelshuffler == 1):
        return ShareRunner(*given)
    if (kind == "Concat" and len(bottoms) == 1) or (kind == "Slice" and len(tops) == 1):
        return ShareRunner(*given)
    if kind == "Parameter":
        return ParameterRunner(*given)
    if kind == "Swish":
        return SwishRunner(*given)
    if kind == "Eltwise":
        return EltwiseRunner(*given)
    formula = formula_of(layer)
    if formula is not None:
        return FormulaRunner(formula, *given)
    return GraphRunner(*given)


def repeatable(runner: Runner) -> bool:
    """Whether `runner.compute` gives once more what its forward gave."""
    if runner.in_place or len(runner.tops) != 1:
        return False
    if isinstance(runner, GraphRunner):
        return not runner.stateful
    return isinstance(runner, (FormulaRunner, SwishRunner, EltwiseRunner))


__all__ = ["GraphRunner", "Runner", "ShareRunner", "SourceRunner", "SwishRunner", "make_runner",
           "repeatable"]  # fmt: skip
