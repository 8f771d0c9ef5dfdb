"""What a person sees when something goes wrong: one line on standard error, and an exit status.

1: it did not work; 125: the command line is wrong, as with Docker (2 is what `stack diff` says when there are changes);
130: interrupted. docs/cli.md has the table. A defect of flota prints one line and how to get
the traceback (FLOTA_DEBUG=1). Never imports gRPC: if a call failed, gRPC is already there.
"""

from __future__ import annotations

import os
import sys

import click

FAILED = 1
USAGE = 125
INTERRUPTED = 130


class CommandFailed(Exception):
    """The command cannot do what was asked; the message is for people."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class BadFlag(CommandFailed):
    """A flag's value is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, USAGE)


def report(error: BaseException) -> int:
    """Print what `error` means; give the exit status."""
    if os.environ.get("FLOTA_DEBUG"):
        import traceback

        traceback.print_exception(error)
    line, status = describe(error)
    if line:
        print(line, file=sys.stderr)
    return status


def describe(error: BaseException) -> tuple[str, int]:
    """The line to print (empty: none) and the exit status for `error`."""
    if isinstance(error, click.exceptions.Exit):
        return "", error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "", INTERRUPTED
    if isinstance(error, click.UsageError):
        return _usage(error), USAGE
    if isinstance(error, click.ClickException):
        return f"flota: {error.format_message()}", error.exit_code
    if isinstance(error, CommandFailed):
        return f"flota: {error}", error.status
    if isinstance(error, BaseExceptionGroup):
        return describe(error.exceptions[0])
    grpc = sys.modules.get("grpc")
    if grpc is not None and isinstance(error, grpc.RpcError):
        return f"flota: Error response from daemon: {error.details() or error.code().name}", FAILED
    if isinstance(error, OSError):
        return f"flota: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", FAILED
    return f"flota: this is a defect of flota: {type(error).__name__}: {error} (FLOTA_DEBUG=1 shows where)", FAILED


def _usage(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "flota"
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand):
        nearest = f"; did you mean {error.possibilities[0]!r}?" if error.possibilities else "."
        message = error.message.rstrip(".") + nearest
    else:
        message = " ".join(error.format_message().split()).rstrip(".") + "."
    return f"{path}: {message[:1].lower()}{message[1:]} See '{path} --help'."
