"""A training iteration recorded once as a CUDA graph and replayed: no launches one by one.

Source: "Accelerating PyTorch with CUDA Graphs" (pytorch.org, 2021). What must not be recorded is
refused, and two recorded iterations are held against two ordinary ones before any is used: where
layers draw, those of a recording without draws, as a few masks more say nothing of two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from caffeio.errors import SolverError
from caffeio.layers.dropout import RandomMask
from caffeio.net.net import Net
from caffeio.ops.module import Layer

Record = Callable[[Callable[[], None]], Callable[[], None]]
Pairs = Sequence[tuple[Tensor, Tensor]]  # a tensor, and its values from before
WARM_UP = 3  # iterations before the recording: cuDNN chooses its algorithms, memory is taken
NEAR = 1e-3  # of the loss: what sums in another order may differ by


class GraphedStep(nn.Module):
    """Forward and backward as one replay: the loss and outputs, the gradients in place.

    `step` is the ordinary TrainingStep of `net`, on a GPU. Batches must keep their shapes. Unlike
    `step`, the loss that comes back needs no backward pass: it has been done.
    """

    def __init__(self, step: nn.Module, net: Net, record: Record | None = None) -> None:
        """Raises SolverError if the net cannot be recorded."""
        super().__init__()
        refuse(net)
        self.step = (step,)  # a tuple: not a second submodule
        self.net = net
        self._record = record or record_cuda
        self._replay: Callable[[], None] | None = None
        self._inputs: dict[str, Tensor] = {}
        self._loss = torch.zeros(())
        self._outputs: dict[str, Tensor] = {}
        self._gradients: list[tuple[Tensor, Tensor]] = []

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total loss (scalar) and the net's outputs, for the next batch."""
        data = self.net.read_inputs()
        if self._replay is None:
            self._prepare(data)
        for name, value in data.items():
            if value.shape != self._inputs[name].shape:
                raise SolverError(
                    f"a CUDA graph needs batches of one shape: blob {name!r} was "
                    f"{tuple(self._inputs[name].shape)} and is {tuple(value.shape)}"
                )
            self._inputs[name].copy_(value)
        self._run_replay()
        return self._loss.clone(), {name: x.clone() for name, x in self._outputs.items()}

    def _run_replay(self) -> None:
        assert self._replay is not None
        fresh = [grad for blob, grad in self._gradients if blob.grad is not grad]
        if fresh:  # the first batch of an update
            torch._foreach_zero_(fresh)
            for blob, grad in self._gradients:
                blob.grad = grad
        self._replay()

    def _run(self) -> None:
        """One ordinary iteration on the fixed inputs; gradients are added to."""
        loss, outputs = self.step[0](self._inputs)
        if loss.requires_grad:
            loss.backward()
        self._loss, self._outputs = loss.detach(), {n: x.detach() for n, x in outputs.items()}

    def _prepare(self, data: Mapping[str, Tensor]) -> None:
        """Warm up, record and check; the net's blobs are afterwards what they were."""
        self._inputs = {name: value.clone() for name, value in data.items()}
        tensors: list[Tensor] = [*self.net.parameters(), *self.net.buffers()]
        before = [(tensor, tensor.detach().clone()) for tensor in tensors]
        random = _random_state()
        blobs = [item.tensor for item in self.net.learnable if item.tensor.requires_grad]
        self._gradients = [(blob, torch.zeros_like(blob)) for blob in blobs]
        try:
            self._warm_up(before)
            drawing = [layer for layer in self.net.layers if _draws(layer)]
            with _without_draws(drawing):
                expected = self._two(self._run, before, random)
                self._record_run()
                self._compare(expected, self._two(self._run_recorded, before, random))
            if drawing:
                self._record_run()
                self._check_finite(expected, self._two(self._run_recorded, before, random))
        except RuntimeError as error:
            said = str(error).strip().split("\n")[0][:200]
            raise SolverError(
                f"this net cannot be recorded as a CUDA graph ({said}): leave --cuda-graph out"
            ) from error
        finally:
            _restore(before, random)
            for blob, _ in self._gradients:
                blob.grad = None

    def _record_run(self) -> None:
        self._replay = None  # its memory is free for the next one
        for blob, grad in self._gradients:
            blob.grad = grad
        self._replay = self._record(self._run)

    def _run_recorded(self) -> None:
        assert self._replay is not None
        self._replay()

    def _warm_up(self, before: Pairs) -> None:
        if not any(blob.is_cuda for blob, _ in before):
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)

    def _two(self, run: Callable[[], None], before: Pairs, random: list[Tensor]) -> list[float]:
        """The losses of two iterations one behind the other, and the size of their gradients."""
        _restore(before, random)
        found = []
        for _ in range(2):
            for _, grad in self._gradients:
                grad.zero_()
            for blob, grad in self._gradients:
                blob.grad = grad
            run()
            norms = [float(grad.double().norm()) for _, grad in self._gradients]
            found += [float(self._loss), float(sum(norms))]
        return found

    def _compare(self, expected: list[float], found: list[float]) -> None:
        """Raise RuntimeError where a recorded iteration differs."""
        for a, b in zip(expected, found, strict=True):
            if not abs(a - b) <= NEAR * max(1.0, abs(a)) and not math.isnan(a):
                raise RuntimeError(f"recorded it gives {b:.7g}, not {a:.7g}")

    def _check_finite(self, expected: list[float], found: list[float]) -> None:
        """Raise RuntimeError where draws turn a number into none."""
        for a, b in zip(expected, found, strict=True):
            if math.isfinite(a) and not math.isfinite(b):
                raise RuntimeError(f"recorded it gives {b:.7g}")


