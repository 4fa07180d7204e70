"""onnxruntime on the original model, our Net on the Caffe net: the same numbers, or no file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from caffeio.converters.from_onnx.compared import Compared, VerifyReport
from caffeio.converters.from_onnx.compile import Compiled
from caffeio.converters.from_onnx.fold import with_batch
from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model
from caffeio.converters.from_onnx.samples import KINDS, ONE_SIGN, samples
from caffeio.converters.from_onnx.selection import bottoms_of, selected, selecting, with_bottoms
from caffeio.converters.from_onnx.ties import settled, with_chosen
from caffeio.converters.from_onnx.truth import LIMIT, Truth, nearer, unfit
from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.converters.verify.numbers import relative_difference
from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.net import Net
from caffeio.net.step import Step
from caffeio.profiles import profile_of_dialect

_PROBABILITIES = ("Softmax", "Sigmoid")
_LOGITS = "caffeio:logits:"
_MOST = 1 << 30  # bytes of weights of a net that is copied in float64
_SMALLER = (0.6, 0.36, 0.2, 0.1)  # times the inputs, until float32 can tell something by them


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
    net = build_net(compiled)
    kinds: Sequence[str] = KINDS[:1]
    _runs(compiled, compiled.model, net, report, KINDS, seed)
    if any(not item.runs for item in report.outputs):  # a reduction of logarithms, for instance
        kinds = ONE_SIGN
        _runs(compiled, compiled.model, net, report, kinds, seed)
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
    _runs(compiled, more, net, report, kinds, seed, f" batch {size}")
    return report


def _runs(
    compiled: Compiled,
    model: Model,
    net: Net,
    report: VerifyReport,
    kinds: Sequence[str],
    seed: int,
    suffix: str = "",
) -> None:
    more = with_chosen(with_bottoms(_with_logits(model)))
    runner = OnnxRunner(more.runnable(), need_runtime=True, weights=more.weights)
    if runner.lacks:
        report.by = f"onnx's reference evaluator (onnxruntime has no {runner.lacks})"
    for i, (kind, first) in enumerate(samples(model, net, compiled.inputs, seed, kinds=kinds)):
        inputs = first
        for scale in (*_SMALLER, None):
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
            why = _why_unfit(compiled, net, inputs, theirs)
            if not why or scale is None:
                break
            report.notes.append(f"{kind}{suffix} inputs {why}; smaller ones took their place")
            made = samples(model, net, compiled.inputs, seed, kinds=kinds, scale=scale)
            inputs = next(islice(made, i, None))[1]
        report.runs.append(kind + suffix)
        for item in report.outputs:
            _compare(compiled, net, theirs, item, kind + suffix, truth, report)


def _why_unfit(
    compiled: Compiled, net: Net, inputs: dict[str, Array], theirs: dict[str, Array]
) -> str:
    """Why inputs prove nothing, in words; "" if they do."""
    far = {}
    for name, blob in compiled.outputs.items():
        mine, _ = settled(name, net.blobs[blob].detach().numpy(), theirs)
        wanted = np.asarray(theirs[name])
        if relative_difference(mine, wanted) > LIMIT and selecting(net, blob) is None:
            far[name] = mine, wanted
    exact = _in_float64(compiled, net, inputs) if far else {}
    for name, (mine, wanted) in far.items():
        double = exact.get(compiled.outputs[name])
        found = None if double is None else unfit(mine, wanted, double)
        if found is not None:
            return (
                f"prove nothing: rounding to float32 moves the Caffe net's {name!r} by {found:.2g} "
                "there"
            )
    return ""


def _in_float64(compiled: Compiled, net: Net, inputs: dict[str, Array]) -> dict[str, Array]:
    """The net's blobs in double precision; none where a layer cannot, or weights are too many."""
    if sum(blob.nbytes for step in net.steps for blob in step.layer.blobs) > _MOST:
        return {}
    double = copy.deepcopy(net).double()
    double.reset_state()
    given = {
        compiled.inputs[n]: torch.from_numpy(np.asarray(v, np.float64)) for n, v in inputs.items()
    }
    try:
        with torch.no_grad():
            double(given)
    except (RuntimeError, TypeError):
        return {}
    return {name: blob.numpy() for name, blob in double.blobs.items()}


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
    wanted = np.asarray(theirs[item.output])
    mine, ties = settled(item.output, net.blobs[blob].detach().numpy(), theirs)
    if ties:
        report.notes.append(
            f"{item.output!r} ({run} inputs): {ties} of {mine.size} indices are other ones of "
            "numbers that are equal but for rounding"
        )
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
    logits = theirs.get(f"{_LOGITS}{item.output}")
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
    outputs = {item.name for item in model.graph.output}
    return model.with_outputs(
        {
            f"{_LOGITS}{output}": node.input[0]
            for node in model.graph.node
            if node.op_type in _PROBABILITIES
            for output in outputs.intersection(node.output)
        }
    )


def check(report: VerifyReport, where: str) -> None:
    """Raise CaffeIOError if an output differs by more than the limit, or was not compared."""
    silent = [item.output for item in report.outputs if not item.runs]
    if silent:
        raise CaffeIOError(
            f"neither the model nor the Caffe net has a number in {', '.join(map(repr, silent))} "
            f"on inputs {', '.join(report.runs)} (nan or infinite, or no rows): nothing could be "
            "compared, and nothing is written (--no-verify writes it all the same)",
            where=where,
        )
    bad = [item for item in report.items if not item.worst <= LIMIT]
    if bad:
        listed = "; ".join(f"{b.output!r} by {b.worst:.3g} ({b.run} inputs)" for b in bad)
        raise CaffeIOError(
            f"the Caffe net and the model differ (limit {LIMIT:g} of the largest value): {listed}; "
            "nothing is written (--no-verify writes it all the same)",
            where=where,
        )
