"""`flota lab …`: what a person types, made into calls of Lab. Errors are one line."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from flota.node.lab import Lab, LabError, NoSuchLab, machine, places

_NAME = click.option("--name", default="lab", show_default=True, help="The lab.")


class _InOrder(click.Group):
    """Commands are listed as they stand below."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.pass_context
def lab(ctx: click.Context) -> None:
    """A whole swarm on this machine, to try things out: each node has a network, a /run, a process tree of its own.

    Nodes are called m1, m2… (managers) and w1, w2… (workers).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@lab.command(epilog="Example: flota lab up --managers 3 --workers 2 --load image.tar")
@_NAME
@click.option("--managers", type=click.IntRange(1, places.MOST_MANAGERS), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(0, places.MOST_WORKERS), default=2, show_default=True)
@click.option(
    "--load",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="An image every node shall have, as `docker save` or skopeo write it (can be repeated).",
)
@click.option("--no-swarm", is_flag=True, help="Leave the nodes by themselves: you run swarm init and join.")
def up(name: str, managers: int, workers: int, load: tuple[Path, ...], no_swarm: bool) -> None:
    """Boot a swarm and wait until every node is ready."""
    start = time.monotonic()
    dim, reset = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")

    def say(line: str) -> None:
        click.echo(f"{dim}· {line} ({time.monotonic() - start:.1f} s){reset}")

    one = Lab.up(name, managers, workers, load, swarm=not no_swarm, say=say)
    option = "" if name == "lab" else f"--name {name} "
    _table([("NODE", "ADDRESS", "ROLE"), *((node.name, node.address, _role(node.name)) for node in one.nodes.values())])
    tries = [
        (f"flota lab exec {option}m1 -- flota {'info' if no_swarm else 'node ls'}", "a command on a node"),
        (f'eval "$(flota lab env {option}m1)"', "then flota and docker talk to m1 from here"),
    ]
    if not no_swarm:
        tries.append(("flota service create --name web --replicas 3 busybox sleep 1000", "something to run"))
    if len(one.nodes) > 1:
        last = list(one.nodes)[-1]
        tries += [
            (f"flota lab kill {option}{last}", f"{last} loses power (start boots it again)"),
            (f"flota lab partition {option}m1", "m1 is cut off from the others (heal ends it)"),
        ]
    tries.append((f"flota lab down {option}".rstrip(), "remove it all"))
    width = max(len(command) for command, _ in tries)
    click.echo("\nTry:\n" + "\n".join(f"  {command:<{width}}  {dim}# {what}{reset}" for command, what in tries))


@lab.command()
@click.option("-q", "--quiet", is_flag=True, help="Names of labs only.")
def ls(quiet: bool) -> None:
    """List labs and their nodes."""
    if quiet:
        for name in Lab.names():
            click.echo(name)
        return
    rows = [("LAB", "NODE", "ADDRESS", "ROLE", "STATE")]
    for name in Lab.names():
        alive = machine.find(name)
        try:
            nodes = Lab.find(name).nodes
        except NoSuchLab:
            # It went just now.
            continue
        for node in nodes.values():
            rows.append((name, node.name, node.address, _role(node.name), "up" if node.name in alive else "down"))
        if not nodes:
            rows.append((name, "-", "-", "-", "broken (flota lab down removes it)"))
    _table(rows)


@lab.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@_NAME
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, node: str, command: tuple[str, ...]) -> None:
    """Run a command on a node: flota lab exec m1 -- flota service ls."""
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("missing argument 'COMMAND...'")
    argv = machine.entering(Lab.find(name).node(node).pid, words)
    os.execvpe(argv[0], argv, machine.environment())


@lab.command()
@_NAME
@click.argument("node")
def kill(name: str, node: str) -> None:
    """A node loses power: containers and all."""
    Lab.find(name).kill(node)
    click.echo(node)


@lab.command()
@_NAME
@click.argument("node")
def start(name: str, node: str) -> None:
    """Boot a killed node again, from its disk."""
    Lab.find(name).start(node)
    click.echo(node)


@lab.command()
@_NAME
@click.argument("a", metavar="NODE[,NODE...]")
@click.argument("b", metavar="[NODE[,NODE...]]", required=False)
def partition(name: str, a: str, b: str | None) -> None:
    """Cut the network between some nodes and others (default: all the others)."""
    one = Lab.find(name)
    side = a.split(",")
    other = b.split(",") if b is not None else [node for node in one.nodes if node not in side]
    one.partition(side, other)
    click.echo(f"{' '.join(side)} | {' '.join(other)}")


@lab.command()
@_NAME
def heal(name: str) -> None:
    """End all partitions."""
    Lab.find(name).heal()


@lab.command()
@_NAME
@click.argument("node")
def env(name: str, node: str) -> None:
    """Print what makes flota and docker talk to a node: eval "$(flota lab env m1)"."""
    for variable, value in Lab.find(name).node(node).environment().items():
        click.echo(f"export {variable}={shlex.quote(value)}")


@lab.command()
@_NAME
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.argument("node")
def logs(name: str, node: str, follow: bool) -> None:
    """Show what a node's daemon has written."""
    log = Lab.find(name).node(node).disk / "log"
    if not log.exists():
        raise LabError(f"node {node} has written nothing yet")
    os.execvp("tail", ["tail", "-n", "+1", *(["-F"] if follow else []), str(log)])


@lab.command()
@_NAME
def down(name: str) -> None:
    """Remove a lab: processes, interfaces, control groups and disks."""
    places.check_name(name)
    machine.check_tools()
    try:
        Lab.find(name).down()
        click.echo(f"lab {name} is gone")
    except NoSuchLab:
        click.echo(f"there is no lab {name}: nothing to do")


def _role(node: str) -> str:
    return "manager" if node.startswith("m") else "worker"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> int:
    """Run the command line; give the exit status."""
    try:
        lab.main(prog_name="flota lab", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "flota lab"
        message = error.format_message().rstrip(".")
        print(f"{path}: {message[:1].lower()}{message[1:]}. See '{path} --help'.", file=sys.stderr)
        return 2
    except LabError as error:
        print(f"flota: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"flota: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        print("flota: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
