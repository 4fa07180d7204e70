"""Markdown made from what the code says of itself."""

from __future__ import annotations

import inspect
import io
import logging
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

log = logging.getLogger("mkdocs.plugins.caffeio")  # its warnings fail a strict build

WIDE = "---\nhide: [toc]\n---\n\n"  # for pages that are one table

# Public names, by the question that a reader has.
API = {
    "Nets": ("caffeio.net:load_net", "caffeio.net:Net", "caffeio.net:NetRecipe"),
    "Solvers and training": (
        "caffeio.solver:learning_rates", "caffeio.training.trainer:Trainer", "caffeio.training.options:TrainOptions",
        "caffeio.training.events:Events",
        "caffeio.training.chain:run_chain", "caffeio.tools.score:score", "caffeio.solver:make_optimizer",
    ),
    "Files": (
        "caffeio.proto.files:read_net", "caffeio.proto.files:read_solver",
        "caffeio.proto.weights:load_weights", "caffeio.proto.weights.load:write_caffemodel",
        "caffeio.proto.weights.solverstate:read_solverstate",
        "caffeio.proto.weights.solverstate:write_solverstate",
        "caffeio.proto.text.text_format:parse", "caffeio.proto.text.text_format:format_message",
        "caffeio.proto.dialect.dialect:detect", "caffeio.proto.dialect.dialect:decode",
        "caffeio.proto.dialect.dialect:encode",
    ),
    "Conversions": (
        "caffeio.converters.onnx:export_onnx", "caffeio.converters.onnx:verify_onnx",
        "caffeio.converters.translate.translate:translate", "caffeio.converters.prototxt:write",
        "caffeio.converters.safetensors:write", "caffeio.converters.pytorch:write",
    ),
    "Data": ("caffeio.data:make_source", "caffeio.data.db.lmdb:write_lmdb"),
    "Layers": ("caffeio.layers.base:Layer", "caffeio.layers.base:layer"),
}  # fmt: skip


def cli() -> str:
    """Every command: what it does, its arguments and options as tables, its examples."""
    import click

    from caffeio.cli.main import main
    from caffeio.cli.main import COMMANDS

    parts = [
        "# Commands\n",
        "[Which command do I need?](../which.md) All commands take `-h` and `--help`; the exit code is "
        "0, 1 if something was found (`lint`, `diff`, `verify`, `db verify`), 2 after an error.\n",
    ]
    top = click.Context(main, info_name="caffeio", **main.context_settings)
    parts += _command(main, top, "caffeio")
    for name in sorted(COMMANDS):
        try:
            command = main.get_command(top, name)
        except ModuleNotFoundError as error:
            log.warning(f"caffeio {name} cannot be imported: {error}")
            continue
        assert command is not None
        context = click.Context(command, parent=top, info_name=name, terminal_width=88)
        parts += _command(command, context, f"caffeio {name}")
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                below = command.get_command(context, inner)
                assert below is not None
                here = click.Context(below, parent=context, info_name=inner, terminal_width=88)
                parts += _command(below, here, f"caffeio {name} {inner}")
    return "\n".join(parts)


def _command(command: Any, context: Any, title: str) -> list[str]:
    """One command's section."""
    usage = " ".join(command.collect_usage_pieces(context))
    out = [f"## {title}\n", f"`{title} {usage}`\n".replace(" `", "`"), _prose(command.help) + "\n"]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in record[0]:
            names, text = record
            rows.append((f"`{names}`".replace("|", "\\|"), _cell(text)))
    if rows:
        out.append(table(("option", "what it does"), rows))
    epilog = inspect.cleandoc((command.epilog or "").replace("\b\n", "")).strip()
    if epilog:
        head, _, examples = epilog.partition(":\n")
        lines = inspect.cleandoc("\n" + examples)
        out.append(f"{head}:\n\n```text\n{lines}\n```\n" if examples else epilog + "\n")
    return out


def _prose(text: str | None) -> str:
    """Click's help as Markdown: paragraphs, and blocks that keep their lines."""
    blocks = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(
        f"```text\n{block.removeprefix(chr(8)).strip(chr(10))}\n```"
        if block.startswith("\b")
        else _cell(" ".join(block.split()))
        for block in blocks
    )


