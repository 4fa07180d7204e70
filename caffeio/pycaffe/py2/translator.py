"""Python 2 source to a Python 3 syntax tree that computes what Python 2 computed.

Grammar (print, exec, except, raise, backquotes, octal numbers ...) is fissix's work, on the text.
What only shows when the code runs (division, dict views, `.next()`) is changed in the syntax tree:
it calls the functions of caffeio.pycaffe.py2.runtime, under the name `__py2__`.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
import warnings
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any

from caffeio.errors import ParseError, UnsupportedError

HELPER = "__py2__"
_FIXERS = (
    "except", "exec", "funcattrs", "methodattrs", "metaclass", "ne", "numliterals", "paren",
    "print", "raise", "repr", "sys_exc", "throw", "tuple_params", "unicode_literals",
)  # fmt: skip
_ENCODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_ITERATORS = {"iterkeys": "keys", "itervalues": "values", "iteritems": "items"}
_VIEWS = {"viewkeys": "keys", "viewvalues": "values", "viewitems": "items"}
_RENAMED = {  # methods with a special meaning: name in Python 2 -> name now
    "next": "__next__", "__nonzero__": "__bool__", "__div__": "__truediv__",
    "__rdiv__": "__rtruediv__", "__idiv__": "__itruediv__",
}  # fmt: skip


@dataclass(frozen=True)
class Translation:
    """A translated file: `tree` to be compiled, `text` with today's grammar, and what changed."""

    path: str
    before: str
    text: str
    tree: ast.Module
    notes: list[tuple[int, str]] = field(default_factory=list)

    def compile(self) -> CodeType:
        """The code; warnings about old habits are not shown."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code: CodeType = compile(self.tree, self.path, "exec", dont_inherit=True)
        return code

    def compile_expression(self) -> CodeType:
        """The code of the one expression that the text is, for eval."""
        body = self.tree.body
        if len(body) != 1 or not isinstance(body[0], ast.Expr):
            raise SyntaxError(f"not an expression: {self.before!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code: CodeType = compile(ast.Expression(body[0].value), self.path, "eval")
        return code

    def changes(self) -> str:
        """What was changed: a diff of the text, then `line N: ...` for what only shows in the tree.

        Empty if nothing was.
        """
        lines = difflib.unified_diff(
            self.before.splitlines(), self.text.splitlines(), self.path, f"{self.path} (Python 3)",
            lineterm="", n=0,
        )  # fmt: skip
        notes = dict.fromkeys(f"{self.path}:{line}: {note}" for line, note in sorted(self.notes))
        return "\n".join([*lines, *notes])


def translate(source: bytes | str, path: str) -> Translation:
    """Translate the source of a Python 2 file; `path` names it in errors and tracebacks.

    A file that is Python 3 as well is taken as Python 2: `/` divides as that did, unless it imports
    `division` from `__future__`. Raises ParseError if it is neither, UnsupportedError if fissix is
    not there.
    """
    before = decode(source, path)
    text = _today_s_grammar(_tabs_to_blanks(before), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text, path)
        except SyntaxError as error:
            raise ParseError(
                f"is not understood: {error.msg}", where=f"{path}:{error.lineno}:{error.offset}"
            ) from None
    change = _Meaning(_has_true_division(tree))
    tree = ast.fix_missing_locations(change.visit(tree))
    return Translation(path, before, text, tree, change.notes)


def decode(source: bytes | str, path: str) -> str:
    """The text of a source: in the encoding that its first lines name, UTF-8, or Latin-1."""
    if isinstance(source, str):
        return source.replace("\r\n", "\n")
    data = source.removeprefix(b"\xef\xbb\xbf")
    named = [
        match[1].decode() for line in data.split(b"\n")[:2] if (match := _ENCODING.match(line))
    ]
    for encoding in (*named[:1], "utf-8"):
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
        except LookupError:
            raise ParseError(f"unknown encoding {encoding!r}", where=f"{path}:1:1") from None
    return data.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")


def _tabs_to_blanks(text: str) -> str:
    """Widen tabs in indentation to the next multiple of 8, as Python 2 counted them."""
    if "\t" not in text:
        return text
    inside = _string_lines(text)
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        body = line.lstrip(" \t\f")
        indent = line[: len(line) - len(body)]
        if "\t" in indent and number not in inside:
            lines[number - 1] = indent.expandtabs(8) + body
    return "\n".join(lines)


def _string_lines(text: str) -> set[int]:
    """The lines that begin inside a string."""
    pgen = _fissix("pgen2.tokenize")
    inside: set[int] = set()
    try:
        for kind, _, start, end, _ in pgen.generate_tokens(io.StringIO(text).readline):
            if kind == tokenize.STRING:
                inside.update(range(start[0] + 1, end[0] + 1))
    except Exception:  # noqa: BLE001 (the parser says what is wrong, and where)
        return inside
    return inside


def _fissix(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"fissix.{name}")
    except ModuleNotFoundError:
        raise UnsupportedError(
            "translating Python 2 needs the package fissix: pip install 'caffeio[py2]'"
        ) from None


@cache
def _tool(print_is_a_function: bool) -> Any:
    refactor = _fissix("refactor")
    names = [f"fissix.fixes.fix_{name}" for name in _FIXERS if name != "unicode_literals"]
    names.append("caffeio.pycaffe.py2.fix_literals")
    options = {"print_function": print_is_a_function}
    if print_is_a_function:
        names.remove("fissix.fixes.fix_print")
    return refactor.RefactoringTool(names, options)


def _today_s_grammar(text: str, path: str) -> str:
    """The text with Python 3's grammar; a file in which print is a function is read as such."""
    problem, text = None, text if text.endswith("\n") else text + "\n"
    for print_is_a_function in (False, True):
        try:
            return str(_tool(print_is_a_function).refactor_string(text, path))
        except (_fissix("pgen2.parse").ParseError, _fissix("pgen2.tokenize").TokenError) as error:
            problem = problem or error
        except IndentationError as error:
            where = f"{path}:{error.lineno}:{error.offset}"
            raise ParseError("is indented wrongly", where=where) from None
    line, column = _place(problem)
    near = getattr(problem, "value", None)
    what = f" near {near!r}" if near and near.strip() else ""
    raise ParseError(f"is not Python 2: bad syntax{what}", where=f"{path}:{line}:{column + 1}")


