"""One table from whose fault it was to a gRPC status, and the block that unwraps what leaves a task group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from switchboard.domain.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    SwitchboardError,
    Unauthenticated,
    Unavailable,
)

log = structlog.get_logger()

CODES: tuple[tuple[type[SwitchboardError], grpc.StatusCode], ...] = (
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Invalid, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.FAILED_PRECONDITION),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)


class HungUp(Exception):
    """The peer is gone: nothing failed here, and nobody is left to be told."""


async def send(context: Any, message: Any) -> None:
    """Write *message* to a stream. Raises HungUp."""
    try:
        await context.write(message)
    except grpc.aio.InternalError as error:
        raise HungUp from error


def code_of(error: SwitchboardError) -> grpc.StatusCode:
    return next((code for kind, code in CODES if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)


def first(error: BaseException) -> BaseException:
    """Return the first leaf of a group: an exception that leaves a TaskGroup arrives wrapped."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def status_of_errors(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End the call with the status of the error that leaves this block. Must be the outermost block of every handler."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as raised:  # the edge: whatever leaves a handler becomes a status, never a stack trace
        error = first(raised)
        if isinstance(error, HungUp):
            return
        if isinstance(error, SwitchboardError):
            await context.abort(code_of(error), str(error))
        # A bug here: the peer learns that it happened, our log learns what.
        log.error("an rpc failed", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "the switchboard failed on this call; its log says why")
