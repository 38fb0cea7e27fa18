"""From the wire to the domain. What a daemon sends is a stranger's: bounded and checked here, once."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, run_pb2, stop_pb2

from switchboard.domain.approval import Approval, ApprovalState, Delivery
from switchboard.domain.errors import Invalid, SwitchboardError
from switchboard.domain.instruction import State
from switchboard.domain.machine import AgentProgram
from switchboard.domain.output import Event
from switchboard.domain.run import Run, RunState
from switchboard.domain.stop import Order, Outcome, Receipt, Safety, Selector
from switchboard.services.approvals import DecisionReceipt
from switchboard.services.fleet import Hello
from switchboard.services.proofs import Match
from switchboard.services.reports import Alarm, InstructionReport, OrdersSeen, Report
from switchboard.services.words import LONGEST_PROMPT, ident

T = TypeVar("T")

LABEL, SENTENCE, TEXT = 500, 4_000, 200_000
MOST = 10_000  # of anything in a list
LONGEST_AGE = timedelta(days=3650)
LISTS = ("repos", "machines", "owners", "runs", "agents", "except_repos", "except_runs")  # of a selector

RUN_STATES = {
    run_pb2.RUN_STATE_STARTING: RunState.STARTING,
    run_pb2.RUN_STATE_RUNNING: RunState.RUNNING,
    run_pb2.RUN_STATE_WAITING: RunState.WAITING,
    run_pb2.RUN_STATE_IDLE: RunState.IDLE,
    run_pb2.RUN_STATE_STOPPING: RunState.STOPPING,
    run_pb2.RUN_STATE_SUCCEEDED: RunState.SUCCEEDED,
    run_pb2.RUN_STATE_FAILED: RunState.FAILED,
    run_pb2.RUN_STATE_STOPPED: RunState.STOPPED,
    run_pb2.RUN_STATE_INTERRUPTED: RunState.INTERRUPTED,
    run_pb2.RUN_STATE_REFUSED: RunState.REFUSED,
}
APPROVAL_STATES = {
    approval_pb2.APPROVAL_STATE_OPEN: ApprovalState.OPEN,
    approval_pb2.APPROVAL_STATE_APPROVED: ApprovalState.APPROVED,
    approval_pb2.APPROVAL_STATE_DENIED: ApprovalState.DENIED,
    approval_pb2.APPROVAL_STATE_EXPIRED: ApprovalState.EXPIRED,
    approval_pb2.APPROVAL_STATE_WITHDRAWN: ApprovalState.WITHDRAWN,
}
QUESTION_KINDS = {
    approval_pb2.QUESTION_KIND_TOOL: "tool",
    approval_pb2.QUESTION_KIND_CHOICE: "choice",
    approval_pb2.QUESTION_KIND_PLAN: "plan",
    approval_pb2.QUESTION_KIND_ELICITATION: "elicitation",
}
APPLICATIONS = {
    approval_pb2.APPLICATION_ACCEPTED: Delivery.ACCEPTED,
    approval_pb2.APPLICATION_APPLIED: Delivery.APPLIED,
    approval_pb2.APPLICATION_REFUSED: Delivery.REFUSED,
    approval_pb2.APPLICATION_UNDELIVERABLE: Delivery.UNDELIVERABLE,
}
VERDICTS = {approval_pb2.VERDICT_APPROVE: "approve", approval_pb2.VERDICT_DENY: "deny"}
OUTCOMES = {
    stop_pb2.OUTCOME_ENDED: Outcome.ENDED,
    stop_pb2.OUTCOME_FAILED: Outcome.FAILED,
    stop_pb2.OUTCOME_REFUSED: Outcome.REFUSED,
}
PROOFS = {
    stop_pb2.PROOF_CONTAINED: "contained",
    stop_pb2.PROOF_TRACED: "traced",
    stop_pb2.PROOF_BEST_EFFORT: "best-effort",
}
REPORT_STATES = {
    fleet_pb2.REPORT_STATE_DELIVERED: State.DELIVERED,
    fleet_pb2.REPORT_STATE_APPLIED: State.APPLIED,
    fleet_pb2.REPORT_STATE_FAILED: State.FAILED,
}
EVENT_KINDS = {
    run_pb2.EVENT_KIND_MESSAGE: "message",
    run_pb2.EVENT_KIND_THINKING: "thinking",
    run_pb2.EVENT_KIND_TOOL_CALL: "tool_call",
    run_pb2.EVENT_KIND_TOOL_RESULT: "tool_result",
    run_pb2.EVENT_KIND_PROMPT: "prompt",
    run_pb2.EVENT_KIND_NOTICE: "notice",
    run_pb2.EVENT_KIND_GAP: "gap",
    run_pb2.EVENT_KIND_TURN_END: "turn_end",
}


def hello_of(machine: str, hello: fleet_pb2.Hello, now: datetime) -> tuple[Hello, list[SwitchboardError]]:
    """Return a hello and what in it would not do: one bad run must not keep a machine out."""
    bad: list[SwitchboardError] = []
    reports: list[Report] = [
        *_good((lambda r=r: run_of(machine, r, now) for r in hello.runs), bad),  # type: ignore[misc]
        *_good((lambda a=a: approval_of(machine, a, now) for a in hello.approvals), bad),  # type: ignore[misc]
        *_good((lambda r=r: receipt_of(machine, r, now) for r in hello.receipts), bad),  # type: ignore[misc]
        *_good((lambda r=r: decision_receipt_of(r) for r in hello.decision_receipts), bad),  # type: ignore[misc]
    ]
    orders = _good((lambda o=o: order_of(o) for o in hello.orders_held.orders), bad)  # type: ignore[misc]
    spool = _good((lambda s=s: (ident("run_id", s.run_id), max(1, s.low)) for s in hello.spool), bad)  # type: ignore[misc]
    return (
        Hello(
            name=hello.name[:LABEL],
            version=hello.version[:LABEL],
            boot_epoch=hello.boot_epoch[:LABEL],
            platform=hello.platform[:LABEL],
            capabilities=tuple(word[:LABEL] for word in hello.capabilities[:100]),
            agents=tuple(
                AgentProgram(a.name[:LABEL], a.version[:LABEL], a.problem[:SENTENCE], a.signed_in)
                for a in hello.agents[:100]
            ),
            orders=tuple(orders),
            orders_epoch=hello.orders_held.store_epoch[:LABEL],
            orders_generation=hello.orders_held.generation,
            reports=tuple(reports),
            spool=dict(spool),
        ),
        bad,
    )


def report_of(machine: str, message: fleet_pb2.AttachRequest, now: datetime) -> Report | None:
    """Return what a message reports; None for one that is younger than this server, or no report. Raises Invalid."""
    match message.WhichOneof("kind"):
        case "run":
            return run_of(machine, message.run, now)
        case "approval":
            return approval_of(machine, message.approval, now)
        case "decision_receipt":
            return decision_receipt_of(message.decision_receipt)
        case "orders_seen":
            return orders_seen_of(message.orders_seen)
        case "receipt":
            return receipt_of(machine, message.receipt, now)
        case "instruction_report":
            said = message.instruction_report
            state = _known(REPORT_STATES, said.state, "state of an instruction")
            return InstructionReport(ident("instruction_id", said.instruction_id), state, said.reason[:SENTENCE])
        case "alarm":
            return Alarm(message.alarm.kind[:LABEL], message.alarm.text[:SENTENCE], message.alarm.run_id[:LABEL])
        case _:
            return None


def silent_of(beat: fleet_pb2.Heartbeat) -> dict[str, timedelta]:
    """Return how long each live run has been silent."""
    return {pulse.run_id: timedelta(milliseconds=pulse.silent_ms) for pulse in beat.pulses[:MOST]}


def run_of(machine: str, run: run_pb2.Run, now: datetime) -> Run:
    return Run(
        id=ident("run_id", run.id),
        machine=machine,
        attempt=run.attempt,
        revision=run.revision,
        state=_known(RUN_STATES, run.state, f"state of run {run.id}"),
        reason=run.reason[:SENTENCE],
        repo=run.repo[:LABEL],
        path=run.path[:SENTENCE],
        branch=run.branch[:LABEL],
        base_commit=run.base_commit[:LABEL],
        agent=run.agent[:LABEL],
        agent_version=run.agent_version[:LABEL],
        mode=run.mode[:LABEL],
        permission_mode=run.permission_mode[:LABEL],
        not_gated=tuple(words[:LABEL] for words in run.not_gated[:100]),
        abilities=tuple(words[:LABEL] for words in run.abilities[:100]),
        owner=run.owner[:LABEL],
        waits_for=run.waits_for[:LABEL],
        prompt=run.prompt[:LONGEST_PROMPT],
        session_id=run.session_id[:LABEL],
        started_at=now - min(timedelta(milliseconds=min(run.age_ms, 10**15)), LONGEST_AGE),
        changed_at=now,
        content=run.content[:LABEL] or "full",
        containment=run.containment[:LABEL],
        scope=tuple(glob[:SENTENCE] for glob in run.scope[:100]),
        resume_after_crash=run.resume_after_crash,
        output_next=run.output_next,
    )


def approval_of(machine: str, approval: approval_pb2.Approval, now: datetime) -> Approval:
    return Approval(
        id=ident("approval_id", approval.id),
        run=ident("run_id", approval.run_id),
        machine=machine,
        attempt=approval.attempt,
        # A kind that is younger than this server becomes a generic card: silence would be a bug.
        kind=QUESTION_KINDS.get(approval.kind, "unknown"),
        tool=approval.tool[:LABEL],
        input_json=approval.input_json,  # whole: what is cut could not be approved
        cwd=approval.cwd[:SENTENCE],
        digest=approval.digest[:LABEL],
        title=approval.title[:SENTENCE],
        why=approval.why[:TEXT],
        diff=approval.diff[:TEXT],
        edits_input=approval.edits_input,
        masked=approval.masked,
        revision=approval.revision,
        state=_known(APPROVAL_STATES, approval.state, f"state of approval {approval.id}"),
        reason=approval.reason[:SENTENCE],
        opened_at=now - min(timedelta(milliseconds=min(approval.age_ms, 10**15)), LONGEST_AGE),
        expires_at=now + min(timedelta(milliseconds=min(approval.expires_in_ms, 10**15)), LONGEST_AGE),
    )


def decision_receipt_of(receipt: approval_pb2.DecisionReceipt) -> DecisionReceipt:
    return DecisionReceipt(
        approval=ident("approval_id", receipt.approval_id),
        decision=receipt.decision_id[:LABEL],
        application=_known(APPLICATIONS, receipt.application, f"application of {receipt.approval_id}"),
        verdict=VERDICTS.get(receipt.verdict, ""),
        by=receipt.by[:LABEL],
        reason=receipt.reason[:SENTENCE],
    )


def orders_seen_of(seen: stop_pb2.OrdersSeen) -> OrdersSeen:
    return OrdersSeen(
        epoch=seen.store_epoch[:LABEL],
        generation=seen.generation,
        matches=tuple(
            Match(ident("order_id", match.order_id), tuple(match.run_ids[:MOST])) for match in seen.matches[:MOST]
        ),
    )


def receipt_of(machine: str, receipt: stop_pb2.Receipt, now: datetime) -> Receipt:
    safety = receipt.safety
    return Receipt(
        order=ident("order_id", receipt.order_id),
        run=ident("run_id", receipt.run_id),
        machine=machine,
        attempt=receipt.attempt,
        outcome=_known(OUTCOMES, receipt.outcome, f"outcome of {receipt.run_id}"),
        proof=PROOFS.get(receipt.proof, ""),
        rung=receipt.rung[:LABEL],
        took_ms=receipt.took_ms,
        processes=receipt.processes,
        reason=receipt.reason[:SENTENCE],
        safety=Safety(
            id=safety.id[:LABEL],
            head=safety.head[:LABEL],
            files=safety.files,
            bytes=safety.bytes,
            not_saved=tuple(line[:SENTENCE] for line in safety.not_saved[:1000]),
            error=safety.error[:SENTENCE],
            left_out=max(safety.left_out, len(safety.not_saved)),
        )
        if receipt.HasField("safety")
        else None,
        at=now,
    )


def order_of(order: stop_pb2.StopOrder) -> Order:
    issued = _instant(order.issued_at_ms)
    lists = {name: tuple(getattr(order.selector, name)) for name in LISTS}
    return Order(
        id=ident("order_id", order.id),
        generation=order.generation,
        selector=Selector(all=order.selector.all, **lists),
        reason=order.reason,
        by=order.by,
        issued_at=issued,
        review_at=issued + timedelta(hours=8),
        hold=order.hold,
        lifted=order.lifted,
        lifted_by=order.lifted_by[:LABEL],
        lift_reason=order.lift_reason[:SENTENCE],
        lift_seal=order.lift_seal[:LABEL],
    )


def decode_events(batch: bytes) -> list[Event]:
    """Return the events of a stored batch; damaged bytes are one event that says so."""
    try:
        return [_event_of(event) for event in run_pb2.RunEvents.FromString(batch).events]
    except (DecodeError, ValueError) as error:
        return [Event(seq=0, at_ms=0, kind="unknown", text=f"a batch of {len(batch)} bytes cannot be read: {error}")]


def _event_of(event: run_pb2.RunEvent) -> Event:
    detail: Mapping[str, Any] = {}
    if event.detail_json:
        try:
            found = json.loads(event.detail_json)
            detail = found if isinstance(found, dict) else {"value": found}
        except (ValueError, RecursionError):
            detail = {"unreadable": event.detail_json}
    return Event(
        seq=event.seq,
        at_ms=event.at_ms,
        kind=EVENT_KINDS.get(event.kind, "unknown"),
        text=event.text,
        tool=event.tool,
        block=event.block,
        detail=detail,
        attempt=event.attempt,
    )


def _known(table: Mapping[Any, T], number: int, what: str) -> T:
    found = table.get(number)
    if found is None:
        raise Invalid("state", f"the {what[:200]} is {number}, which this switchboard does not know: upgrade it")
    return found


def _good(makers: Iterable[Callable[[], T]], bad: list[SwitchboardError]) -> list[T]:
    good: list[T] = []
    for make in makers:
        try:
            good.append(make())
        except SwitchboardError as error:
            bad.append(error)
    return good


def _instant(ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
