"""onnxruntime on the original model, our Net on the Caffe net: the same numbers, or no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from caffeio.converters.from_onnx.compile import Compiled
from caffeio.converters.from_onnx.fold import with_batch
from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model
from caffeio.converters.from_onnx.samples import samples
from caffeio.converters.from_onnx.selection import bottoms_of, selected, selecting, with_bottoms
from caffeio.converters.from_onnx.truth import LIMIT, Truth, nearer, unfit
from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.converters.verify.check import Checked, Row
from caffeio.converters.verify.numbers import absolute_difference, relative_difference
from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.net import Net
from caffeio.net.step import Step
from caffeio.profiles import profile_of_dialect

_PROBABILITIES = ("Softmax", "Sigmoid")
_SCALES = (1.0, 0.6, 0.36)  # of the inputs, until float32 can tell something by them


@dataclass
class Compared:
    """One output in all runs: by run the largest difference, and the largest value.

    A run that makes next to nothing of its input is held against a hundredth of what other runs
    make of theirs, since rounding is all that it shows.
    """

    output: str
    shape: tuple[int, ...] = ()
    runs: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, run: str, mine: Array, theirs: Array, scale: float | None = None) -> None:
        """Note a run; `scale` stands for the largest value (1 for probabilities)."""
        finite = theirs[np.isfinite(theirs)]
        if not finite.size:  # nothing to hold it against: other runs must tell
            if not np.array_equal(mine, theirs, equal_nan=True):
                self.runs.append((run, float("inf"), 1.0))
            return
        largest = float(np.abs(finite).max()) if scale is None else scale
        self.runs.append((run, absolute_difference(mine, theirs), largest))

    @property
    def relative(self) -> dict[str, float]:
        """The largest relative difference of each run."""
        largest = max((scale for _, _, scale in self.runs), default=0.0)
        least = max(largest / 100, 1e-6)
        return {run: off / max(scale, least) for run, off, scale in self.runs}

    @property
    def worst(self) -> float:
        """The largest relative difference of all runs; infinite if none had a number."""
        return max(self.relative.values(), default=float("inf"))

    @property
    def run(self) -> str:
        """The run with the largest difference."""
        found = self.relative
        return max(found, key=lambda run: found[run]) if found else ""

    @property
    def absolute(self) -> float:
        """The largest difference of all runs."""
        return max((off for _, off, _ in self.runs), default=self.worst)


@dataclass
class VerifyReport:
    """What was compared: the outputs, the runs, and what could not be.

    `inner` are blobs that an output selects its rows from.
    """

    outputs: list[Compared]
    runs: list[str]
    notes: list[str]
    inner: dict[str, Compared] = field(default_factory=dict)
    by: str = "onnxruntime"

    @property
    def items(self) -> list[Compared]:
        """All that was compared."""
        return [*self.outputs, *self.inner.values()]

    @property
    def worst(self) -> float:
        """The largest difference of all."""
        return max((item.worst for item in self.items), default=float("inf"))

    def lines(self) -> list[str]:
        """The comparison for people: an output a line."""
        head = f"compared with {self.by} on inputs {', '.join(self.runs)}; largest relative"
        return [head + " difference:", *(f"  {o.output}: {o.worst:.2g}" for o in self.items)]

    def checked(self) -> Checked:
        """The comparison as the other conversions report theirs."""
        rows = [Row(o.output, o.shape, "output", o.absolute, o.worst) for o in self.outputs]
        rows += [Row(i.output, i.shape, "selected from", i.absolute, i.worst)
                 for i in self.inner.values()]  # fmt: skip
        return Checked(rows, [f"inputs {', '.join(self.runs)}"], list(self.notes))


def build_net(compiled: Compiled, batch: int | None = None, *, own: bool = False) -> Net:
    """Our Net of a compiled one, with its weights; `batch` replaces axis 0 of the inputs.

    The net's blobs are the compiled one's arrays unless it shall have its `own`, to be changed.
    """
    message = compiled.message()
    if batch is not None:
        for layer in message.layer:
            if layer.type == "Input":
                layer.input_param.shape[0].dim[0] = batch
    profile = profile_of_dialect(compiled.target.dialect)
    net = Net(build_graph(message, phase="TEST", profile=profile), profile=profile)
    every = {id(blob) for step in net.steps for blob in step.layer.blobs}
    net.initialize(replaced=every)
    arrays = {layer.param.name: layer.blobs for layer in compiled.layers}
    with torch.no_grad():
        for step in net.steps:
            blobs = arrays.get(step.node.name, [])
            if len(blobs) != len(step.layer.blobs):
                raise CaffeIOError(
                    f"layer {step.node.name!r} has {len(step.layer.blobs)} blobs, and "
                    f"{len(blobs)} were made for it: this is a mistake of the converter's"
                )
            for mine, made in zip(step.layer.blobs, blobs, strict=True):
                if tuple(mine.shape) != made.shape:
                    raise CaffeIOError(
                        f"layer {step.node.name!r} wants a blob {tuple(mine.shape)}, and "
                        f"{made.shape} was made for it: the net fits one batch only"
                    )
                theirs = torch.from_numpy(np.require(made, requirements="W"))
                if own:
                    mine.copy_(theirs)
                else:
                    mine.data = theirs
    return net


def verify(compiled: Compiled, seed: int = 0) -> VerifyReport:
    """Run both on random and structured inputs, with the given batch and with a larger one.

    Raises UnsupportedError if onnxruntime is not installed.
    """
    report = VerifyReport([Compared(name) for name in compiled.outputs], [], [])
    _runs(compiled, compiled.model, build_net(compiled), report, "", seed)
    more = with_batch(compiled.model, 2) if compiled.any_batch else None
    if more is None:
        report.notes.append("only this batch was compared: the model fixes it")
        return report
    size = more.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    try:
        net = build_net(compiled, size)
    except CaffeIOError:
        report.notes.append(f"the net is for this batch only: it does not fit a batch of {size}")
        return report
    _runs(compiled, more, net, report, f" batch {size}", seed)
    return report


def _runs(
    compiled: Compiled, model: Model, net: Net, report: VerifyReport, suffix: str, seed: int
) -> None:
    more = with_bottoms(_with_logits(model))
    runner = OnnxRunner(more.runnable(), need_runtime=True, weights=more.weights)
    if runner.lacks:
        report.by = f"onnx's reference evaluator (onnxruntime has no {runner.lacks})"
    for i, (kind, _) in enumerate(samples(model, net, compiled.inputs, seed, few=bool(suffix))):
        for scale in _SCALES:
            made = samples(model, net, compiled.inputs, seed, few=bool(suffix), scale=scale)
            inputs = next(islice(made, i, None))[1]
            model.check_files()
            theirs, truth = runner(inputs), Truth(more, inputs)
            net.reset_state()  # an LSTM would begin where the last run ended
            with torch.no_grad():
                net(
                    {
                        compiled.inputs[name]: torch.from_numpy(np.asarray(value, np.float32))
                        for name, value in inputs.items()
                    }
                )
            why = _why_unfit(compiled, net, theirs, truth)
            if not why or scale == _SCALES[-1]:
                break
            report.notes.append(f"{kind}{suffix} inputs {why}; smaller ones took their place")
        report.runs.append(kind + suffix)
        for item in report.outputs:
            _compare(compiled, net, theirs, item, kind + suffix, truth, report)


def _why_unfit(compiled: Compiled, net: Net, theirs: dict[str, Array], truth: Truth) -> str:
    """Why inputs prove nothing, in words; "" if they do."""
    for name, blob in compiled.outputs.items():
        mine = net.blobs[blob].detach().numpy()
        found = unfit(name, mine, np.asarray(theirs[name]), truth)
        if found is not None and selecting(net, blob) is None:
            return (
                f"prove nothing, since onnxruntime's float32 of {name!r} is {found[1]:.2g} and the "
                f"Caffe net's {found[0]:.2g} from float64 numbers"
            )
    return ""


def _compare(
    compiled: Compiled,
    net: Net,
    theirs: dict[str, Array],
    item: Compared,
    run: str,
    truth: Truth,
    report: VerifyReport,
) -> None:
    """Compare an output; what goes into a last Softmax or Sigmoid counts as well."""
    blob = compiled.outputs[item.output]
    mine, wanted = net.blobs[blob].detach().numpy(), np.asarray(theirs[item.output])
    item.shape = wanted.shape
    maker = next((s for s in reversed(net.steps) if blob in s.tops), net.steps[-1])
    probability = maker.node.type in _PROBABILITIES
    if (step := selecting(net, blob)) is not None:
        mine = _compare_bottoms(net, step, (blob, mine, wanted), theirs, item, run, report)
    wanted, off = nearer(item.output, mine, wanted, truth)
    if off:
        report.notes.append(
            f"{item.output!r} ({run} inputs) was compared with float64 numbers of the model by "
            f"onnx's reference evaluator, since onnxruntime's float32 is {off:.2g} from them"
        )
    item.add(run, mine, wanted, 1.0 if probability else None)
    logits = theirs.get(f"caffeio:logits:{item.output}")
    if logits is not None and probability and maker.bottoms[0] != maker.tops[0]:
        before = net.blobs[maker.bottoms[0]].detach().numpy()
        if before.size == logits.size:
            item.add(f"{run}, before the {maker.node.type}", before.reshape(logits.shape), logits)


def _compare_bottoms(
    net: Net,
    step: Step,
    rows: tuple[str, Array, Array],
    theirs: dict[str, Array],
    item: Compared,
    run: str,
    report: VerifyReport,
) -> Array:
    """Compare what an output's rows are selected from; returns the rows that count.

    These are the net's own, or where they differ those that its layer selects from the model's
    numbers: where scores are nearly equal, rounding decides which row comes first.
    """
    blob, mine, wanted = rows
    bottoms = bottoms_of(net, step, theirs, item.output)
    for one in bottoms or ():
        inner = report.inner.setdefault(one.blob, Compared(one.blob, one.mine.shape))
        inner.add(run, one.mine, one.theirs)
    if bottoms is None or relative_difference(mine, wanted) <= LIMIT:
        return mine
    off = max(relative_difference(one.mine, one.theirs) for one in bottoms)
    report.notes.append(
        f"{item.output!r} ({run} inputs): what its rows are selected from differs by {off:.2g}, "
        "and that orders or selects other rows; those compared are what the Caffe net's "
        f"{step.node.type} selects from onnxruntime's numbers"
    )
    return selected(step, blob, bottoms)


def _with_logits(model: Model) -> Model:
    """The model with the inputs of its last Softmax and Sigmoid as further outputs."""
    other = model.copy()
    outputs = {item.name for item in other.graph.output}
    for node in list(other.graph.node):
        made = outputs.intersection(node.output)
        if node.op_type in _PROBABILITIES and made:
            name = f"caffeio:logits:{next(iter(made))}"
            other.graph.node.add(op_type="Identity", input=[node.input[0]], output=[name])
            other.graph.output.add(name=name)
    return other


def check(report: VerifyReport, where: str) -> None:
    """Raise CaffeIOError if an output differs by more than the limit."""
    bad = [item for item in report.items if not item.worst <= LIMIT]
    if bad:
        listed = "; ".join(f"{b.output!r} by {b.worst:.3g} ({b.run} inputs)" for b in bad)
        raise CaffeIOError(
            f"the Caffe net and the model differ (limit {LIMIT:g} of the largest value): {listed}; "
            "nothing is written (--no-verify writes it all the same)",
            where=where,
        )
