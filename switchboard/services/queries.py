"""Questions to a machine: a diff, an old range of output, its safety copies. Answered on the upload stream, in parts."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from switchboard.domain.errors import Conflict, Forbidden, SwitchboardError, Unavailable
from switchboard.domain.instruction import Instruction, Kind, State
from switchboard.services.instructions import Instructions
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection

LARGEST_ANSWER = 16 << 20  # bytes
MOST_PARTIAL = 64  # answers of one machine that are on their way at a time


@dataclass(slots=True)
class _Partial:
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


class Queries:
    def __init__(self, *, instructions: Instructions, presence: Presence, projection: Projection) -> None:
        self._instructions = instructions
        self._presence = presence
        self._projection = projection
        self._asked: dict[str, asyncio.Future[bytes]] = {}
        self._partial: dict[tuple[str, str], _Partial] = {}
        projection.listen(self._changed)

    async def ask(
        self, machine: str, query: Mapping[str, Any], timeout: float = 15.0, *, by: str = "switchboard", run: str = ""
    ) -> Any:
        """Ask an attached machine {"diff"|"output"|"safety": {…}} and return its JSON answer.

        Raises Unavailable when it is away or does not answer within *timeout* seconds, Conflict with its own sentence.
        """
        there = self._presence.need(machine)
        id = f"q-{secrets.token_hex(8)}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[id] = answer
        try:
            await self._instructions.order(
                Kind.QUERY, machine, run, query, by=by, id=id, lapses_in=timedelta(seconds=timeout)
            )
            async with asyncio.timeout(timeout):
                text = await answer
        except TimeoutError as error:
            raise Unavailable(f"machine {there.name} did not answer within {timeout:.0f} s: try again") from error
        finally:
            del self._asked[id]
            self._partial.pop((machine, id), None)
            with contextlib.suppress(Unavailable):  # then it lapses, and is trimmed a day later
                await self._instructions.forget(id)  # an answer is somebody's content: it stays nowhere
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"machine {there.name} gave an answer that cannot be read") from error

    async def part(self, machine: str, id: str, part: bytes, *, last: bool, error: str = "") -> bool:
        """Take a part of an answer; say whether it has arrived whole. Raises Forbidden for another machine's question."""
        asked = self._projection.instruction(id) or await self._instructions.known(id)
        if asked is None or asked.kind is not Kind.QUERY:
            return last or bool(error)  # nobody waits any more: the machine is told to forget it
        if asked.machine != machine:
            raise Forbidden(f"question {id[:100]} was put to another machine")
        key = (machine, id)
        if error:
            self._partial.pop(key, None)
            await self._settled(asked, error=error[:2000])
            return True
        if key not in self._partial and sum(of == machine for of, _ in self._partial) >= MOST_PARTIAL:
            raise Forbidden(f"over {MOST_PARTIAL} answers of one machine are on their way")
        partial = self._partial.setdefault(key, _Partial())
        partial.parts.append(part)
        partial.size += len(part)
        if partial.size > LARGEST_ANSWER:
            del self._partial[key]
            await self._settled(asked, error=f"the answer is over {LARGEST_ANSWER >> 20} MiB")
            return True
        if not last:
            return False
        del self._partial[key]
        await self._settled(asked, answer=b"".join(partial.parts))
        return True

    async def _settled(self, asked: Instruction, *, answer: bytes = b"", error: str = "") -> None:
        waiting = self._asked.get(asked.id)
        if waiting is not None and not waiting.done():
            if error:
                waiting.set_exception(Conflict(error))
            else:
                waiting.set_result(answer)
        # Who asked may sit at another replica: then the record carries the answer to it.
        outcome = error or ("" if waiting is not None else answer.decode("utf-8", "replace"))
        await self._instructions.report(asked.machine, asked.id, State.FAILED if error else State.APPLIED, outcome)

    def _changed(self, noun: str, id: str) -> None:
        waiting = self._asked.get(id) if noun == "instruction" else None
        settled = self._projection.instruction(id) if waiting is not None else None
        if waiting is None or settled is None or waiting.done():
            return
        if settled.state is State.APPLIED and settled.outcome:
            waiting.set_result(settled.outcome.encode())
        elif settled.state in (State.FAILED, State.LAPSED):
            error: SwitchboardError = Conflict(settled.outcome or "the machine could not answer")
            waiting.set_exception(error)
