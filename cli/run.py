"""`caffeio run`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio run classify.py cat.jpg
  caffeio run --py2 train_net.py --gpu 0
  caffeio run -m unittest discover tests
  PYTHONPATH=$(caffeio run --path) python classify.py
"""


class RunCommand(click.Command):
    """Leaves everything behind SCRIPT, `-m MODULE` or `-c CODE` to the script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Cut the arguments where the script's own begin."""
        own: list[str] = []
        rest = list(args)
        while rest and rest[0].startswith("-") and rest[0] != "-":
            own.append(rest.pop(0))
            if own[-1] in ("-m", "-c"):
                own += rest[:1]
                del rest[:1]
                break
            if own[-1].startswith(("-m", "-c")) and not own[-1].startswith("--"):
                break
        ctx.obj = rest
        super().parse_args(ctx, own)
        return rest


@click.command(
    epilog=EPILOG,
    cls=RunCommand,
    options_metavar="[OPTIONS] SCRIPT | -m MODULE | -c CODE [ARGS]...",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does.")
@click.option("-c", "code", metavar="CODE", help="Run a text, as `python -c` does.")
@click.option("--py2", is_flag=True, help="The script is Python 2: translate it, and its modules.")
@click.option("--show", is_flag=True, help="With --py2: print what was changed, to stderr.")
@click.option("--path", is_flag=True, help="Print the folder to put into PYTHONPATH, and end.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Run a script written for pycaffe: `import caffe` in it is caffeio's.

    Everything behind SCRIPT, MODULE or CODE goes to the script. `type: "Python"` layers run.
    """
    from caffeio.pycaffe import script

    rest: list[str] = ctx.obj
    if options["path"]:
        say(script.python_path())
        return
    module, code = options["module"], options["code"]
    if options["show"] and not options["py2"]:
        raise click.UsageError("--show goes with --py2.", ctx)
    if module or code:
        if options["py2"]:
            raise click.UsageError("--py2 takes a SCRIPT, not -m or -c.", ctx)
        ctx.exit(script.run_module(module, rest) if module else script.run_code(code, rest))
    if not rest:
        raise click.UsageError("Give a SCRIPT, -m MODULE or -c CODE.", ctx)
    show = (lambda text: say(text, err=True)) if options["show"] else None
    ctx.exit(script.run_script(rest[0], rest[1:], py2=options["py2"], show=show))
