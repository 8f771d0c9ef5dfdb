"""Command groups that import a command's module only when somebody names the command.

`flota --help` must not pay for gRPC, YAML or messages, so a group knows its commands as (module, attribute, one line of
help) and nothing more. Examples stand at the end of each command's help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


# Docker's other words for commands; they work, and are not listed. `stack` has more.
ALIASES = {"list": "ls", "remove": "rm"}


class Lazy(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    module: str
    attribute: str
    help: str


class Command(click.Command):
    """A command whose help ends in examples that can be copied."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = list(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; flags may be written --flag=true and --flag=false, as Docker's may."""
        return super().parse_args(ctx, _plain_flags(self, ctx, args))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples below the options, as they are."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _plain_flags(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """--flag=true written --flag, --flag=false written --no-flag; the container's own arguments stay as they are."""
    options = {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts}
    plain: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        option = options.get(name)
        if arg == "--" or (not arg.startswith("-") and not ctx.allow_interspersed_args):
            plain.append(arg)
            break
        if option is None:
            plain.append(arg)
        elif not option.is_flag:
            plain += [arg] if equals else [arg, *([following] if (following := next(rest, None)) is not None else [])]
        elif not equals or value.lower() not in ("true", "false", "1", "0"):
            plain.append(arg)
        elif value.lower() in ("true", "1"):
            plain.append(name)
        elif option.secondary_opts:
            plain.append(option.secondary_opts[0])
    return plain + list(rest)


class Group(click.Group):
    """A group of commands that are imported when they are needed."""

    command_class = Command

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, Lazy] | None = None,
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})
        self.aliases = ALIASES | dict(aliases or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order they were given."""
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command `cmd_name`; None when there is no such command."""
        if cmd_name not in self.lazy and cmd_name not in self.commands:
            cmd_name = self.aliases.get(cmd_name, cmd_name)
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` begin with. Raises NoSuchCommand with the names that are close to it."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands for the shell, without importing the lazy ones."""
        from click.shell_completion import CompletionItem

        return [
            *(CompletionItem(name, help=text) for name, text in self._rows() if name.startswith(incomplete)),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def _rows(self) -> list[tuple[str, str]]:
        """Name and one line for each command that is not hidden."""
        rows = [(name, entry.help) for name, entry in self.lazy.items()]
        return rows + [
            (name, command.get_short_help_str(80)) for name, command in self.commands.items() if not command.hidden
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing the lazy ones."""
        with formatter.section("Commands"):
            formatter.write_dl(self._rows())


Group.group_class = Group