def _cell(text: str) -> str:
    """Text that Markdown leaves as it is; what stands in backquotes is left alone."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"([<>*_|\[\]])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [part.replace("|", "\\|") for part in parts[1::2]]
    return "`".join(parts)


def api() -> str:
    """Signatures and docstrings of the public names."""
    parts = [
        "# Python\n",
        "`import caffeio` imports no torch; names are loaded when they are first used. What a "
        "user's file or option can cause derives from `caffeio.CaffeIOError`.\n",
    ]
    for title, names in API.items():
        parts.append(f"## {title}\n")
        found = [(*name.split(":"), _named(name)) for name in names]
        rows = [(f"[`{name}`](#{module}.{name})", f"`{module}`", _cell(_sentence(thing)))
                for module, name, thing in found]  # fmt: skip
        parts.append(table(("name", "from", "what it does"), rows))
        parts += [_entry(module, name, thing) for module, name, thing in found]
    parts.append("## Errors\n")
    errors = import_module("caffeio.errors")
    rows = [
        (f"`{name}`", f"`{cls.__mro__[1].__name__}`", _first(cls))
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if cls.__module__ == errors.__name__
    ]
    parts.append(table(("error", "is a", "meaning"), rows))
    return "\n".join(parts)


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _sentence(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def _entry(module: str, name: str, thing: Any) -> str:
    out = [f"### {name} {{ #{module}.{name} }}\n", f"From `{module}`.\n", _signature(name, thing)]
    out.append(_doc(thing))
    if inspect.isclass(thing):
        if "__init__" in vars(thing) and thing.__init__.__doc__:
            out.append(_doc(thing.__init__))
        out += [_member(thing, member) for member in _public(thing)]
    return "\n".join(out)


def _public(cls: type) -> Iterator[str]:
    """Documented methods and properties that the class itself defines."""
    for name, member in vars(cls).items():
        known = inspect.isfunction(member) or isinstance(member, property | classmethod)
        if known and not name.startswith("_") and name != "extra_repr" and inspect.getdoc(getattr(cls, name)):
            yield name


def _member(cls: type, name: str) -> str:
    member = inspect.getattr_static(cls, name)
    title = f"**{cls.__name__}.{name}**"
    if isinstance(member, property):
        return f"{title}: {_doc(member)}"
    return f"{title}\n\n{_signature(name, getattr(cls, name))}\n{_doc(getattr(cls, name))}"


class _Bare:
    """Shown as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _signature(name: str, thing: Any) -> str:
    given = inspect.signature(thing)
    parameters = [_plain(p) for p in given.parameters.values() if p.name not in ("self", "cls")]
    result = given.return_annotation
    if isinstance(result, str):
        result = inspect.Signature.empty if inspect.isclass(thing) else _Bare(result)
    text = str(inspect.Signature(parameters, return_annotation=result))
    return f"```text\n{name}{_folded(text) if len(name + text) > 88 else text}\n```\n"


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """Annotations without quotes, and only such defaults as a reader can type."""
    note, default = parameter.annotation, parameter.default
    if isinstance(note, str):
        parameter = parameter.replace(annotation=_Bare(note))
    if default is not inspect.Parameter.empty and not isinstance(
        default, str | int | float | tuple | None
    ):
        parameter = parameter.replace(default=_Bare("..."))
    return parameter


def _folded(text: str) -> str:
    """One parameter a line."""
    depth, lines, line = 0, [], ""
    inside, end = text[1 : text.rindex(")")], text[text.rindex(")") :]
    for char in inside:
        depth += (char in "[({") - (char in "])}")
        if char == "," and not depth:
            lines.append(f"    {line.strip()},")
            line = ""
        else:
            line += char
    return "\n".join(("(", *lines, f"    {line.strip()},", end))


def _doc(thing: Any) -> str:
    return (inspect.getdoc(thing) or "") + "\n"


def _first(thing: Any) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def layers() -> str:
    """Every layer type of this build."""
    from caffeio.layers import known_types
    from caffeio.layers.registry import lookup

    rows = []
    for kind in known_types():
        cls = lookup(kind, kind)
        family = f"`{cls.__module__.rpartition('.')[2]}`"
        rows.append((f"`{kind}`", str(cls.bottoms), str(cls.tops), family, _first(cls)))
    text = (
        f"{WIDE}# Layer types\n\n{len(rows)} types are built in. A package of yours can add more: "
        "[how to](../howto/layer.md).\n\n"
    )
    return text + table(("type", "bottoms", "tops", "file", "what it does"), rows)


