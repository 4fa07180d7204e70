"""How a field is named on a command line: `layer[conv1].convolution_param.kernel_size`.

A path is names with dots between them. Behind a repeated field, selectors in brackets choose its
elements: a number (`layer[3]`, `stepvalue[-1]`), a name (`layer[conv1]`; of values: the value
itself, `bottom[data]`), a condition (`layer[type=Convolution]`, `layer[include.phase=TEST]`) or
`*`. Several selectors narrow down one after the other: `layer[data][include.phase=TRAIN]`. Quotes
take the meaning from what is in them: `layer["3"]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from caffeio.errors import CaffeIOError

T = TypeVar("T")

_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*", re.ASCII)
_SELECTOR = re.compile(r"""\[\s*(?:"([^"]*)"|'([^']*)'|([^\]"']*(?:"[^"]*"|'[^']*')?))\s*\]\s*""")
_CONDITION = re.compile(r"""([A-Za-z_][\w.]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|(.*))""", re.ASCII)


@dataclass(frozen=True, slots=True)
class Selector:
    """One choice among elements; `kind` is index, name, where or all."""

    kind: str
    value: str
    key: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PathStep:
    """A field's name and the selectors behind it."""

    name: str
    selectors: tuple[Selector, ...] = ()

    def __str__(self) -> str:
        """As it is written in a path."""
        return self.name + "".join(f"[{_shown(s)}]" for s in self.selectors)

    @property
    def new_index(self) -> int | None:
        """The index, if that is the only selector: an element of that index may be made."""
        if len(self.selectors) == 1 and self.selectors[0].kind == "index":
            return int(self.selectors[0].value)
        return None


def _shown(selector: Selector) -> str:
    if selector.kind == "where":
        return f"{'.'.join(selector.key)}={selector.value}"
    return "*" if selector.kind == "all" else selector.value


def parse_path(text: str) -> list[PathStep]:
    """The steps of a path; CaffeIOError if it is none."""
    steps, at = _steps(text, 0)
    if at != len(text):
        raise _broken(text, at)
    return steps


def parse_assignment(text: str) -> tuple[list[PathStep], str, str]:
    """Path, operator ("=" or "+=") and value of `KEY=VALUE` or `KEY+=VALUE`."""
    steps, at = _steps(text, 0)
    rest = text[at:]
    for operator in ("+=", "="):
        if rest.startswith(operator):
            return steps, operator, rest[len(operator) :].strip()
    raise CaffeIOError(f"expected KEY=VALUE, found {text!r}")


def _steps(text: str, at: int) -> tuple[list[PathStep], int]:
    steps: list[PathStep] = []
    while True:
        name = _NAME.match(text, at)
        if name is None:
            raise _broken(text, at)
        at = name.end()
        selectors = []
        while text.startswith("[", at):
            match = _SELECTOR.match(text, at)
            if match is None:
                raise _broken(text, at)
            selectors.append(_selector(*match.groups()))
            at = match.end()
        steps.append(PathStep(name[1], tuple(selectors)))
        if not text.startswith(".", at):
            return steps, at
        at += 1


def _selector(double: str | None, single: str | None, bare: str | None) -> Selector:
    if bare is None:
        return Selector("name", double if double is not None else single or "")
    bare = bare.strip()
    if bare == "*":
        return Selector("all", "")
    if re.fullmatch(r"-?\d+", bare):
        return Selector("index", bare)
    condition = _CONDITION.fullmatch(bare)
    if condition is None:
        return Selector("name", bare)
    key, double, single, plain = condition.groups()
    value = next(v for v in (double, single, plain) if v is not None)
    return Selector("where", value, tuple(key.split(".")))


def _broken(text: str, at: int) -> CaffeIOError:
    what = f"at {text[at:]!r}" if at < len(text) else "at its end"
    return CaffeIOError(
        f"{text!r} is not the path of a field ({what}); paths look like "
        "base_lr, layer[conv1].convolution_param.kernel_size or layer[type=Pooling].name"
    )


def select(
    elements: Sequence[T],
    selectors: Sequence[Selector],
    named: Callable[[T, str], bool],
    having: Callable[[T, tuple[str, ...], str], bool],
) -> list[T]:
    """The elements that all selectors choose, in their order.

    `named` and `having` say whether an element has a name, or a value at a path within it.
    """
    chosen = list(elements)
    for selector in selectors:
        if selector.kind == "index":
            index = int(selector.value)
            chosen = chosen[index:][:1] if -len(chosen) <= index < len(chosen) else []
        elif selector.kind == "name":
            chosen = [element for element in chosen if named(element, selector.value)]
        elif selector.kind == "where":
            chosen = [e for e in chosen if having(e, selector.key, selector.value)]
    return chosen
