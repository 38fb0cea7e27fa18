"""The one table from our errors to HTTP: one sentence for a person, details for a program, the request's id for the log."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from switchboard.domain.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    SwitchboardError,
    Unauthenticated,
    Unavailable,
)
from switchboard.services.people import TooManyTries
from switchboard.web import shell

STATUS: dict[type[SwitchboardError], int] = {  # the first that fits, so a narrower one stands above a wider one
    TooManyTries: 429,
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
}

log = structlog.get_logger("web")


def status_of(error: SwitchboardError) -> int:
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)


def answer(request: Request, status: int, text: str, **details: Any) -> JSONResponse:
    # The error's own words come last: no detail may take their place.
    body = {**details, "error": text, "request": request.scope.get("state", {}).get("request_id", "")}
    return JSONResponse(body, status)


def add_handlers(api: FastAPI) -> None:
    @api.exception_handler(SwitchboardError)
    async def ours(request: Request, error: SwitchboardError) -> Response:
        response = answer(request, status_of(error), str(error), **error.details)
        if isinstance(error, TooManyTries):
            response.headers["Retry-After"] = str(error.seconds)
        return response

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, 400, _sentence(error), field=_field(error.errors()[0]) if error.errors() else "")

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        text = error.detail if error.status_code in {400, 413} else HTTPStatus(error.status_code).phrase.lower()
        if error.status_code == 404:
            if shell.is_for_a_page(request):
                return shell.no_such_page(request)
            text = f"there is no {request.method} {request.url.path[:100]} here"
        return answer(request, error.status_code, text)

    @api.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        # Whatever it is, its words are for the log: they may hold what the caller must not read.
        id = request.scope.get("state", {}).get("request_id", "")
        log.error("request failed", request=id, method=request.method, path=request.url.path, exc_info=error)
        return answer(request, 500, f"something went wrong here; the server's log tells what, under request {id}")


def _field(problem: Any) -> str:
    return ".".join(str(part) for part in problem.get("loc", ()) if part not in {"body", "query", "path"})[:200]


def _sentence(error: RequestValidationError) -> str:
    problems = error.errors()
    if not problems:
        return "the request is not what this route takes"
    first = problems[0]
    if first["type"] == "json_invalid":
        return "the body is not JSON"
    message = str(first["msg"]).removeprefix("Value error, ")
    where = _field(first)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {message}{more}" if where else f"{message}{more}"
