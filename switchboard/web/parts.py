"""The services that the web edge delegates to, and how a route asks for them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from switchboard.clock import Clock
from switchboard.services.approvals import Approvals
from switchboard.services.identity import Identity
from switchboard.services.instructions import Instructions
from switchboard.services.output import Output
from switchboard.services.people import People
from switchboard.services.ports import AuditLog
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.queries import Queries
from switchboard.services.runs import Runs
from switchboard.services.stops import Stops
from switchboard.web.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    people: People
    runs: Runs
    approvals: Approvals
    stops: Stops
    output: Output
    queries: Queries
    identity: Identity
    instructions: Instructions
    presence: Presence
    projection: Projection
    audit: AuditLog
    clock: Clock
    enroll: str  # HOST:PORT that a machine dials to join
    fleet: str  # and to attach


# Coroutines although they wait for nothing: FastAPI sends a plain function through a thread, on every request.


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _view(request: Request) -> View:
    view: View = request.app.state.view
    return view


Has = Annotated[Services, Depends(_services)]
Shows = Annotated[View, Depends(_view)]
