"""The questions of this machine's agents: written down before they are shown, decided once, answered no in every doubt."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from daemon import faults
from daemon.clock import Clock
from daemon.disk import DiskFull
from daemon.domain.agent import Answer, Question
from daemon.domain.approval import Application, ApprovalState, NotCanonical, Verdict, canonical, digest
from daemon.domain.content import Content, limit_question
from daemon.domain.errors import IllegalTransition, NoSuch
from daemon.domain.facts import Accepted, ApprovalRecord
from daemon.domain.gate import ANSWERED_BY_INPUT, NotThis, judge
from daemon.domain.instruction import Decision, DecisionRefused
from daemon.domain.redaction import Redactor
from daemon.journal import Journal
from daemon.reports import Reports

log = structlog.get_logger()

DIFF_CHARACTERS = 64 * 1024
WHY_CHARACTERS = 2_000
APPLIED_S = 1.0  # an agent that lives so long after it was handed an answer has taken it


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks."""

    run: str
    attempt: int
    cwd: str
    content: str
    edits_input: bool
    why: str  # its last words before it asked, unmasked


@dataclass(slots=True)
class _Open:
    record: ApprovalRecord
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Handed:
    """An answer that is on its way into the agent."""

    run: str
    timer: asyncio.TimerHandle | None = field(default=None)


