"""Layers whose gradients come from a graph of this layer alone, kept from the forward.

Values come from the layer's torch module. Where what Caffe's Backward reads has changed since, the
graph is made anew from what lies in the blobs, or a formula reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caffeio.pycaffe.formulas import formula_of_top
from caffeio.pycaffe.runners import Runner, add_gradient, as_tuple, dense, place

# What these need in Backward is the layer's own copy in Caffe: later writers do not matter.
KEPT = frozenset(
    ("BatchNorm", "BN", "Dropout", "SpatialDropout", "Pooling", "L2Normalize", "Normalize",
     "LSTMUnit")
)  # fmt: skip
# In place these keep a copy; elsewhere they read the bottom when they go back.
KEPT_IN_PLACE = frozenset(("Scale", "PReLU", "Bias"))
# Their graph holds the bottom's memory itself, so that what a script writes there is seen.
HOLDS_BOTTOM = frozenset(("Convolution", "Deconvolution", "InnerProduct"))


class GraphRunner(Runner):
    """Keeps the graph of this layer between forward and backward."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.graph: tuple[list[Tensor], tuple[Tensor, ...]] | None = None
        self.seen: list[int] = []
        self.seen_tops: list[int] = []
        kept_here = self.in_place and self.type_name in KEPT_IN_PLACE
        self.kept = self.type_name in KEPT or kept_here or self.layer.is_loss
        self.top_formula = formula_of_top(self.layer)

    def forward(self, device: torch.device, record: bool) -> None:
        """Compute the tops."""
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
        """What the layer makes of `value` in place; its graph is kept, the blobs stay."""
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
        for blob, value, need in zip(self.bottoms, values, self.bottom_needs_gradient, strict=True):
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
        if self.type_name in ("BatchNorm", "BN"):
            return not getattr(layer, "use_global", False)
        if self.type_name == "Dropout":
            return bool(layer.drops)
        return hasattr(layer, "reset_state")

    def is_stale(self) -> bool:
        """Whether what Caffe's Backward would read has changed since the forward."""
        assert self.graph is not None
        if self.kept or self.stateful:
            return False
        if self.type_name in HOLDS_BOTTOM:
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
        """Compute the diffs of the bottoms."""
        if self.top_formula is not None and self.top_changed():
            bottom, top = self.bottoms[0], self.tops[0]
            above = top.gradient(device)
            slope = self.top_formula(self.layer, bottom.values(device), top.values(device), above)
            self.give([0], [slope], [above])
            return
        if self.graph is None or self.is_stale():
            self.rebuild(device)
        assert self.graph is not None
        leaves, tops = self.graph
        pairs = [(o, t) for o, t in zip(tops, self.tops, strict=True) if o.requires_grad]
        places = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
        learned = [i for i, need in enumerate(self.param_needs_gradient) if need]
        inputs = [leaves[i] for i in places] + [self.layer.blobs[i] for i in learned]
        if not pairs or not inputs:
            self.give(places, [None] * len(places), [])
            return
        outs = [out for out, _ in pairs]
        given = [top.gradient(device) for _, top in pairs]
        found = torch.autograd.grad(outs, inputs, given, retain_graph=True, allow_unused=True)
        self.give(places, found[: len(places)], given)
        self.learn(learned, found[len(places) :])

    def give(
        self, places: Sequence[int], found: Sequence[Tensor | None], given: Sequence[Tensor]
    ) -> None:
        """Let the gradients found be the diffs of the bottoms."""
        taken = {place(value) for value in given}
        for i, value in zip(places, found, strict=True):
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
