"""`caffeio lint`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from caffeio.cli._given import apart, there
from caffeio.cli._options import CODE, TARGET, caffe, dialect, forms, output
from caffeio.cli._terminal import say_json

EPILOG = """\b
Examples:
  caffeio lint solver.prototxt train_val.prototxt
  caffeio lint models/ --format github
  caffeio lint --fix train_val.prototxt
  caffeio lint --explain CIO302
  caffeio lint --target nnie deploy.prototxt
  caffeio lint . --ignore CIO402 --format sarif > lint.sarif

\b
A comment on the line keeps a rule quiet: # caffeio: ignore CIO402
"""


def _explain(context: click.Context, _: click.Parameter, code: str | None) -> None:
    if code is None or context.resilient_parsing:
        return
    from caffeio.converters.lint.run import RULES, rules

    chosen = rules() if code == "all" else [RULES[code]] if code in RULES else []
    if not chosen:
        from difflib import get_close_matches

        close = get_close_matches(code.upper(), list(RULES), 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise click.BadParameter(f"There is no rule {code!r}.{hint}")
    for one in chosen:
        click.secho(f"{one.code} {one.name} ({one.severity})", bold=True)
        click.echo(one.explanation + "\n")
    context.exit(0)


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--fix", is_flag=True, help="Write the safe fixes into the files; comments stay.")
@forms(
    "-f",
    json="Write the findings as JSON.",
    sarif="Write SARIF, for code scanning.",
    github="Write GitHub's annotations.",
)
@output()
@click.option("--select", multiple=True, metavar="CODE", type=CODE,
              help="Run only these rules (CIO4: all CIO4xx).")  # fmt: skip
@click.option("--ignore", multiple=True, metavar="CODE", type=CODE, help="Leave these rules out.")
@click.option("--info", is_flag=True, help="Also say what is merely worth knowing.")
@dialect("Hold the files against this dialect (default: what they tell).")
@caffe(text="Whose Caffe runs the files")
@click.option(
    "--target", metavar="NAME", type=TARGET, help="Say what this compiler refuses (see convert)."
)
@click.option(
    "--explain",
    metavar="CODE",
    type=CODE,
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Explain a rule (or `all`) and exit.",
)
def command(files: tuple[str, ...], **options: Any) -> None:
    """Find the mistakes in nets and solvers that Caffe accepts in silence, or dies of late.

    FILE is a prototxt, a folder with prototxts in it, `-` for standard input, or REVISION:PATH of a
    git repository.

    Exit code: 0 if nothing is found, 1 if there are errors or warnings, 2 in case of trouble.
    """
    apart(options["output"])
    there(*(name for name in files if ":" not in name))
    from caffeio.converters.lint.run import Selection, lint
    from caffeio.converters.source import open_source, scratch_folder

    selection = Selection(
        _codes(options["select"], "--select"),
        _codes(options["ignore"], "--ignore"),
        options["dialect"],
        options["caffe"],
        options["target"],
    )
    if options["target"]:
        from caffeio.converters.from_onnx.targets import get_target

        get_target(options["target"])
    found: list[Any] = []
    with scratch_folder() as scratch:
        sources = [s for name in files for s in _sources(open_source(name, scratch))]
        for source in sources:
            one = lint(source, selection)
            if options["fix"]:
                one = _fix(source, one, selection)
            found += one
    if not options["info"]:
        found = [finding for finding in found if finding.severity != "info"]
    to_stderr = options["fix"] and "-" in files
    _write_findings(found, len(sources), options["form"], options["output"], to_stderr=to_stderr)
    if any(finding.severity != "info" for finding in found):
        raise SystemExit(1)


def _codes(values: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The codes, or beginnings of codes, that an option names; one of no rule is an error."""
    from caffeio.converters.lint.run import RULES

    codes = [code for value in values for code in value.replace(",", " ").upper().split()]
    for code in codes:
        if not any(known.startswith(code) for known in RULES):
            from difflib import get_close_matches

            close = get_close_matches(code, list(RULES), 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise click.BadParameter(f"there is no rule {code!r}.{hint}", param_hint=option)
    return tuple(codes)


def _sources(source: Any) -> list[Any]:
    """The source itself, or the nets and solvers in a folder."""
    if source.kind != "directory":
        return [source]
    from dataclasses import replace

    from caffeio.converters.kinds import kind_of, members
    from caffeio.errors import CaffeIOError

    out = []
    for name, path in members(source.path):
        if ".prototxt" not in path.name and path.suffix != ".pbtxt":
            continue
        try:
            kind = kind_of(path)
        except CaffeIOError:
            continue
        if kind in ("net", "solver"):
            inside = f"{source.inside}/{name}" if source.inside else None
            label = str(Path(source.label, name))
            out.append(replace(source, label=label, path=path, kind=kind, inside=inside))
    return out


def _fix(source: Any, found: list[Any], selection: Any) -> list[Any]:
    """Write the fixes, and look again."""
    from caffeio.cli._files import write_output
    from caffeio.converters.lint.run import fixed_text, lint
    from caffeio.errors import CaffeIOError
    from caffeio.proto.files import encode_text, read_text

    if source.revision is not None:
        raise CaffeIOError("--fix writes files, not git revisions", where=source.label)
    text = read_text(source.path)
    new, _ = fixed_text(text, found, source.label)
    if source.label == "<stdin>":
        write_output("-", [encode_text(new)])
        source.path.write_bytes(encode_text(new))  # a copy of ours
    elif new != text:
        write_output(str(source.path), [encode_text(new)])
    return lint(source, selection)


def _write_findings(
    found: list[Any], files: int, form: str, target: str | None, *, to_stderr: bool
) -> None:
    import io

    from caffeio.cli._files import write_output
    from caffeio.converters.lint import output as forms_of

    stream = io.StringIO() if target else sys.stderr if to_stderr else sys.stdout
    if form in ("json", "sarif"):
        from caffeio import __version__
        from caffeio.converters.lint.run import rules

        data: Any = forms_of.as_data(found, rules())
        if form == "sarif":
            data = forms_of.sarif(found, rules(), __version__)
        say_json(data, file=stream)
    elif form == "github":
        for finding in found:
            click.echo(forms_of.github(finding), file=stream)
    else:
        from caffeio.converters.report import text

        text.write(forms_of.report(found, files), stream, fold=stream.isatty())
    if target:
        assert isinstance(stream, io.StringIO)
        write_output(target, [stream.getvalue().encode("utf-8", "backslashreplace")])