class Questions:
    def __init__(
        self,
        journal: Journal,
        redactor: Redactor,
        clock: Clock,
        expiry_s: float,
        reports: Reports,
    ) -> None:
        self._journal, self._redactor, self._clock = journal, redactor, clock
        self._expiry_ms, self._reports = round(expiry_s * 1000), reports
        self._open: dict[str, _Open] = {}
        self._handed: dict[str, _Handed] = {}  # approval: decided, not yet seen to be taken
        self._unwritten: dict[str, ApprovalRecord] = {}  # as they stand and were said, while the disk takes nothing

    def close_old(self) -> None:
        """At the start of the daemon: whoever asked is gone."""
        for record in self._journal.open_approvals():
            self._journal.settle(record.id, ApprovalState.WITHDRAWN, "the daemon was restarted; its agent is gone")
        for record in self._journal.undelivered_approvals():
            self._journal.applied(
                record.id, Application.UNDELIVERABLE, "the daemon ended before the agent could take it"
            )

    async def ask(
        self, asking: Asking, question: Question, *, opened: Callable[[str], None], settled: Callable[[str], None]
    ) -> Answer:
        """Put *question* to people and return their answer. *opened* and *settled* are told its id.

        A cancellation is the agent's own withdrawal; everything else that is not an approval is a no with its cause.
        """
        try:
            record = self._journal.open_approval(self._record(asking, question))
        except NotCanonical as error:
            return Answer(allow=False, message=f"refused, because nobody could be shown what it asks: {error}")
        except DiskFull as error:
            self._reports.disk_full(str(error))
            return Answer(allow=False, message=f"refused, because the question could not be written down: {error}")
        faults.point("runner.asked")
        waiting = _Open(record, asyncio.get_running_loop().create_future())
        self._open[record.id] = waiting
        self._reports.say(record)
        opened(record.id)
        try:
            answer = await waiting.answer
        except asyncio.CancelledError:
            self._settle(record.id, ApprovalState.WITHDRAWN, "the agent no longer waits for it")
            raise
        finally:
            self._open.pop(record.id, None)
            settled(record.id)
        self._hand_over(record)
        return answer

    def decide(self, decision_id: str, decision: Decision, *, live_attempt: int, stopped: str) -> str:
        """Bring a decision into force, once; return "" or why not. Raises DiskFull, and nothing has happened then."""
        record = self._unwritten.get(decision.approval) or self._journal.approval(decision.approval)
        if record is not None and record.decision_id and record.decision_id == decision_id:
            self._reports.say(record)  # delivered again: it was in force before
            return ""
        at = self._clock.boot_ms()
        ruling = judge(record, decision, live_attempt=live_attempt, at=at, stopped=stopped)
        waiting = self._open.get(decision.approval)
        if isinstance(ruling, NotThis):
            return self._refuse(decision_id, decision, ruling.reason, record)
        if waiting is None:
            return self._refuse(decision_id, decision, "the agent no longer waits for an answer", record)
        verdict = Verdict.APPROVE if decision.approve else Verdict.DENY
        accepted = self._journal.accept_decision(
            decision.approval, decision_id, verdict, decision.by, ruling.input_json, decision.message
        )
        if not isinstance(accepted, Accepted):
            return self._refuse(decision_id, decision, accepted.reason, accepted.in_force)
        faults.point("runner.decided")
        self._reports.say(accepted.approval)
        if not waiting.answer.done():
            waiting.answer.set_result(_answer(accepted.approval))
        return ""

    def withdraw(self, asks: tuple[str, ...], cause: str) -> None:
        """These are over without a decision; who waits gets a no with *cause*."""
        for id in asks:
            self._end(id, ApprovalState.WITHDRAWN, cause, f"withdrawn: {cause}")

    def expire(self) -> None:
        """Called about once a second: what nobody answered in its time is a no, and nobody's denial."""
        now = self._clock.boot_ms()
        for id, waiting in list(self._open.items()):
            if waiting.record.expires_boot_ms <= now:
                told = f"nobody answered within {_span(self._expiry_ms)}; this is not a person's denial"
                self._end(id, ApprovalState.EXPIRED, f"nobody answered within {_span(self._expiry_ms)}", told)

    def unwritten(self) -> list[ApprovalRecord]:
        """What stands otherwise than the disk says."""
        return list(self._unwritten.values())

    def try_disk(self) -> None:
        """Write down what could not be written before. Raises DiskFull while it still cannot."""
        for id, record in list(self._unwritten.items()):
            with contextlib.suppress(NoSuch):  # its run was purged
                if record.verdict is None:
                    written = self._journal.settle(id, record.state, record.reason)
                else:
                    written = self._journal.applied(id, record.application, record.reason)
                self._reports.say(written)
            del self._unwritten[id]

    def spoke(self, run: str) -> None:
        """The agent of *run* has said something: what it was handed before has arrived."""
        for id in [id for id, handed in self._handed.items() if handed.run == run]:
            self._applied(id, Application.APPLIED)

    def gone(self, run: str) -> None:
        """The agent of *run* is no more: what it was handed and has not been seen to take never arrived."""
        for id in [id for id, handed in self._handed.items() if handed.run == run]:
            self._applied(id, Application.UNDELIVERABLE, "the agent was gone before it could take it")

    def _record(self, asking: Asking, question: Question) -> ApprovalRecord:
        whole = canonical(question.input)
        asked = json.loads(whole)
        text, content = self._redactor.text, Content(asking.content)
        # Masked before they are cut: half a secret is not known for one.
        diff, why = text(question.diff)[:DIFF_CHARACTERS], text(asking.why)[-WHY_CHARACTERS:].strip()
        shown = limit_question(text(question.title), why, diff, self._redactor.scrub(asked), content)
        shown_json = canonical(shown.input)
        now = self._clock.boot_ms()
        return ApprovalRecord(
            id=f"a-{secrets.token_hex(8)}",
            run=asking.run,
            attempt=asking.attempt,
            kind=question.kind,
            tool=question.tool,
            input_json=whole,
            shown_json=shown_json,
            digest=digest(asking.run, asking.attempt, question.kind, question.tool, asked, asking.cwd),
            masked=shown.masked or shown_json != whole,
            cwd=asking.cwd,
            title=shown.title,
            why=shown.why,
            diff=shown.diff,
            edits_input=asking.edits_input or question.kind in ANSWERED_BY_INPUT,
            opened_boot_ms=now,
            expires_boot_ms=now + self._expiry_ms,
        )

    def _refuse(self, decision_id: str, decision: Decision, reason: str, record: ApprovalRecord | None) -> str:
        verdict = record.verdict if record and record.verdict else ""
        by = record.decided_by if record else ""
        self._reports.say(DecisionRefused(decision.approval, decision_id, reason, verdict, by))
        return reason

    def _end(self, id: str, state: ApprovalState, reason: str, told: str) -> None:
        self._settle(id, state, reason)
        waiting = self._open.get(id)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(Answer(allow=False, message=told))

    def _settle(self, id: str, state: ApprovalState, reason: str) -> None:
        reason = self._reports.masked(reason)
        try:
            self._reports.say(self._journal.settle(id, state, reason))
        except (IllegalTransition, NoSuch):
            return  # decided or settled before, by whoever was first
        except DiskFull as error:
            found = self._journal.approval(id)
            if found is not None and found.state is ApprovalState.OPEN and id not in self._unwritten:
                self._say_unwritten(found, state=state, reason=reason)
            self._reports.disk_full(str(error))

    def _say_unwritten(self, record: ApprovalRecord, **changes: Any) -> None:
        """Tell people how it stands although the disk will not have it: nobody is to wait for an answer that no agent takes."""
        after = self._unwritten[record.id] = replace(record, revision=record.revision + 1, **changes)
        self._reports.say(after)

    def _hand_over(self, record: ApprovalRecord) -> None:
        now = self._journal.approval(record.id)
        if now is None or now.application is not Application.ACCEPTED:
            return
        faults.point("runner.answered")
        handed = self._handed[record.id] = _Handed(record.run)
        handed.timer = asyncio.get_running_loop().call_later(APPLIED_S, self._applied, record.id, Application.APPLIED)

    def _applied(self, id: str, application: Application, reason: str = "") -> None:
        handed = self._handed.pop(id, None)
        if handed is None:
            return
        if handed.timer is not None:
            handed.timer.cancel()
        try:
            self._reports.say(self._journal.applied(id, application, reason))
        except DiskFull as error:
            found = self._journal.approval(id)
            if found is not None:
                self._say_unwritten(found, application=application, reason=reason or found.reason)
            self._reports.disk_full(str(error))


def _answer(record: ApprovalRecord) -> Answer:
    if record.verdict is Verdict.APPROVE:
        edited = json.loads(record.decision_input_json) if record.decision_input_json else None
        return Answer(allow=True, input=edited)
    who = record.decided_by or "a person"
    return Answer(allow=False, message=f"Denied by {who}: {record.message}" if record.message else f"Denied by {who}.")


def _span(ms: int) -> str:
    seconds = ms / 1000
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:g} s"
