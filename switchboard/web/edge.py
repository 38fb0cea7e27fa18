"""The outermost layer: an id for every request, exact Host names, a limit on bodies, and the headers that every answer carries."""

import asyncio
import contextlib
import re
import secrets

import orjson
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from switchboard.web.settings import WebSettings

DRAINED, DRAIN_S = 16 * 1024 * 1024, 10.0
MIB = 1024 * 1024
BODY_LIMIT = 2 * MIB
PROMPT_BODY_LIMIT = 8 * MIB  # JSON may spell each byte of a prompt of 1 MiB with six
PROMPTS = re.compile(r"/api/v1/runs(/[^/]+/(messages|resume))?")

# Scripts and styles from here only, no inline ones, and no string ever becomes markup (Trusted Types without a policy).
CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

log = structlog.get_logger("web")

_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class Edge:
    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = id
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope, MutableHeaders(scope=message), id)
            await send(message)

        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._settings.answers(hosts[0]):
            await _refuse(sent, 400, f"this switchboard does not answer to the name {', '.join(hosts)[:100]!r}", id)
            return
        limit = PROMPT_BODY_LIMIT if PROMPTS.fullmatch(scope["path"]) else BODY_LIMIT
        if not headers.get("content-length", "0").isdigit() or int(headers.get("content-length", "0")) > limit:
            await _drain(receive)
            await _refuse(sent, 413, _too_large(limit), id)
            return
        try:
            await self._app(scope, _counted(receive, limit), sent)
        except Exception as error:
            # A bug: with an answer of 500 it was logged where that was made; later than that, it can only be logged here.
            if status != 500:
                log.error("answer broke off", request=id, path=scope["path"], exc_info=error)
            if not status:
                await _refuse(
                    sent, 500, f"something went wrong here; the server's log tells what, under request {id}", id
                )

    def _dress(self, scope: Scope, headers: MutableHeaders, id: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if scope["path"].startswith("/api/"):
            headers["cache-control"] = "no-store"
        if self._settings.secure:
            headers["strict-transport-security"] = "max-age=31536000"
        headers["x-request-id"] = id


def _too_large(limit: int) -> str:
    return f"the body is over {limit // MIB} MiB" + (": a prompt may have 1 MiB" if limit > BODY_LIMIT else "")


def _counted(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                await _drain(receive)
                raise HTTPException(413, _too_large(limit))
        return message

    return counted


async def _drain(receive: Receive) -> None:
    """Take what still comes, within reason: an answer in the middle of it would be lost with the reset connection."""
    left = DRAINED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def _refuse(send: Send, status: int, text: str, id: str) -> None:
    body = orjson.dumps({"error": text, "request": id})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
