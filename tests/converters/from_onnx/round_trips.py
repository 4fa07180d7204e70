"""Every net at hand goes Caffe -> ONNX -> Caffe: the same numbers, and about as many layers.

Run as `python tests/converters/from_onnx/round_trips.py [--log FILE] [--seconds N] [WORD...]`. The
nets are those of tests/golden and, where it lies beside the repository, of the reference material;
a WORD picks those whose path holds it. Nets without weights get random ones, and large pictures are
made smaller where the net allows it. Each net runs in a process of its own. Prints a line for each
net that does not come back and a summary; exits with 1 if a net comes back wrong, with too many
layers, ends in anything but a refusal, or takes longer than it may. --log keeps one JSON object a
net, and nets that are in it are not run again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from caffeio.converters.from_onnx.compared import VerifyReport
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.samples import samples
from caffeio.converters.from_onnx.targets import get_target
from caffeio.converters.from_onnx.truth import LIMIT
from caffeio.converters.from_onnx.verify import build_net, verify
from caffeio.converters.onnx.build import Built, build
from caffeio.converters.onnx.export import to_model
from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.converters.verify.numbers import relative_difference
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.net.step import Step
from caffeio.proto.weights.load import load_weights
from tests.converters.from_onnx.helpers import ROUNDING, of_equal_rank
from tests.paths import GOLDEN, SHARED

# Of the largest value (farther off may be a net whose float32 is so far from its float64, whoever
# computes it); layers, of those that the net had.
NEAR, MORE = 1e-5, 1.2
RANK = 3.0  # of two right float32 runs the largest differences from float64 may be so unequal
# Where a net stands: those that are no findings, then those that are.
FINE = ("equal", "no number", "not exported", "refused", "no net")
FINDINGS = ("off", "layers", "error", "slow", "died")
TARGETS = ("bvlc", "ssd", "nnie", "intel", "nvidia", "sophgo", "ncnn")  # most layers first
# Layers without work of their own in TEST.
NOTHING = {"Dropout", "Split", "Silence", "Input"}
# Layer types whose one layer is several operators of ONNX, and comes back as those.
SEVERAL = {"Crop": 4, "Embed": 2}
EACH = {"Convolution", "Deconvolution"}  # as many layers in one as it has tops
# What a net may be given where it does not say its input's shape.
GUESSES = ((1, 3, 224, 224), (1, 3, 227, 227), (1, 3, 360, 480), (1, 1, 28, 28), (1, 2, 28, 28),
           (1, 3, 64, 64))  # fmt: skip
SMALL = 96


@dataclass
class Found:
    """What became of a net; `why` is a refusal's or an error's text."""

    net: str
    status: str
    why: str = ""
    target: str = ""
    worst: float = 0.0
    before: int = 0
    after: int = 0
    differs: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    float64: list[float] = field(default_factory=list)  # what `ranks` gives
    digest: str = ""  # of the model: nets of one model come back as one


@dataclass(frozen=True)
class Case:
    """A net by name: a prototxt with or without weights, or the text of one."""

    name: str
    path: Path
    weights: Path | None = None
    text: str = ""


def cases() -> Iterator[Case]:
    """All nets, small ones of ours first."""
    for root, name in ((GOLDEN, "tests/golden"), (SHARED / "golden", "golden")):
        for path in sorted(root.rglob("*.prototxt")):
            if path.name.startswith(("solver", "tmp_solver")):
                continue
            beside = path.with_name("weights.caffemodel")
            weights = beside if beside.exists() and path.name == "net.prototxt" else None
            yield Case(f"{name}/{path.relative_to(root)}", path, weights)
        for path in sorted((root / "fuzz").glob("*/cases.json")):
            for case in json.loads(path.read_text()):
                yield Case(
                    f"{name}/fuzz/{path.parent.name}/{case['seed']}", path, None, case["text"]
                )
    corpus = SHARED / "corpus"
    for path in sorted((corpus / "caffemodels").glob("*/*.caffemodel")):
        for prototxt in path.parent.glob("*.prototxt"):
            yield Case(f"corpus/{path.parent.name}", prototxt, path)
    if (corpus / "index.csv").exists():
        with (corpus / "index.csv").open() as lines:
            rows = [row for row in csv.DictReader(lines) if row["kind"] == "net"]
        for row in sorted(rows, key=lambda row: int(row["layers"])):
            yield Case(f"corpus/{row['path']}", corpus / row["path"])


def loaded(case: Case) -> Net:
    """The net as `convert` would export it, with a small input where it takes one."""
    if case.weights is not None:
        return load_deploy_net(case.path, load_weights(case.weights), DeployOptions())[0]
    with tempfile.TemporaryDirectory() as folder:
        path = case.path
        if case.text:
            path = Path(folder) / "net.prototxt"
            path.write_text(case.text)
        net = _with_shapes(path)
        try:
            maps = [
                top
                for top in source_tops(net)
                if len(net.blob_shapes[top]) == 4 or top in net.inputs
            ]
            smaller = {n: _small(tuple(net.blob_shapes[n])) for n in maps}
            net = _read(path, smaller)
        except CaffeIOError:
            pass  # its last layers have numbers for one size
    randomize(net)
    return net


def source_tops(net: Net) -> list[str]:
    """What data and Input layers make; a Python layer's data are to be given, too."""
    return [top for step in net.steps if step.layer.is_source for top in step.tops]


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> Net:
    options = DeployOptions(untrained=True, input_shapes=shapes)
    return load_deploy_net(path, None, options)[0]


