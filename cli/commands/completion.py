"""`flota completion`: the script that a shell needs. Completing is click's work; names come from completing.py."""

from __future__ import annotations

import click

from flota.cli.groups import Command


@click.command(
    cls=Command,
    examples=[
        "source <(flota completion bash)",
        "flota completion bash > /etc/bash_completion.d/flota",
        'flota completion zsh > "${fpath[1]}/_flota"',
        "flota completion fish > ~/.config/fish/completions/flota.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete flota's commands, flags and names."""
    from click.shell_completion import ShellComplete, get_completion_class

    from flota.cli.main import COMPLETE_VARIABLE

    found = get_completion_class(shell)
    assert found is not None
    # The base class's source: bash's would start a bash to look at its version.
    script = ShellComplete.source(found(ctx.find_root().command, {}, "flota", COMPLETE_VARIABLE))
    click.echo(script.strip())
