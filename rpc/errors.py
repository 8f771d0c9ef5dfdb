"""Errors that cross the wire: a small tree of exceptions, each with its gRPC status.

A server raises one of these; the interceptor in `servers` turns it into a status; `error_from` gives the client the
same exception back. The message is for people: what happened, which field and value, what is allowed.
"""

import grpc


class FlotaError(Exception):
    """Something a person or a program can act on. `code` is the gRPC status it travels as."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(FlotaError):
    """The request itself is wrong."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def of(cls, field: str, value: object, allowed: str) -> "InvalidArgument":
        """Say which field has which value, and what it may have."""
        return cls(f"invalid {field} {value!r}: {allowed}")


class NotFound(FlotaError):
    """There is no such thing."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(FlotaError):
    """The name or the port is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(FlotaError):
    """Not now: something else must happen first."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class OutOfSequence(FlotaError):
    """The object was changed since the caller read it (Docker's words: update out of sequence)."""

    code = grpc.StatusCode.ABORTED


class PermissionDenied(FlotaError):
    """This caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(FlotaError):
    """It is not proved who calls."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Unavailable(FlotaError):
    """Nobody can answer at the moment: trying again later may help."""

    code = grpc.StatusCode.UNAVAILABLE


class NoLeader(Unavailable):
    """Nobody can decide or confirm anything now. What is known here can still be told, as old."""


class TurnedAway(Unavailable):
    """Nothing was done of what was asked: this manager leads no longer, is starting or stopping. Another one may."""

    # Whether this manager will soon know who leads now.
    moves = False


class DeadlineExceeded(FlotaError):
    """It took too long."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ResourceExhausted(FlotaError):
    """Too much at once."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unsupported(FlotaError):
    """flota does not do this (yet)."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(FlotaError):
    """A defect of flota."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[grpc.StatusCode, type[FlotaError]] = {kind.code: kind for kind in FlotaError.__subclasses__()}


def error_from(error: grpc.RpcError) -> FlotaError:
    """The typed error that a failed call stands for."""
    code, details = error.code(), error.details()
    return _BY_CODE.get(code, FlotaError)(details or code.name.lower().replace("_", " "))


_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def error_of(number: int, message: str) -> FlotaError:
    """The typed error of a status code that came as a number."""
    return _BY_CODE.get(_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN), FlotaError)(message)


def status_of(error: BaseException) -> tuple[int, str]:
    """Number and message under which an error crosses; a defect is INTERNAL."""
    if isinstance(error, FlotaError):
        return error.code.value[0], str(error)
    return grpc.StatusCode.INTERNAL.value[0], f"{type(error).__name__}: {error}"
