"""Who may call what. A method that is not in this table is refused, whoever calls it."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, TypeAlias

import grpc

from switchboard.domain.errors import Forbidden, Unauthenticated
from switchboard.rpc.ca import Authority
from switchboard.rpc.status import status_of_errors
from switchboard.services.identity import Identity, Presented


class Who(StrEnum):
    ANYBODY = "anybody"  # proves itself in the call: a join token, or a signature by an expired certificate's key
    MACHINE = "machine"  # an active machine, by the certificate of its connection


ACCESS: dict[str, Who] = {
    "/switchboard_rpc.v1.EnrollService/Enroll": Who.ANYBODY,
    "/switchboard_rpc.v1.EnrollService/Renew": Who.ANYBODY,
    "/switchboard_rpc.v1.FleetService/Renew": Who.MACHINE,
    "/switchboard_rpc.v1.FleetService/Attach": Who.MACHINE,
    "/switchboard_rpc.v1.FleetService/Upload": Who.MACHINE,
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_presented: ContextVar[Presented] = ContextVar("presented")


def caller() -> Presented:
    """Return whom the certificate of this call names; set for every method that needs a machine."""
    return _presented.get()


def serialised(message: Any) -> bytes:
    """Serialise a message, or pass on bytes that were serialised once for many."""
    return message if isinstance(message, bytes) else message.SerializeToString()


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The one interceptor: looks the method up, checks the machine's standing, and turns errors into statuses."""

    def __init__(self, authority: Authority, identity: Identity) -> None:
        self._authority = authority
        self._identity = identity

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(details)
        if handler is None:
            return None
        who = ACCESS.get(details.method)
        inner = handler.stream_stream or handler.unary_unary

        async def guarded(request: Any, context: Context) -> Any:
            async with status_of_errors(context):
                if inner is None or who is None:
                    raise Forbidden(f"{details.method} is not open to anybody")
                if who is Who.MACHINE:
                    presented = self._presented(context)
                    await self._identity.check(presented)
                    _presented.set(presented)
                return await inner(request, context)

        make = (
            grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(guarded, request_deserializer=handler.request_deserializer, response_serializer=serialised)

    def _presented(self, context: Context) -> Presented:
        pem = context.auth_context().get("x509_pem_cert")
        if not pem:
            raise Unauthenticated("show a machine's certificate: this port takes nobody without one")
        return self._authority.presented(pem[0])
