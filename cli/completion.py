"""`caffeio completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="\b\nExamples:\n"
    "  caffeio completion bash > ~/.local/share/bash-completion/completions/caffeio\n"
    "  caffeio completion zsh > ~/.zfunc/_caffeio\n"
    "  caffeio completion fish > ~/.config/fish/completions/caffeio.fish"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes caffeio's commands and options in SHELL."""
    from caffeio.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three shells
    click.echo(kind(main, {}, "caffeio", "_CAFFEIO_COMPLETE").source())
