"""Puts the web edge together: routes, guard, errors and the outermost layer. A route without a rule does not start."""

import asyncio
from collections.abc import Iterator

from fastapi import FastAPI
from starlette.types import ASGIApp

from switchboard.services.reads import Reads
from switchboard.web import approvals, events, machines, orders, output, people, runs, session, shell, system, tokens
from switchboard.web.access import TABLE
from switchboard.web.edge import Edge
from switchboard.web.errors import add_handlers
from switchboard.web.guard import Guard, Guarded
from switchboard.web.parts import Services
from switchboard.web.settings import WebSettings
from switchboard.web.view import View

PARTS = (session, runs, output, approvals, orders, machines, people, tokens, events, system, shell)


class Api(FastAPI):
    """FastAPI with our edge outside everything, so that its own error answers are dressed too."""

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(super().build_middleware_stack(), self.state.settings)


def create_api(*, services: Services, settings: WebSettings) -> FastAPI:
    """Return the API and the page. Raises RuntimeError for a route that the table does not know, or knows in vain."""
    api = Api(title="Switchboard", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    for part in PARTS:
        api.router.routes.extend(part.router.routes)
    check(api)
    api.state.settings = settings
    api.state.services = services
    api.state.guard = Guard(services.people, settings)
    api.state.view = View(
        people=services.people,
        runs=services.runs,
        presence=services.presence,
        projection=services.projection,
        clock=services.clock,
    )
    api.state.reads = Reads(services.audit, services.clock)
    api.state.files = shell.Files()
    api.state.closing = asyncio.Event()
    add_handlers(api)
    return api


def routes(api: FastAPI) -> Iterator[tuple[str, str]]:
    for route in api.routes:
        if not isinstance(route, Guarded):
            raise RuntimeError(f"{route} does not ask the guard")
        for method in sorted(route.methods or ()):
            yield method, route.path


def check(api: FastAPI) -> None:
    there = set(routes(api))
    if missing := there - TABLE.keys():
        raise RuntimeError(f"routes without a rule in access.py: {sorted(missing)}")
    if idle := TABLE.keys() - there:
        raise RuntimeError(f"rules in access.py without a route: {sorted(idle)}")
