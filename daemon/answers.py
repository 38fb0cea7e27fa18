"""What the switchboard asks of this machine: a run's diff, its older output, its safety copies. Answers ride on the upload."""

import asyncio
import json
from dataclasses import asdict, replace
from typing import Any

import structlog

from daemon.apart import Apart
from daemon.domain.content import Content, limit_names
from daemon.domain.instruction import DiffQuery, OutputQuery, Query, SafetyQuery
from daemon.domain.redaction import Redactor
from daemon.git import RepoProblem
from daemon.journal import Journal
from daemon.output import Outputs
from daemon.restore import CannotRestore
from daemon.safety import Copy, NoCopy, SafetyStore
from daemon.threads import TookTooLong, soon

log = structlog.get_logger()

OUTPUT_EVENTS = 2_000  # in one answer
SAFETY_S = 20.0  # less than the switchboard waits, which then has the reason
AT_ONCE = 4  # each may read a whole checkout


class NoAnswer(Exception):
    """One sentence instead of an answer."""


class Answers:
    def __init__(
        self, journal: Journal, outputs: Outputs, redactor: Redactor, safety: SafetyStore, apart: Apart
    ) -> None:
        self._journal, self._outputs, self._redactor = journal, outputs, redactor
        self._safety, self._apart = safety, apart
        self._room = asyncio.Semaphore(AT_ONCE)

    async def answer(self, query: Query) -> bytes:
        """Return the answer as JSON. Raises NoAnswer."""
        try:
            async with self._room:
                found = await self._found(query)
        except NoAnswer:
            raise
        except (RepoProblem, NoCopy, CannotRestore, TookTooLong) as error:
            raise NoAnswer(str(error)) from error
        except Exception as error:  # a checkout can be anything; whoever asked gets a sentence
            log.exception("query failed")
            raise NoAnswer(f"the machine could not answer: {error or type(error).__name__}") from error
        return json.dumps(found, ensure_ascii=True).encode()

    async def _found(self, query: Query) -> dict[str, Any]:
        match query:
            case DiffQuery(run):
                return await self._diff(run)
            case OutputQuery(run, first, count):
                events, next, low = self._outputs.read(run, first, min(count or OUTPUT_EVENTS, OUTPUT_EVENTS))
                return {"events": events, "next": next, "low": low}
            case SafetyQuery("restore", id, into):
                return _plain(await self._apart.restore(id, into))
            case SafetyQuery("list"):
                copies = await soon(self._safety.copies, limit_s=SAFETY_S)
                return {"copies": [self._shown(copy) for copy in copies]}
            case SafetyQuery("show", id):
                copy = await soon(lambda: self._safety.show(id), limit_s=SAFETY_S)
                return self._shown(copy) | {"files": len(copy.entries)}
            case SafetyQuery(verb):
                raise NoAnswer(f"there is no {verb[:40]!r} of safety copies: list, show and restore are known")

    async def _diff(self, run: str) -> dict[str, Any]:
        record = self._journal.run(run)
        if record is None:
            raise NoAnswer(f"this machine holds no run {run}")
        if record.content != Content.FULL:
            raise NoAnswer(f"the diff of run {run} stays on its machine: its content rule is {record.content}")
        diff = await self._apart.diff(record.path, record.base_commit)
        found = self._redactor.scrub(asdict(diff))
        assert isinstance(found, dict)
        return found

    def _shown(self, copy: Copy) -> dict[str, Any]:
        """Return what of a copy may leave the machine: the names of its files only where the run's rule lets them."""
        run = self._journal.run(copy.run)
        content = run.content if run else Content.METADATA  # the least, where nothing is known of the run
        named = set(limit_names([entry.path for entry in copy.entries], content))
        entries = tuple(entry for entry in copy.entries if entry.path in named)
        found = self._redactor.scrub(
            _plain(replace(copy, entries=entries, not_saved=limit_names(copy.not_saved, content)))
        )
        assert isinstance(found, dict)
        return found


def _plain(value: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(asdict(value), default=str))
    assert isinstance(found, dict)
    return found