def _with_shapes(path: Path) -> Net:
    """The net with its own shapes, or with guessed ones if it has none."""
    try:
        return _read(path, {})
    except UnsupportedError as error:
        if "--input-shape" not in error.message:
            raise
        name, last = error.message.split("'")[1], CaffeIOError(error.message, where=error.where)
        for shape in GUESSES:
            try:
                return _read(path, {name: shape})
            except CaffeIOError as other:
                last = last if "--input-shape" in other.message else other
        raise last from None


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4 and min(shape[2:]) > SMALL and shape[1] <= 4:
        return (1, shape[1], *(max(SMALL, n // 4 // 32 * 32) for n in shape[2:]))
    return shape if shape[:1] < (3,) else (2, *shape[1:])


def randomize(net: Net) -> None:
    """Fill blobs as after a training: nothing is 0 or 1 by chance, and no blob dies or grows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for step in net.steps:
            for number, blob in enumerate(step.layer.blobs):
                _fill(step, number, blob, generator)


def _fill(step: Step, number: int, blob: torch.Tensor, generator: torch.Generator) -> None:
    kind = step.node.type
    if kind == "BatchNorm" and number == 2:
        blob.fill_(1)
    elif (kind, number) in (("BatchNorm", 1), ("BN", 3)):
        blob.uniform_(0.5, 1.5, generator=generator)
    elif number == 0 and kind in ("BN", "Scale", "PReLU", "Normalize"):
        blob.uniform_(0.5, 1.2, generator=generator)
    elif blob.dim() >= 2 and blob.numel() > max(blob.shape):
        terms = blob[0].numel() if kind != "Deconvolution" else blob.shape[0]
        blob.normal_(0, (1.6 / max(terms, 1)) ** 0.5, generator=generator)
    else:
        blob.normal_(0, 0.1, generator=generator)


def ranks(net: Net, built: Built, back: Compiled) -> list[float]:
    """How far the net that came back is from the first one in float64, and how far onnxruntime.

    First the largest differences of both, then the root mean squares of all, which say of two
    float32 runs whether they round equally: of the largest of a thousand numbers chance decides.
    """
    mine, double = build_net(back), copy.deepcopy(net).double()
    runner = OnnxRunner(back.model.runnable(), need_runtime=True, weights=back.model.weights)
    worst = [0.0] * 4
    for _, inputs in samples(back.model, mine, back.inputs, 0):
        theirs = runner(inputs)
        for one in (mine, double):
            one.reset_state()
        with torch.no_grad():
            mine({back.inputs[n]: torch.from_numpy(v) for n, v in inputs.items()})
            given = {n: torch.zeros(net.blob_shapes[n]) for n in source_tops(net)}
            given |= {n: torch.from_numpy(v) for n, v in inputs.items()}
            double({n: v.double() for n, v in given.items()})
        for blob, name in built.outputs.items():
            exact = double.blobs[blob].numpy()
            found = (mine.blobs[back.outputs[name]].numpy(), theirs[name])
            for i, value in enumerate(found):
                off = mean = float("inf")
                if value.size == exact.size:  # else other rows were chosen
                    off = relative_difference(value.reshape(exact.shape), exact)
                    mean = _mean_difference(value.reshape(exact.shape), exact)
                worst[i], worst[2 + i] = max(worst[i], off), max(worst[2 + i], mean)
    return worst


def _mean_difference(value: np.ndarray, exact: np.ndarray) -> float:
    """The root mean square of a - b, of the largest value; of what is finite on both sides."""
    finite = np.isfinite(value) & np.isfinite(exact)
    off = value[finite].astype(np.float64) - exact[finite]
    largest = float(np.abs(exact[finite]).max(initial=0))
    return float(np.sqrt(np.mean(off**2))) / max(largest, 1e-6) if off.size else 0.0


def are_equal(float64: list[float]) -> bool:
    """Whether what `ranks` gives are two equally right runs."""
    mine, theirs, *means = float64
    return mine <= RANK * theirs and theirs <= ROUNDING and of_equal_rank(*means)


def is_near(net: Net, built: Built, report: VerifyReport) -> bool:
    """Whether all numbers are near.

    Rows that a layer chooses by the data, and what it chooses from, have convert's own limit:
    regions have sizes that went through an Exp.
    """
    tops = {top for step in net.steps if step.layer.dynamic for top in step.tops}
    rows = {name for blob, name in built.outputs.items() if blob in tops}
    near = all(
        item.worst <= (LIMIT if item.output in rows else NEAR)
        for item in report.outputs
        if item.runs  # else neither side had a number in any run
    )
    return near and all(item.worst <= LIMIT for item in report.inner.values())


def digest_of(model: Any) -> str:
    """A digest of a model's graph, names and weights; "" for one that is too large."""
    if model.graph.ByteSize() > 1_900_000_000:
        return ""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def round_trip(net: Net, model: Any) -> tuple[Compiled, VerifyReport]:
    """The net from the net's ONNX model, for the first target that takes it; and the comparison."""
    kinds = {step.node.type for step in net.steps if not step.layer.is_source} - NOTHING
    lacks = {name: sum(not get_target(name).has(kind) for kind in kinds) for name in TARGETS}
    first: UnsupportedError | None = None
    for target in sorted(TARGETS, key=lambda name: lacks[name]):
        try:
            back = compile_model(model, target=target)
        except UnsupportedError as error:
            first = first or error
            continue
        return back, verify(back)
    assert first is not None
    raise first


def of_net(net: Net) -> Counter[str]:
    """Layers of a net that compute in TEST, a Convolution of two blobs twice."""
    made = [step for step in net.steps if not step.layer.is_source]
    return counts(
        kind
        for step in made
        for kind in [step.node.type] * (len(step.tops) if step.node.type in EACH else 1)
    )


def of_compiled(back: Compiled) -> Counter[str]:
    """Layers of a compiled net that compute."""
    return counts(layer.type_name for layer in back.layers)


def counts(kinds: Iterable[str]) -> Counter[str]:
    """How often each type is there, without those that do nothing in TEST."""
    return Counter(kind for kind in kinds if kind not in NOTHING)


def walk(case: Case, known: Mapping[str, Found]) -> Found:
    """Take one net there and back; `known` are nets that did, by the digests of their models."""
    found = Found(case.name, "not exported")
    try:
        net = loaded(case)
        built = build(net)
        model = to_model(built, net)
        model.graph.name = ""
        found.digest = digest_of(model)
        if same := known.get(found.digest):
            return replace(same, net=case.name, why=f"the same model as {same.net}")
        found.status = "refused"
        back, report = round_trip(net, model)
    except UnsupportedError as error:
        found.why = str(error)
        return found
    except CaffeIOError as error:
        found.status = "no net" if found.status == "not exported" else "error"
        found.why = str(error)
        return found
    before, after = of_net(net), of_compiled(back)
    found.differs = {k: [before[k], after[k]] for k in before | after if before[k] != after[k]}
    found.target, found.worst, found.notes = back.target.name, report.worst, report.notes
    found.before, found.after = before.total(), after.total()
    found.status = "equal"
    if not is_near(net, built, report):
        found.float64 = ranks(net, built, back)
        if not are_equal(found.float64):
            found.status = "off"
    if found.status == "equal" and found.after > _most(net, model, before):
        found.status = "layers"
    if found.status == "equal" and not all(item.runs for item in report.outputs):
        found.status, found.worst = "no number", 0.0
    return found


def _most(net: Net, model: Any, before: Counter[str]) -> float:
    """The most layers that a net may come back with.

    An Identity of the model is a Dropout or Split that the net had: an output that is an input,
    too, or another output, for which Caffe needs a layer.
    """
    several = sum(SEVERAL.get(kind, 1) for kind in before.elements())
    copies = sum(node.op_type == "Identity" for node in model.graph.node)
    return max(MORE * before.total(), several + copies, len(net.outputs))


def _worker(case: Case, folder: str, known: Mapping[str, Found]) -> None:
    warnings.simplefilter("ignore")
    began = time.monotonic()
    try:
        found = walk(case, known)
    except Exception:  # noqa: BLE001  (whatever it is, it is a finding)
        found = Found(case.name, "error", traceback.format_exc()[-2000:])
    found.seconds = round(time.monotonic() - began, 1)
    (Path(folder) / "found.json").write_text(json.dumps(asdict(found)))


def apart(case: Case, seconds: float, known: Mapping[str, Found] | None = None) -> Found:
    """Run a net in a process of its own, which has so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("fork").Process(
            target=_worker, args=(case, folder, known or {})
        )
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return Found(case.name, "slow", f"more than {seconds:g} s", seconds=seconds)
        result = Path(folder) / "found.json"
        if not result.exists():
            return Found(case.name, "died", f"exit code {process.exitcode}")
        return Found(**json.loads(result.read_text()))


def summary(rows: list[Found]) -> str:
    """How many nets are where, and what refusals say, the most frequent first."""
    lines = [", ".join(f"{n} {status}" for status, n in Counter(r.status for r in rows).items())]
    back = [row for row in rows if row.status == "equal"]
    if back:
        worst, most = max(row.worst for row in back), max(r.after / max(r.before, 1) for r in back)
        lines.append(f"equal: off by {worst:.2g} at most, {most:.2f} of the layers at most")
    for status in ("not exported", "refused", "no net"):
        reasons = Counter(_kind_of(row.why) for row in rows if row.status == status)
        lines += [f"{status}: {n} x {why}" for why, n in reasons.most_common()]
    return "\n".join(lines)


def _kind_of(why: str) -> str:
    """A refusal without its place and names."""
    text = why.split(": ", 1)[-1] if why[:1] in "/." or why.startswith("<") else why
    return " ".join(w for w in text.split()[:24] if "'" not in w)


def told(found: Found) -> str:
    """One line on a net that is a finding."""
    layers = f"{found.before} -> {found.after} layers {found.differs}"
    far = f", float64 {found.float64}" if found.float64 else ""
    return f"{found.status}: {found.net}: off by {found.worst:.2g}{far}, {layers} {found.why}"


def main(args: list[str]) -> int:
    """Walk; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--without", default="", help="a word that the path shall not hold")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--seconds", type=float, default=600, help="for one net")
    given = parser.parse_args(args)
    torch.set_num_threads(1)
    known: dict[str, Found] = {}
    if given.log and given.log.exists():
        rows = [Found(**json.loads(line)) for line in given.log.read_text().splitlines()]
        known = {row.net: row for row in rows}
    done: list[Found] = []
    for case in cases():
        if given.words and not any(word in case.name for word in given.words):
            continue
        if given.without and given.without in case.name:
            continue
        same = {row.digest: row for row in done if row.digest and row.status == "equal"}
        found = known.get(case.name) or apart(case, given.seconds, same)
        done.append(found)
        if given.log and case.name not in known:
            with given.log.open("a") as log:
                log.write(json.dumps(asdict(found)) + "\n")
        if found.status in FINDINGS:
            print(told(found), flush=True)
    print(summary(done))
    return int(any(row.status in FINDINGS for row in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
