"""Hold what a conversion has made against the net of the user's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffeio.converters.verify.models import Arrays, NetModel, RunnableModel
from caffeio.converters.verify.numbers import differences, relative_difference
from caffeio.converters.verify.samples import sample_inputs
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.shape_text import format_shape

LIMIT = 1e-4  # relative difference up to which two models count as the same
LIMIT_HALF = 2e-2  # the same of a model in float16: about forty roundings (2**-11 each)
USUAL = 1e-5  # what float32 leaves of a net that is well conditioned
SCALES = (1.0, 1.0, 50.0)  # of the random inputs: numbers about 0, and as large as pixels
PROBABILITIES = ("Softmax", "Sigmoid")


@dataclass
class Row:
    """One blob: what it is, and the largest differences over all inputs."""

    blob: str
    shape: tuple[int, ...]
    what: str = "output"
    absolute: float = 0.0
    relative: float = 0.0
    rounding: float | None = None  # of the net itself: what it is off of double precision
    at: int = 0  # the input with the largest relative difference

    @property
    def shown(self) -> str:
        """What the row is, and how well the numbers are conditioned if that matters."""
        if self.rounding is None:
            return self.what
        return f"{self.what}; the net's own float32 is {self.rounding:.2g} from float64"


@dataclass
class Checked:
    """What was compared, and how near it came; `samples` says on what."""

    rows: list[Row] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sizes: int = 1  # of inputs, where a model takes any

    @property
    def worst(self) -> float:
        """The largest relative difference of all rows (of a probability: absolute)."""
        return max(row.relative for row in self.rows)

    def add(self, other: Checked) -> None:
        """Take in what was found at other sizes: of each blob the worse row."""
        for i, row in enumerate(self.rows):
            worse = [x for x in other.rows if x.blob == row.blob and x.relative > row.relative]
            self.rows[i] = worse[0] if worse else row
        self.sizes += other.sizes
        self.notes += other.notes

    def lines(self) -> list[str]:
        """The rows as aligned text, under a line that says on which inputs."""
        where = f", at each of {self.sizes} sizes" if self.sizes > 1 else ""
        head = [f"compared with the net as given, on {' and '.join(self.samples)}{where}"]
        cells = [
            (row.blob, format_shape(row.shape), f"{row.relative:.2g}", row.shown)
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(3)]
        body = ["  ".join(c.ljust(w) for c, w in zip(x, widths, strict=False)) for x in cells]
        return head + [f"  {b}  {x[3]}" for b, x in zip(body, cells, strict=True)] + self.notes


def before_probabilities(net: Net, outputs: Sequence[str]) -> dict[str, str]:
    """What goes into the Softmax or Sigmoid that makes an output: blob -> in words.

    A saturated probability would hide differences.
    """
    copies = {top: s.bottoms[0] for s in net.steps if s.node.type == "Split" for top in s.tops}
    found = {}
    for step in net.steps:
        if step.node.type in PROBABILITIES and set(step.tops) & set(outputs):
            blob = copies.get(step.bottoms[0], step.bottoms[0])
            if blob not in outputs and blob not in step.tops:
                found[blob] = f"before the {step.node.type} {step.node.name!r}"
    return found


def samples(net: Net, own: Arrays | None = None) -> Iterator[tuple[str, Arrays]]:
    """Inputs for a net, each with a word on what it is: random ones, and its own data."""
    for seed, scale in enumerate(SCALES):
        yield "random", sample_inputs(net, seed, scale)
    if own:
        rest = sample_inputs(net, 0)
        yield "own", {**rest, **own}


def check(
    reference: Net,
    model: RunnableModel,
    outputs: Sequence[str],
    own: Arrays | None = None,
    *,
    feed: Callable[[int, Arrays], Arrays] | None = None,
    pair: Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Checked:
    """Run `reference` and `model` on the same inputs and compare the blobs `outputs`.

    What goes into a last Softmax or Sigmoid is compared as well, where `model` shows it. `feed`
    makes the inputs of each sample, `pair` brings two blobs of a layer's type in one order. What
    the model reads and the net computes is taken from the net. Raises UnsupportedError if the net
    yields no finite number: nothing can be compared then.
    """
    inner = before_probabilities(reference, outputs)
    makers = {top: step.node.type for step in reference.steps for top in step.tops}
    rows: dict[str, Row] = {}
    ran, odd = {"random": 0, "own": 0}, 0
    net = NetModel(reference)
    for at, (kind, inputs) in enumerate(samples(reference, own)):
        if feed is not None:
            inputs = feed(at, inputs)
        ours = net.run(inputs)
        theirs = model.run({**ours, **inputs})
        names = [name for name in (*outputs, *inner) if name in theirs and name in ours]
        if not any(np.isfinite(ours[name]).any() for name in names):
            odd += 1
            continue
        ran[kind] += 1
        for name in names:
            row = rows.setdefault(name, Row(name, ours[name].shape, inner.get(name, "output")))
            mine, other = ours[name], theirs[name]
            if pair is not None:
                other, mine = pair(makers.get(name, ""), other, mine)
            least = 1.0 if makers.get(name) in PROBABILITIES else 1e-6
            absolute, off = differences(other, mine, least)
            row.absolute = max(row.absolute, absolute)
            if off >= row.relative:
                row.relative, row.at = off, at
    if not rows:
        raise UnsupportedError("the net yields no finite number, so there is nothing to compare")
    if missing := [name for name in outputs if name not in rows]:
        raise CaffeIOError(f"output {missing[0]!r} is not in both models")
    drawn = [inputs for _, inputs in samples(reference, own)]
    if feed is not None:
        drawn = [feed(at, inputs) for at, inputs in enumerate(drawn)]
    _show_rounding(net, rows, drawn)
    words = [f"{ran['random']} random inputs"]
    words += ["a batch of its own data"] if ran["own"] else []
    found = Checked(list(rows.values()), words)
    if odd:
        found.notes.append(f"{odd} inputs gave no finite number and prove nothing")
    return found


def _show_rounding(net: NetModel, rows: dict[str, Row], inputs: Sequence[Arrays]) -> None:
    """For differences above rounding's usual size: how far float32 itself is from double."""
    for at in {row.at for row in rows.values() if USUAL < row.relative < float("inf")}:
        exact, plain = net.exact(inputs[at]), net.run(inputs[at])
        for row in rows.values():
            if exact is not None and row.at == at and row.relative > USUAL:
                row.rounding = relative_difference(plain[row.blob], exact[row.blob])
