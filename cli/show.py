"""`caffeio show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffeio.cli._files import write_output
from caffeio.cli._given import apart
from caffeio.cli._options import caffe, dialect, forms, input_shape, output, phase, state
from caffeio.cli._terminal import write_report
from caffeio.proto.io.opened import opened_once

EPILOG = """\b
Examples:
  caffeio show train_val.prototxt --phase TRAIN
  caffeio show model.caffemodel --html -o model.html
  caffeio show deploy.prototxt --weights model.caffemodel --json
  caffeio show deploy.prototxt --input data=1,3,224,224 --svg -o net.svg
  caffeio show solver.prototxt
  caffeio show solver_init.prototxt solver_cyc1.prototxt --workers 128
  caffeio show train_val.prototxt --script onnxruntime
  caffeio show train_lmdb/
"""

SCREEN = 24  # rows of long tables that fit on one
FORMS = {
    "tree": "Show the net as a tree of its data flow.",
    "json": "Write all of it as JSON.",
    "html": "Write one self-contained page: the graph drawn, layers, histograms of weights.",
    "dot": "Write the net in Graphviz's language.",
    "svg": "Draw the net.",
}


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@forms(**FORMS)
@output()
@phase(None, "Show the net in this phase only (default: both, where they differ).")
@state()
@input_shape("inputs", "The shape of an input or data blob")
@click.option(
    "--weights", "-w", type=click.Path(path_type=Path), help="Weights to show with the net."
)
@click.option("--dataset-size", type=click.IntRange(1), metavar="N",
              help="Solvers: images in an epoch (default: those of the data).")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=1, metavar="N",
              help="Solvers: processes that train at once; batch_size is for each.")  # fmt: skip
@click.option("--speed", type=click.FloatRange(0, min_open=True), metavar="IMAGES",
              help="Solvers: images a second of all workers; tells the hours.")  # fmt: skip
@click.option(
    "--script",
    type=click.Choice(["opencv", "onnxruntime", "pytorch"]),
    help="Print a program that feeds a picture to what convert makes of the net.",
)
@click.option("--all", "-a", "show_all", is_flag=True, help="Show every layer, blob and default.")
@dialect()
@caffe(text="Whose Caffe runs the file")
@opened_once()
def command(files: tuple[str, ...], **options: Any) -> None:
    """Say what a Caffe file is, on one screen; --all shows every row of long tables.

    FILE is a prototxt (net, solver, label map), a .caffemodel or .solverstate (binary or HDF5), a
    mean .binaryproto, an ONNX model, a safetensors, PyTorch or NumPy file, an LMDB or another
    folder, `-` for standard input, or REVISION:PATH of a git repository. A net may be
    followed by its weights. Several solvers are the phases of one training, whose images, epochs
    and hours are added up.
    """
    from caffeio.converters.source import open_source, scratch_folder

    apart(options["output"])
    with scratch_folder() as scratch:
        sources = [open_source(file, scratch) for file in files]
        net_and_weights = len(sources) == 2 and sources[0].kind == "net" and (
            sources[1].kind in ("caffemodel", "caffemodel.h5")
        )  # fmt: skip
        if net_and_weights and options["weights"] is None:
            options["weights"] = sources.pop().path
        if len(sources) > 1 or sources[0].kind == "phases":
            _write_report(None, _chain(sources, options), options)
            return
        [source] = sources
        if source.kind in ("net", "caffemodel", "caffemodel.h5"):
            text, report = _net(source, options)
        else:
            text, report = _other(source, options)
        _write_report(text, report, options)


def _net(source: Any, options: dict[str, Any]) -> tuple[str | None, Any]:
    from caffeio.converters.request import parse_input_shape
    from caffeio.converters.show import nets
    from caffeio.errors import CaffeIOError

    phase = options["phase"]
    shown = nets.load(
        source,
        chosen := nets.ShowOptions(
            phase.upper() if phase else None,
            options["stages"],
            options["level"],
            dict(map(parse_input_shape, options["inputs"])),
            options["dialect"],
            options["caffe"],
            options["show_all"],
            options["weights"],
        ),
    )
    if options["script"]:
        from caffeio.converters.preprocessing import script

        found = nets.recipe(shown)
        if found is None:
            raise CaffeIOError("it reads no pictures whose size is known", where=source.label)
        return script(found, options["script"], source.path.stem), None
    form = options["form"]
    report = nets.report(shown, chosen)
    if form in ("dot", "svg"):
        from caffeio.converters.show import graphics

        if shown.view is None:
            raise CaffeIOError("; ".join(shown.warnings) or "there is no net", where=source.label)
        return (graphics.dot if form == "dot" else graphics.svg)(shown.view), report
    if form == "html":
        from caffeio.converters.show import page

        return page.render(shown, report), report
    if form == "tree" and shown.view is not None:
        from caffeio.converters.show import tree

        report.sections = report.sections[:1]
        tree.report(shown.view, report.section("Data flow"))
    return None, report


def _run_options(options: dict[str, Any]) -> Any:
    from caffeio.converters.show.chain import ChainRun

    return ChainRun(options["workers"], options["dataset_size"], options["speed"])


def _chain(sources: list[Any], options: dict[str, Any]) -> Any:
    from caffeio.converters.show.chain import show_chain

    if options["script"]:
        raise click.UsageError("--script is for one net")
    if options["form"] not in ("text", "json", "html"):
        raise click.UsageError(f"--{options['form']} shows one net")
    return show_chain(
        sources, _run_options(options), dialect=options["dialect"], caffe=options["caffe"]
    )


def _other(source: Any, options: dict[str, Any]) -> tuple[str | None, Any]:
    from caffeio.converters.kinds import KINDS
    from caffeio.converters.show import solver_and_data_views as views
    from caffeio.converters.show import tensors
    from caffeio.errors import CaffeIOError

    form, kind = options["form"], source.kind
    if options["script"]:
        raise CaffeIOError(
            f"--script is for a net, whose data layers tell its pictures: this is a {KINDS[kind]}",
            where=source.label,
        )
    if form in ("tree", "dot", "svg"):
        raise CaffeIOError(
            f"only nets can be shown so: this is a {KINDS[kind]}", where=source.label
        )
    if kind == "solver":
        report = views.show_solver(
            source,
            dialect=options["dialect"],
            caffe=options["caffe"],
            show_all=options["show_all"],
            run=_run_options(options),
        )
    elif kind in ("solverstate", "solverstate.h5"):
        report = views.show_state(source)
    elif kind == "mean":
        report = views.show_mean(source)
    elif kind == "lmdb":
        report = views.show_lmdb(source, show_all=options["show_all"])
    elif kind == "labelmap":
        report = views.show_label_map(source)
    elif kind == "directory":
        report = views.show_folder(source)
    elif kind == "onnx":
        report = tensors.show_onnx(source)
    elif kind in ("safetensors", "pt", "npz"):
        report = tensors.show_tensors(source)
    else:
        raise CaffeIOError(f"nothing is known of a {KINDS[kind]}", where=source.label)
    return None, report


def _write_report(text: str | None, report: Any, options: dict[str, Any]) -> None:
    if text is None:
        most = None if options["show_all"] else SCREEN
        form = "text" if options["form"] == "tree" else options["form"]
        write_report(
            report, form, options["output"], most=None if form != options["form"] else most
        )
    elif options["output"]:
        write_output(options["output"], [text.encode("utf-8", "backslashreplace")])
    else:
        click.echo(text, nl=not text.endswith("\n"))
