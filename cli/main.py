"""The `flota` command: what there is, and how a failure ends.

Everything else is imported when its command is named (groups.py).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import click

from flota.cli.failures import report
from flota.cli.groups import Group, Lazy

# The same as flota.rpc.channels.DEFAULT_HOST, which costs an import of gRPC.
DEFAULT_HOST = "unix:///run/flota/flota.sock"
# Set by the shells' completion scripts (flota completion).
COMPLETE_VARIABLE = "_FLOTA_COMPLETE"


@dataclass(frozen=True)
class Settings:
    """What is the same for all commands."""

    host: str = DEFAULT_HOST
    # "stale", or empty for answers that hold everything that was acknowledged before.
    consistency: str = ""


def _command(name: str, help: str, module: str | None = None) -> tuple[str, Lazy]:
    return name, Lazy(f"flota.cli.commands.{module or name}", name, help)


COMMANDS = dict(
    [
        _command("service", "Run containers on the swarm's nodes, and keep them running"),
        _command("stack", "Deploy applications from Compose files"),
        _command("node", "The machines of the swarm"),
        _command("swarm", "Begin, join, leave and configure a swarm"),
        _command("network", "Networks that span the nodes"),
        _command("secret", "Secrets for services", "files"),
        _command("config", "Configuration files for services", "files"),
        _command("task", "What runs: tasks, their logs and processes"),
        ("exec", Lazy("flota.cli.commands.exec", "exec_command", "Run a command in a task's container")),
        _command("volume", "Named volumes on the nodes"),
        _command("attach", "Be at the terminal of a task's own program"),
        _command("stats", "What tasks use, live"),
        _command("image", "Images on this node"),
        _command("backup", "Keep the swarm's state in a file, and restore it"),
        _command("login", "Remember credentials for a registry"),
        _command("logout", "Forget the credentials for a registry", "login"),
        _command("simulate", "What a plan would do on so many nodes, on virtual time"),
        _command("migrate", "Take over services from a Docker swarm"),
        _command("lab", "A whole swarm on this machine, to try things out"),
        _command("daemon", "Run this machine's flota daemon"),
        _command("info", "This node and its swarm", "system"),
        _command("events", "What happens in the swarm, as it happens"),
        _command("doctor", "Look for what is wrong with this machine and its node"),
        _command("version", "Versions of this command and of the daemon", "system"),
        _command("completion", "Completion for bash, zsh or fish"),
    ]
)


@click.group(
    cls=Group,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.option(
    "-H",
    "--host",
    metavar="ADDRESS",
    help=f"The daemon to talk to (FLOTA_HOST; default {DEFAULT_HOST}).",
)
@click.option(
    "--consistency",
    type=click.Choice(["linearizable", "stale"]),
    help="stale: what this manager knows will do, even if it is old; the leader is not asked.",
)
@click.option("-v", "--version", is_flag=True, help="Print this command's version.")
@click.pass_context
def root(ctx: click.Context, host: str | None, consistency: str | None, version: bool) -> None:
    """A cluster scheduler with Docker Swarm's words."""
    ctx.obj = Settings(host or os.environ.get("FLOTA_HOST") or DEFAULT_HOST, "stale" if consistency == "stale" else "")
    if version:
        from importlib.metadata import version as version_of

        click.echo(f"flota version {version_of('flota')}")
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: the process's); give the exit status."""
    try:
        if os.environ.get(COMPLETE_VARIABLE):
            root.main(prog_name="flota")
        # Not root.main, which has words of its own for interrupts and for readers that have enough.
        with root.make_context("flota", list(sys.argv[1:] if argv is None else argv)) as ctx:
            root.invoke(ctx)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output (head, less) has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 0
    except (Exception, KeyboardInterrupt, click.exceptions.Exit) as error:  # noqa: BLE001 - the edge to the person
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
