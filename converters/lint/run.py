"""Lint files: find out what they are, run the rules, apply the fixes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffeio.converters.kinds import KINDS
from caffeio.converters.lint import (  # noqa: F401  (they register their rules)
    data_rules,
    memory_rules,
    shape_rules,
    solver_net_rules,
    solver_rules,
    target_rules,
    text_rules,
    training_rules,
    wiring_rules,
)
from caffeio.converters.lint.fixes import fixed_text
from caffeio.converters.lint.model import (
    ERROR,
    RULES,
    Finding,
    Fix,
    NetContext,
    Rule,
    SolverContext,
    place_of,
    rule,
)
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError, NetError, ParseError, SolverError
from caffeio.profiles import choose_profile
from caffeio.proto.files import SolverFile, read_net, read_solver
from caffeio.training.multiphase import read_phases

_IGNORE = re.compile(r"#\s*caffeio:\s*ignore\b(?:[\s=:]*([A-Z0-9, ]+))?")


@dataclass(frozen=True)
class Selection:
    """Which rules run, and for whose Caffe."""

    select: tuple[str, ...] = ()  # codes or beginnings of codes; empty: all
    ignore: tuple[str, ...] = ()
    dialect: str | None = None
    caffe: str | None = None
    target: str | None = None  # a name in from_onnx/targets

    def takes(self, code: str) -> bool:
        """Whether the user's choice lets a rule run."""
        chosen = not self.select or code.startswith(self.select)
        return chosen and not (self.ignore and code.startswith(self.ignore))


@rule("CIO100", "broken", ERROR, "file")
def broken(context: object) -> Iterator[Finding]:
    """The text is not well-formed, or mixes old and new forms: Caffe refuses it."""
    return iter(())


def rules() -> list[Rule]:
    """All rules by code."""
    return [RULES[code] for code in sorted(RULES)]


def lint(source: Source, selection: Selection) -> list[Finding]:
    """Run the rules over one prototxt. Raises CaffeIOError if it is none."""
    if source.kind not in ("net", "solver", "phases"):
        raise CaffeIOError(f"lint reads nets and solvers, and this is a {KINDS[source.kind]}",
                           where=source.label)  # fmt: skip
    try:
        contexts = _contexts(source, selection)
    except (ParseError, NetError, SolverError) as error:
        message = str(error).removeprefix(f"{error.where}: ")
        path, line, column = place_of((error.where or source.label).splitlines()[0])
        return [Finding("CIO100", ERROR, message, _label(path, source), line, column)]
    found: list[Finding] = []
    kinds = ("text", "net" if isinstance(contexts[0], NetContext) else "solver")
    for context in contexts:
        for one in rules():
            if one.kind in kinds and selection.takes(one.code):
                found += one.check(context)
    if source.kind == "phases":  # the fixes' keys are those of a file with one solver
        found = [replace(f, fix=None) for f in found]
    found = [replace(f, path=_label(f.path, source)) for f in found]
    return sorted(set(_not_ignored(found, contexts[0])), key=lambda f: f.order)


def _label(path: str, source: Source) -> str:
    return source.label if path == str(source.path) else path


def _contexts(
    source: Source, selection: Selection
) -> Sequence[NetContext] | Sequence[SolverContext]:
    """What the rules look at: a net, a solver, or all solvers of a file of several phases."""
    if source.kind == "net":
        return [_net_context(source, selection)]
    if source.kind == "phases":
        files = [file for file, _ in read_phases(source.path, dialect=selection.dialect)]
    else:
        files = [read_solver(source.path, dialect=selection.dialect)]
    return [_solver_context(source, file, selection) for file in files]


def _solver_context(source: Source, file: SolverFile, selection: Selection) -> SolverContext:
    profile = choose_profile(selection.caffe, file.dialect, file.message)
    context = SolverContext(source.label, profile, file.dialect, selection.dialect, file=file)
    name = file.message.net or file.message.train_net
    found = source.resolve(name) if name else None
    if found is not None and found.kind == "net":
        try:
            context.net = _net_context(found, selection)
        except CaffeIOError:
            context.net = None
        context.net_path = found.path
        context.from_here = Path(name) == found.path
        if context.net is not None:
            context.profile = choose_profile(
                selection.caffe, file.dialect, file.message, context.net.dialect
            )
    return context


def _net_context(source: Source, selection: Selection) -> NetContext:
    file = read_net(source.path, dialect=selection.dialect)
    profile = choose_profile(selection.caffe, file.dialect)
    search = (str(source.path.parent),)
    return NetContext(
        source.label,
        profile,
        file.dialect,
        selection.dialect,
        file=file,
        search=search,
        target=selection.target,
    )


def _not_ignored(
    found: Sequence[Finding], context: NetContext | SolverContext
) -> Iterable[Finding]:
    """Leave out what a comment `# caffeio: ignore CODE` on the same line asks to leave out."""
    lines = (context.file.text or "").split("\n")
    for finding in found:
        line = lines[finding.line - 1] if 0 < finding.line <= len(lines) else ""
        match = _IGNORE.search(line)
        if match is None or (
            match[1] and finding.code not in re.split(r"[,\s]+", match[1].strip())
        ):
            yield finding


__all__ = ["RULES", "Fix", "Selection", "fixed_text", "lint", "rules"]
