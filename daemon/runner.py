"""The hands of the link: every word of the switchboard becomes something done here, once, and its outcome is reported."""

import json
import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import assert_never

import structlog

from daemon.answers import Answers, NoAnswer
from daemon.disk import DiskError, DiskFull
from daemon.domain import steps
from daemon.domain.facts import ApprovalRecord, InstructionRecord, InstructionState, ReceiptRecord, RunRecord
from daemon.domain.instruction import (
    AgentProgram,
    Alarm,
    Decision,
    DecisionRefused,
    DiffQuery,
    End,
    Fact,
    Held,
    Hello,
    Instruction,
    Interrupt,
    Message,
    OutputQuery,
    Purge,
    Query,
    Resume,
    SafetyQuery,
    Start,
    Unreadable,
    Welcome,
)
from daemon.runs import Runs
from daemon.settings import VERSION
from daemon.threads import TookTooLong, soon
from daemon.tools import Tools

log = structlog.get_logger()

UNKNOWN = "this daemon does not know what to do with that: it is older than the switchboard, so upgrade it"
PURGE_S = 60.0
CONTENT = frozenset({"prompt", "text", "input_json", "message"})
FAILED, APPLIED = InstructionState.FAILED, InstructionState.APPLIED


class Runner:
    """None of its methods wait, and none raise for what the other side says."""

    def __init__(self, tools: Tools, runs: Runs, answers: Answers, name: str) -> None:
        self._tools, self._runs, self._answers, self._name = tools, runs, answers, name
        self._boot_epoch = secrets.token_hex(8)
        self.programs: tuple[AgentProgram, ...] = ()
        self.answered: Callable[[str, bytes, str], None] = lambda id, body, error: None  # set when there is an upload

    # Up.

    def hello(self) -> Hello:
        journal = self._tools.journal
        live = [attempt.record for attempt in self._runs.alive()]
        facts: dict[tuple[type, str], RunRecord | ApprovalRecord] = {}
        reports, questions = self._tools.reports, self._tools.questions
        news: list[RunRecord | ApprovalRecord] = [*live, *reports.unwritten(), *questions.unwritten()]
        # A run that outlived its daemon is alive, too, although nobody carries it.
        news += [*journal.live_runs(), *journal.open_approvals()]
        for fact in (*news, *journal.unacked_runs(), *journal.unacked_approvals()):
            facts.setdefault((type(fact), fact.id), fact)
        rest: list[Fact] = [*journal.unacked_receipts()]
        for record in journal.unacked_instructions():
            refused = self._refused(record)
            rest += [refused, record] if refused else [record]
        runs = [fact.id for fact in facts.values() if isinstance(fact, RunRecord)]
        return Hello(
            name=self._name,
            version=VERSION,
            boot_epoch=self._boot_epoch,
            platform=f"{platform.system()} {platform.machine()}",
            agents=self.programs,
            facts=(*facts.values(), *rest, *self._tools.reports.alarms()),
            held=self._tools.stops.held(),
            spool=self._tools.outputs.ranges(runs),
        )

    def pulses(self) -> Mapping[str, int]:
        found = {attempt.record.id: attempt.silent_ms() for attempt in self._runs.alive()}
        return {run: silent for run, silent in found.items() if silent is not None}

    def held(self) -> tuple[str, int]:
        return self._tools.journal.orders_held()

    def acked(self, fact: Fact) -> None:
        journal = self._tools.journal
        try:
            match fact:
                case RunRecord():
                    journal.acked_run(fact.id, fact.revision)
                case ApprovalRecord():
                    journal.acked_approval(fact.id, fact.revision)
                case ReceiptRecord():
                    journal.acked_receipt(fact.order, fact.run, fact.attempt, fact.revision)
                case InstructionRecord():
                    journal.acked_instruction(fact.id, fact.revision)
                case Alarm():
                    self._tools.reports.alarm_acked(fact)
                case _:
                    pass  # said anew at each hello, or derived from one of the above
        except DiskFull as error:
            self._tools.reports.disk_full(str(error))  # it is only said once more

    # Down.

    def welcomed(self, welcome: Welcome) -> None:
        before = self.held()[0]
        fresh = before not in ("", welcome.store_epoch)
        if fresh:
            self._forget_acks()
        self._tools.stops.take(Held(welcome.store_epoch, welcome.generation, welcome.orders))
        self._tools.outputs.watermarks(welcome.watermarks, fresh_store=fresh)
        for run_id in self._tools.outputs.pending():
            self._tools.outputs.poke(run_id)
        if fresh:
            log.warning("the switchboard's store is another one: everything is announced again")
            journal = self._tools.journal
            # What is alive or open was in the hello.
            again: list[Fact] = [run for run in journal.runs() if self._runs.of(run.id) is None]
            for fact in (*again, *journal.receipts()):
                self._tools.reports.say(fact)

    def _forget_acks(self) -> None:
        """What another store had counts as not acknowledged: a crash before all of it was said again loses nothing."""
        try:
            self._tools.journal.forget_acks()
        except DiskFull as error:
            self._tools.reports.disk_full(str(error))  # it is said all the same

    def ordered(self, held: Held) -> None:
        self._tools.stops.take(held)

    def instructed(self, instruction: Instruction) -> None:
        id, body = instruction.id, instruction.body
        if isinstance(body, DiffQuery | OutputQuery | SafetyQuery):
            self._runs.spawn(self._answer(id, body), f"query {id}")
            return
        journal, reports = self._tools.journal, self._tools.reports
        try:
            # What was said to the agent is not kept here: a purge of its run would have to find it.
            words = {name: value for name, value in asdict(body).items() if name not in CONTENT}
            fresh = journal.take_instruction(id, type(body).__name__.lower(), json.dumps(words))
        except DiskFull as error:
            reports.disk_full(str(error))
            reports.say(InstructionRecord(id, "", "", FAILED, f"the machine can write nothing: {error}"))
            return
        known = journal.instruction(id)
        if known is not None:
            if isinstance(body, Decision) and not fresh:  # its receipt as well: the switchboard may have lost it
                receipt = self._refused(known) or journal.approval(body.approval)
                if receipt is not None:
                    reports.say(receipt)
            if not (fresh and isinstance(body, Decision)):  # how it went is said at once
                reports.say(known)
        if not fresh:
            return
        try:
            self._carry_out(instruction)
        except DiskError:
            raise
        except Exception as error:  # a mistake of ours with one instruction must not cut this machine off
            log.exception("instruction failed", instruction=id)
            reports.finish(id, FAILED, f"the daemon failed to do it: {error or type(error).__name__}")

    def _carry_out(self, instruction: Instruction) -> None:
        id, body = instruction.id, instruction.body
        match body:
            case Start():
                self._runs.start(id, body)
            case Resume():
                self._runs.resume(id, body)
            case Message():
                self._tell(id, body.run, steps.MessageOrdered(id, body.text))
            case Interrupt():
                self._tell(id, body.run, steps.InterruptOrdered(id))
            case End():
                self._tell(id, body.run, steps.EndOrdered(id))
            case Decision():
                self._decide(id, body)
            case Purge() if self._runs.of(body.run) is not None:
                self._tools.reports.finish(id, FAILED, f"run {body.run} is alive: stop or end it first")
            case Purge():
                self._runs.spawn(self._purge(id, body.run), f"purge of run {body.run}")
            case Unreadable():
                self._tools.reports.finish(id, FAILED, UNKNOWN)
            case DiffQuery() | OutputQuery() | SafetyQuery():
                raise AssertionError("queries are answered before they are written down")
            case _:
                assert_never(body)

    def _tell(self, id: str, run: str, event: steps.Event) -> None:
        attempt = self._runs.of(run)
        if attempt is not None:
            attempt.take(event)
            return
        known = self._tools.journal.run(run)
        if self._runs.starting(run):
            why = f"run {run} is about to start: try again in a moment"
        elif known is None:
            why = f"this machine holds no run {run[:80]}"
        else:
            why = f"run {run} is over ({known.state}): resume it to go on"
        self._tools.reports.finish(id, FAILED, why)

    def _decide(self, id: str, decision: Decision) -> None:
        record = self._tools.journal.approval(decision.approval)
        attempt = self._runs.of(record.run) if record else None
        live, stopped = 0, ""
        if attempt is not None:
            live = attempt.record.attempt
            order = self._tools.stops.hold_on(attempt.record)
            if order is not None:
                stopped = f"order {order.id} of {order.by} holds it"
            elif attempt.ending:
                stopped = attempt.record.reason or "it is ending"
        try:
            why = self._tools.questions.decide(id, decision, live_attempt=live, stopped=stopped)
        except DiskFull as error:
            self._tools.reports.disk_full(str(error))
            why = f"the decision could not be written down, so it is not in force: {error}"
            self._tools.reports.say(DecisionRefused(decision.approval, id, why))
        self._tools.reports.finish(id, FAILED if why else APPLIED, why)

    def _refused(self, record: InstructionRecord) -> DecisionRefused | None:
        """Return the receipt of a decision that was refused, as it was given before."""
        if record.kind != "decision" or record.state is not FAILED:
            return None
        approval = str(json.loads(record.json).get("approval", ""))
        known = self._tools.journal.approval(approval)
        verdict, by = (known.verdict or "", known.decided_by) if known else ("", "")
        return DecisionRefused(approval, record.id, record.reason, verdict, by)

    async def _purge(self, id: str, run: str) -> None:
        try:
            self._tools.outputs.purge(run)
            self._tools.journal.purge_run(run)
            await soon(lambda: self._tools.safety.purge(run), limit_s=PURGE_S)
        except (DiskFull, OSError, TookTooLong) as error:
            self._tools.reports.finish(id, FAILED, f"not all of run {run} could be forgotten: {error}")
        else:
            self._tools.reports.finish(id, APPLIED)

    async def _answer(self, id: str, query: Query) -> None:
        try:
            self.answered(id, await self._answers.answer(query), "")
        except NoAnswer as error:
            self.answered(id, b"", str(error))