def refuse(net: Net) -> None:
    """Raise SolverError for a layer that does something else in every iteration."""
    for step in net.steps:
        layer, kind = step.layer, step.node.type
        why = ""
        if kind == "Python":
            why = "runs Python code"
        elif layer.rng is not None and isinstance(layer, RandomMask):
            why = "draws from Caffe's own generator, which is on the CPU (leave random_seed out)"
        elif hasattr(layer, "reset_state"):
            why = "carries its state from one iteration to the next"
        if why:
            raise SolverError(
                f"layer {step.node.name!r} (type {kind}) {why}: no CUDA graph can do that "
                "(leave --cuda-graph out)",
                where=step.node.where or None,
            )


def _draws(layer: Layer) -> bool:
    """Whether a layer's numbers are others in every forward of one batch."""
    return isinstance(layer, RandomMask) or getattr(layer, "method", "") == "STOCHASTIC"


@contextmanager
def _without_draws(layers: Sequence[Layer]) -> Iterator[None]:
    """Let layers that draw drop nothing, and take the largest value in place of a drawn one."""
    still = [("ratio", 0.0) if isinstance(x, RandomMask) else ("method", "MAX") for x in layers]
    before = [getattr(layer, name) for layer, (name, _) in zip(layers, still, strict=True)]
    try:
        for layer, (name, value) in zip(layers, still, strict=True):
            setattr(layer, name, value)
        yield
    finally:
        for layer, (name, _), value in zip(layers, still, before, strict=True):
            setattr(layer, name, value)


def record_cuda(run: Callable[[], None]) -> Callable[[], None]:
    """Record what `run` launches, without running it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _random_state() -> list[Tensor]:
    """The state of torch's generators: that of the CPU and, if there is one, of the GPU."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state()] if torch.cuda.is_available() else states


@torch.no_grad()
def _restore(before: Pairs, random: list[Tensor]) -> None:
    for tensor, value in before:
        tensor.copy_(value)
    torch.set_rng_state(random[0])
    if len(random) > 1:
        torch.cuda.set_rng_state(random[1])