def _place(problem: Any) -> tuple[int, int]:
    place = problem.context[1] if hasattr(problem, "context") else problem.args[1]
    return int(place[0]), int(place[1])


def _has_true_division(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(name.name == "division" for name in node.names)
        for node in tree.body
    )


class _Meaning(ast.NodeTransformer):
    """Changes what has another meaning in Python 3."""

    def __init__(self, true_division: bool) -> None:
        self.true_division = true_division
        self.notes: list[tuple[int, str]] = []

    def _call(self, old: ast.expr, name: str, *args: ast.expr, note: str = "") -> ast.Call:
        if note:
            self.notes.append((old.lineno, note))
        helper = ast.Attribute(ast.Name(HELPER, ast.Load()), name, ast.Load())
        return ast.copy_location(ast.Call(helper, list(args), []), old)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """a / b"""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div) or self.true_division:
            return node
        return self._call(node, "div", node.left, node.right, note="/ divides as in Python 2")

    def visit_Slice(self, node: ast.Slice) -> ast.expr:
        """a[b:c] with whole numbers that are floats, which old NumPy took."""
        self.generic_visit(node)
        for side in ("lower", "upper", "step"):
            value = getattr(node, side)
            if value is not None and not isinstance(value, ast.Constant | ast.UnaryOp):
                setattr(node, side, self._call(value, "whole", value))
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """a < b, where a and b may be of types that have no order"""
        self.generic_visit(node)
        symbol = type(node.ops[0]).__name__
        if len(node.ops) > 1 or symbol not in ("Lt", "LtE", "Gt", "GtE"):
            return node
        return self._call(node, "compare", ast.Constant(symbol), node.left, node.comparators[0])

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        """a /= b"""
        self.generic_visit(node)
        if isinstance(node.op, ast.Div) and not self.true_division:
            note = "/= divides as in Python 2"
            node.value = self._call(node.value, "Divisor", node.value, note=note)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Methods that dicts, strings, iterators and arrays no longer have."""
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute):
            return node
        name, owner, bare = node.func.attr, node.func.value, not node.args and not node.keywords
        if bare and name in ("keys", "values", "items"):
            return self._call(node, "listed", node, note=f".{name}() is a list")
        if bare and name in _ITERATORS | _VIEWS:
            goal = (_ITERATORS | _VIEWS)[name]
            old = "iterator" if name in _ITERATORS else "view"
            args = (owner, ast.Constant(name), ast.Constant(goal))
            return self._call(node, old, *args, note=f".{name}() is .{goal}()")
        if bare and name == "next":
            return self._call(node, "next_of", owner, note=".next() is next()")
        if name in ("has_key", "sort", "decode", "tostring"):
            call = self._call(node, "method", owner, ast.Constant(name))
            made = ast.Call(call, node.args, node.keywords)
            if name != "sort":
                self.notes.append((node.lineno, f".{name}() as in Python 2"))
            return ast.copy_location(made, node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        """Special methods that have another name."""
        self.generic_visit(node)
        there = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        for old, new in _RENAMED.items():
            if old in there and new not in there:
                self.notes.append((node.lineno, f"{node.name}.{old} is {new} too"))
                same = ast.Assign([ast.Name(new, ast.Store())], ast.Name(old, ast.Load()))
                node.body.append(ast.copy_location(same, node.body[-1]))
        return node
