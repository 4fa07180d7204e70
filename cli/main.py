"""The `caffeio` command: finds the subcommand, shows errors in one place, sets the exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from caffeio import __version__
from caffeio.cli._terminal import discard
from caffeio.errors import CaffeIOError
from caffeio.visible import visible_lines

# Command -> (module of caffeio.cli, one line for --help). A module is imported when its command
# runs, so that `caffeio --help` stays quick.
COMMANDS = {
    "caffe": ("caffe", "Run Caffe's own command lines: train, test, time, device_query."),
    "completion": ("completion", "Print the script for completion in bash, zsh or fish."),
    "convert": ("convert", "Convert a model between formats and dialects."),
    "db": ("db", "Make a database of your data, look into it, check it."),
    "demo": ("demo", "Train, export and check a small recipe on data made on the spot."),
    "convert-imageset": ("convert_imageset", "Write a list of images into a database."),
    "device-query": ("device_query", "Say what the GPUs are: Caffe's `caffe device_query`."),
    "diff": ("diff", "Show how two solvers, nets, weight files or LMDBs differ."),
    "edit": ("edit", "Change fields of a prototxt and nothing else."),
    "extract-features": ("extract_features", "Write what blobs hold for the net's own data."),
    "features": ("features", "Draw what a net sees in one picture."),
    "image-mean": ("image_mean", "Compute the mean image of a database."),
    "layers": ("layers", "List the layer types, and which nets of a folder can be built."),
    "lint": ("lint", "Find the mistakes that Caffe accepts in silence."),
    "plot": ("plot", "Draw learning rates of solvers, or the curves of trainings."),
    "run": ("run", "Run a script written for pycaffe: `import caffe` is caffeio's."),
    "scale": ("scale", "Rewrite solvers for another number of workers."),
    "show": ("show", "Say what a Caffe file is, on one screen."),
    "test": ("test", "Score a model: Caffe's `caffe test`, and ensembles."),
    "time": ("time", "Time a model layer by layer: Caffe's `caffe time`."),
    "train": ("train", "Train a solver, or a chain of solvers."),
    "verify": ("verify", "Compare two models layer by layer."),
    "upgrade": ("upgrade", "Rewrite an old net or solver in today's form."),
}

_RUN_NETS = ("train", "test", "time", "caffe")
_HELP = ("-help", "-helpshort", "--helpfull", "-?")  # gflags' ways to ask


def _worker() -> str:
    """Which of several workers speaks."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return f" (worker {os.environ.get('RANK', '?')})" if several else ""


def _lost(error: BaseException) -> bool:
    """Whether a training of several workers has lost one of them."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    from caffeio.training.connection import is_connection_error

    return is_connection_error(error)


class CommandGroup(click.Group):
    """Loads commands when they are used and turns user errors into exit code 2."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run the command line; a process that is ours and runs nets keeps freed memory."""
        runs = args is None and sys.argv[1:2] and sys.argv[1] in _RUN_NETS
        if runs and not {"--help", "-h", *_HELP} & set(sys.argv):
            from caffeio.memory import keep_freed_memory

            keep_freed_memory()
        try:
            return super().main(args, *rest, **options)
        except BrokenPipeError:  # whoever reads our errors, or --help, has gone
            discard(sys.stdout)
            discard(sys.stderr)
            sys.exit(141)
        except OSError as error:  # --help onto a full disk
            if error.strerror is None or "--debug" in (sys.argv if args is None else args):
                raise
            discard(sys.stdout)
            with suppress(OSError):  # the disk of standard error, perhaps
                click.echo(f"Error: {error.strerror}", err=True)
            sys.exit(2)
        except SystemExit as end:  # click wraps what it could not write --help to, and says 1
            if end.code == 1 and type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
                sys.exit(141)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"caffeio.cli.{COMMANDS[cmd_name][0]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one gets a suggestion. gflags' `-help` is `--help`."""
        if args[0] not in COMMANDS:
            from caffeio.cli._hints import for_command

            hint = for_command(args[0], COMMANDS, args[1:])
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx)
        if args[0] != "run":  # whose arguments are the script's
            args = ["--help" if token in _HELP else token for token in args]
        ctx.meta["caffeio.words"] = args
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a CaffeIOError becomes one message on stderr and exit code 2."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that has gone or a full disk is handled
            return result
        except click.NoSuchOption as error:
            from caffeio.cli._hints import for_option

            inner = error.ctx or ctx
            hint = for_option(error.option_name, inner, ctx.meta.get("caffeio.words", ()))
            said = visible_lines(f"No such option {error.option_name!r}. {hint}".rstrip())
            raise click.UsageError(said, inner) from None
        except click.exceptions.Exit:  # a RuntimeError: --help is at its end
            raise
        except click.ClickException as error:
            object.__setattr__(error, "message", visible_lines(error.message))
            raise
        except CaffeIOError as error:
            if ctx.params.get("debug"):
                raise
            return self._fail(ctx, str(error))
        except BrokenPipeError:
            discard(sys.stdout)  # the reader of our pipe has gone: nothing to say
            ctx.exit(141)
        except OSError as error:  # a folder that is not there, a disk that is full ...
            if ctx.params.get("debug") or error.strerror is None:
                raise
            discard(sys.stdout)
            place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            return self._fail(ctx, f"{place}{error.strerror}")
        except (MemoryError, RuntimeError, ValueError, OverflowError) as error:
            from caffeio.memory import is_memory_error, layer_of, memory_error

            if not ctx.params.get("debug") and _lost(error):
                from caffeio.training.connection import lost_workers

                return self._fail(ctx, str(lost_workers(error)))
            if ctx.params.get("debug") or not is_memory_error(error):
                raise
            return self._fail(ctx, str(memory_error(error, layer_of(error))))

    @staticmethod
    def _fail(ctx: click.Context, text: str) -> None:
        click.echo(f"Error{_worker()}: {visible_lines(text)}", err=True)
        ctx.exit(2)


@click.group(
    cls=CommandGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, "--version", "-V", prog_name="caffeio")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Read, run, train, convert and write Caffe models of every fork, on PyTorch."""
    gc.set_threshold(100_000, 20, 50)  # by default a net of 10,000 layers is searched 70 times
