"""What the switchboard asks of this machine: a run's diff, its older output, its safety copies. Answers ride on the upload."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from daemon import git
from daemon.domain.content import Content
from daemon.domain.instruction import DiffQuery, OutputQuery, Query, SafetyQuery
from daemon.domain.redaction import Redactor
from daemon.journal import Journal
from daemon.output import Outputs
from daemon.restore import CannotRestore, restore
from daemon.safety import NoCopy, SafetyStore
from daemon.threads import TookTooLong, soon

log = structlog.get_logger()

OUTPUT_EVENTS = 2_000  # in one answer
DIFF_S, SAFETY_S = 40.0, 120.0
AT_ONCE = 4  # each may read a whole checkout


class NoAnswer(Exception):
    """One sentence instead of an answer."""


class Answers:
    def __init__(self, journal: Journal, outputs: Outputs, redactor: Redactor, safety: SafetyStore) -> None:
        self._journal, self._outputs, self._redactor, self._safety = journal, outputs, redactor, safety
        self._room = asyncio.Semaphore(AT_ONCE)

    async def answer(self, query: Query) -> bytes:
        """Return the answer as JSON. Raises NoAnswer."""
        try:
            async with self._room:
                found = await self._found(query)
        except NoAnswer:
            raise
        except (git.RepoProblem, NoCopy, CannotRestore, TookTooLong) as error:
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
            case SafetyQuery():
                return await soon(lambda: self._copies(query), limit_s=SAFETY_S)

    async def _diff(self, run: str) -> dict[str, Any]:
        record = self._journal.run(run)
        if record is None:
            raise NoAnswer(f"this machine holds no run {run}")
        if record.content != Content.FULL:
            raise NoAnswer(f"the diff of run {run} stays on its machine: its content rule is {record.content}")
        diff = await soon(lambda: _diff(Path(record.path), record.base_commit), limit_s=DIFF_S)
        found = self._redactor.scrub(asdict(diff))
        assert isinstance(found, dict)
        return found

    def _copies(self, query: SafetyQuery) -> dict[str, Any]:
        if query.verb == "list":
            return {"copies": [_plain(copy) for copy in self._safety.copies()]}
        if query.verb == "show":
            return _plain(self._safety.show(query.id))
        if query.verb == "restore":
            return _plain(restore(self._safety, query.id, Path(query.into)))
        raise NoAnswer(f"there is no {query.verb[:40]!r} of safety copies: list, show and restore are known")


def _diff(path: Path, base: str) -> git.Diff:
    return git.diff(git.find_root(path), base)


def _plain(value: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(asdict(value), default=str))
    assert isinstance(found, dict)
    return found