def lint() -> str:
    """Every lint rule, as `caffeio lint --explain` shows it."""
    import_module("caffeio.converters.lint.run")
    from caffeio.converters.lint.model import RULES

    parts = [
        "# Lint rules\n",
        f"The {len(RULES)} rules of `caffeio lint`. CIO1xx are about the text, CIO2xx about the "
        "wiring, CIO3xx about shapes, CIO4xx about training, CIO5xx about solvers, CIO7xx about "
        "targets (`--target`).\n",
        table(("code", "name", "severity"), [
            (f"[{code}](#{code.lower()}-{RULES[code].name})", RULES[code].name, RULES[code].severity)
            for code in sorted(RULES)
        ]),
    ]  # fmt: skip
    for code in sorted(RULES):
        rule = RULES[code]
        parts.append(f"## {code} {rule.name}\n\n*{rule.severity}*. {rule.explanation}\n")
    return "\n".join(parts)


def profiles() -> str:
    """The named choices of each profile, with the comments of the source."""
    from caffeio import profiles as source

    shown = [source.BVLC, source.INTEL, source.NVIDIA]
    notes = _comments(source.Profile)
    rows = []
    for field in fields(source.Profile):
        if field.name != "name":
            values = [_value(getattr(profile, field.name)) for profile in shown]
            rows.append((f"`{field.name}`", *values, notes.get(field.name, "")))
    text = inspect.getdoc(source) or ""
    more = ", ".join(f"`{name}`" for name in source.PROFILES if name not in ("bvlc", "intel", "nvidia"))
    text = (
        f"{WIDE}# Profiles\n\n{text}\n\n`--caffe` of `train`, `test`, `plot`, `diff`, `lint` and `show`, "
        "or `profile=` in Python, chooses one; without it, the dialect of the files does, and for "
        f"solvers the fields that they use. Further profiles: {more}.\n\n"
    )
    return text + table(("choice", "bvlc", "intel", "nvidia", "what it is"), rows)


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`"


def _comments(cls: type) -> dict[str, str]:
    """Field name -> the comment on its lines."""
    out: dict[str, str] = {}
    name = ""
    readline = io.StringIO(inspect.getsource(cls)).readline
    start = True
    for token in tokenize.generate_tokens(readline):
        if token.type == tokenize.NAME and start:
            name = token.string
        elif token.type == tokenize.COMMENT and not start:
            out.setdefault(name, token.string.lstrip("# "))
        if token.type != tokenize.COMMENT:
            start = token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT) and (
                token.type != tokenize.NL or start
            )
    return {name: text.replace("|", "\\|") for name, text in out.items()}


def fidelity(rows: Sequence[Any]) -> str:
    """The table of the golden layer cases."""
    cells = []
    for row in rows:
        if row.arrays:
            worst = "equal" if row.worst == 0 else f"{row.worst:.1e}"
            cells.append((f"`{row.type}`", row.cases, row.arrays, worst, row.worst_case))
    cases, arrays = sum(row.cases for row in rows), sum(row.arrays for row in rows)
    worst = max(row.worst for row in rows)
    text = f"""# Measured fidelity

BVLC Caffe computed {cases} small cases of {len(rows)} layer types on a CPU; the arrays lie in
`tests/golden/layers`. When this site was built, caffeio computed the same and {arrays} arrays were
compared: outputs, losses, gradients of bottoms and of weights, and statistics after the pass. The
error is the largest difference, divided by the largest magnitude of Caffe's array. The worst of all
is {worst:.1e}; the tests allow 1e-5, and nothing at all where numbers are only moved or compared.
For scale: correct float32 programs that merely sum in another order are up to 7e-7 apart here.

Whole nets, trainings with every type of solver, learning rates, data layers, random numbers, logs
and error messages have golden files of their own beside these, and tests that compare with them.

"""
    return text + table(("type", "cases", "arrays", "largest error", "in case"), cells)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
