"""A failed call as Docker's API says it: {"message": …} with Docker's status codes.

The codes are those of moby's api/server/httpstatus; where clients match on words, they are Docker's.
"""

from __future__ import annotations

import grpc
import grpc.aio

from flota.rpc.errors import FlotaError, OutOfSequence, error_from

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
# What Docker answers 503 on, and 406 for a wish that the swarm's state forbids.
_NO_MANAGER = "This node is not a swarm manager"
_ALREADY_IN = "This node is already part of a swarm"
_NOT_IN = "This node is not part of a swarm"
_OUT_OF_SEQUENCE = "rpc error: code = Unknown desc = update out of sequence"


class HttpFailure(Exception):
    """An answer of its own status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def failure_of(error: FlotaError | grpc.RpcError) -> HttpFailure:
    """What a failed call is to a client of Docker's API."""
    typed = error if isinstance(error, FlotaError) else error_from(error)
    text = str(typed).replace('"flota swarm', '"docker swarm').replace("run flota swarm", "run docker swarm")
    if isinstance(typed, OutOfSequence):
        return HttpFailure(500, f"{_OUT_OF_SEQUENCE} ({text.partition(': ')[2] or text})")
    if text.startswith((_NO_MANAGER, _ALREADY_IN, _NOT_IN)):
        return HttpFailure(503, text)
    return HttpFailure(_STATUS.get(typed.code, 500), text)
