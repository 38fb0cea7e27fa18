"""The line between a server and the `switchboard up` that started it: one JSON object a line over an inherited socket.

What goes over it never stands on a command line or a disk: join tokens, sign-in links, API tokens.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from switchboard.domain.errors import NotFound, SwitchboardError
from switchboard.domain.people import Caller, Permission, Person
from switchboard.services.identity import Identity
from switchboard.services.people import People
from switchboard.services.projection import Projection

Operation = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

LOOKING_TOKEN_DAYS = 30


def operations(
    *,
    people: People,
    identity: Identity,
    projection: Projection,
    person: Person,
    ready: Callable[[], Mapping[str, Any]],
) -> dict[str, Operation]:
    """Return what a parent may ask for, on behalf of *person*.

    *ready* is called once everything is served, and gives what the parent cannot know: {"valkey": pid or None}.
    """

    async def owner() -> Caller:
        return await people.caller_named(person.id, via="system")

    async def tell_ready(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**ready(), "person": person.id}

    async def join(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        token, _ = await identity.invite(await owner(), str(asked.get("name") or ""))
        return {"token": token}

    async def link(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"link": await people.first_link(person.id)}

    async def machine(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        found = projection.machine(str(asked.get("machine") or ""))
        if found is None:
            raise NotFound("that machine has not joined")
        agents = [asdict(agent) for agent in found.agents]
        return {"machine": {"id": found.id, "name": found.name, "attached": found.attached, "agents": agents}}

    async def token(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if machine := str(asked.get("machine") or ""):
            return {"token": await people.tokens.for_machine(person.id, machine)}
        # Without a machine of its own there is nothing here that it should start or stop.
        text, _ = await people.tokens.mint(
            await owner(), name="this folder", permits={Permission.LOOK}, days=LOOKING_TOKEN_DAYS
        )
        return {"token": text}

    return {"ready": tell_ready, "join": join, "link": link, "machine": machine, "token": token}


async def attend(fd: int, known: Mapping[str, Operation]) -> None:
    """Answer the parent until it hangs up. The caller then ends the server: nobody is left who would."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    try:
        while line := await reader.readline():
            writer.write(json.dumps(await _answer(line, known)).encode() + b"\n")
            await writer.drain()
    except ConnectionError:
        pass  # the same as a hang-up
    finally:
        writer.close()


async def _answer(line: bytes, known: Mapping[str, Operation]) -> Mapping[str, Any]:
    asked: Any = None
    try:
        asked = json.loads(line)
        return {"id": asked["id"], **await known[asked["op"]](asked)}
    except SwitchboardError as error:
        return {"id": asked["id"], "error": str(error)}
    except (ValueError, KeyError, TypeError):
        return {
            "id": asked.get("id") if isinstance(asked, dict) else None,
            "error": "this server does not know that request",
        }
