"""What this machine reports."""

import json
from collections.abc import Iterable, Mapping, Sequence

from switchboard_rpc.v1 import approval_pb2, fleet_pb2, run_pb2, stop_pb2

from daemon.clock import Clock
from daemon.domain.approval import Application, Verdict
from daemon.domain.facts import ApprovalRecord, InstructionRecord, OrderRecord, ReceiptRecord, RunRecord
from daemon.domain.instruction import (
    Alarm,
    DecisionRefused,
    Fact,
    Held,
    Hello,
    OrdersSeen,
)
from daemon.domain.orders import LISTS
from daemon.translate.text import LONG, clean

ORDERS_BYTES = 4 * 2**20  # of the orders in a hello: the server takes 8 MiB in all
SHOWN = 512 * 1024  # bytes of a question's input, and of its diff

_QUESTION_KINDS = {
    name.removeprefix("QUESTION_KIND_").lower(): number for name, number in approval_pb2.QuestionKind.items()
}
_APPROVAL_STATES = {
    name.removeprefix("APPROVAL_STATE_").lower(): number for name, number in approval_pb2.ApprovalState.items()
}
_RUN_STATES = {name.removeprefix("RUN_STATE_").lower(): number for name, number in run_pb2.RunState.items()}
_PROOFS = {name.removeprefix("PROOF_").lower().replace("_", "-"): number for name, number in stop_pb2.Proof.items()}
_OUTCOMES = {name.removeprefix("OUTCOME_").lower(): number for name, number in stop_pb2.Outcome.items()}
_VERDICTS = {
    "": approval_pb2.VERDICT_UNSPECIFIED,
    Verdict.APPROVE: approval_pb2.VERDICT_APPROVE,
    Verdict.DENY: approval_pb2.VERDICT_DENY,
}
_APPLICATIONS = {
    Application.ACCEPTED: approval_pb2.APPLICATION_ACCEPTED,
    Application.APPLIED: approval_pb2.APPLICATION_APPLIED,
    Application.REFUSED: approval_pb2.APPLICATION_REFUSED,
    Application.UNDELIVERABLE: approval_pb2.APPLICATION_UNDELIVERABLE,
}
_REPORTS = {
    "delivered": fleet_pb2.REPORT_STATE_DELIVERED,
    "applied": fleet_pb2.REPORT_STATE_APPLIED,
    "failed": fleet_pb2.REPORT_STATE_FAILED,
}


ALL_LIVE_RUNS = "all-live-runs"  # the hello names every run that is alive: the switchboard may close the others


def hello(said: Hello, clock: Clock, facts: Iterable[Fact], *, all_live_runs: bool) -> fleet_pb2.Hello:
    """Return the hello with *facts* in it; those that have no field there are left to reports."""
    message = fleet_pb2.Hello(
        name=clean(said.name, 200),
        version=said.version,
        boot_epoch=said.boot_epoch,
        capabilities=[ALL_LIVE_RUNS] if all_live_runs else [],
        platform=clean(said.platform, 200),
        agents=[
            fleet_pb2.Agent(name=a.name, version=clean(a.version, 100), problem=clean(a.problem), signed_in=a.signed_in)
            for a in said.agents
        ],
        orders_held=orders_held(said.held),
        spool=[fleet_pb2.SpoolRange(run_id=run, low=low, next=up) for run, (low, up) in said.spool.items()],
        store_epoch=said.held.store_epoch,
    )
    for fact in facts:
        for report in reports(fact, clock):
            which = report.WhichOneof("kind")
            if which == "run":
                message.runs.append(report.run)
            elif which == "approval":
                message.approvals.append(report.approval)
            elif which == "decision_receipt":
                message.decision_receipts.append(report.decision_receipt)
            elif which == "receipt":
                message.receipts.append(report.receipt)
    return message


def reports(fact: Fact, clock: Clock) -> list[fleet_pb2.AttachRequest]:
    """Return what is to be sent so that the switchboard has *fact*."""
    request = fleet_pb2.AttachRequest
    match fact:
        case RunRecord():
            return [request(run=run(fact, clock))]
        case ApprovalRecord():
            both = [request(approval=approval(fact, clock))]
            if fact.decision_id:
                both.append(request(decision_receipt=_decision_receipt(fact)))
            return both
        case DecisionRefused():
            refused = approval_pb2.DecisionReceipt(
                approval_id=fact.approval,
                decision_id=fact.decision,
                application=approval_pb2.APPLICATION_REFUSED,
                verdict=_VERDICTS.get(fact.verdict, _VERDICTS[""]),
                by=clean(fact.by, 200),
                reason=clean(fact.reason),
            )
            return [request(decision_receipt=refused)]
        case ReceiptRecord():
            return [request(receipt=receipt(fact))]
        case InstructionRecord():
            report = fleet_pb2.InstructionReport(
                instruction_id=fact.id, state=_REPORTS[fact.state], reason=clean(fact.reason)
            )
            return [request(instruction_report=report)]
        case OrdersSeen():
            matches = [stop_pb2.OrderMatch(order_id=id, run_ids=runs) for id, runs in fact.matches.items()]
            seen = stop_pb2.OrdersSeen(store_epoch=fact.store_epoch, generation=fact.generation, matches=matches)
            return [request(orders_seen=seen)]
        case Alarm():
            return [request(alarm=fleet_pb2.Alarm(kind=fact.kind, text=clean(fact.text), run_id=fact.run))]


def run(record: RunRecord, clock: Clock) -> run_pb2.Run:
    return run_pb2.Run(
        id=record.id,
        attempt=record.attempt,
        revision=record.revision,
        state=_RUN_STATES[record.state],
        reason=clean(record.reason),
        repo=clean(record.repo, 1_000),
        path=clean(record.path),
        branch=clean(record.branch, 1_000),
        base_commit=clean(record.base_commit, 100),
        agent=clean(record.agent, 200),
        agent_version=clean(record.agent_version, 100),
        mode=clean(record.mode, 200),
        permission_mode=clean(record.permission_mode, 200),
        not_gated=[clean(words) for words in record.not_gated],
        abilities=record.abilities,
        owner=clean(record.owner, 200),
        waits_for=record.waits_for,
        prompt=clean(record.prompt, LONG) if record.content != "metadata" else f"{len(record.prompt):,} characters",
        session_id=clean(record.session_id, 200),
        age_ms=_age(record, clock),
        content=record.content,
        containment=record.containment,
        scope=[clean(glob, 1_000) for glob in record.scope],
        resume_after_crash=record.resume_after_crash,
        output_next=record.output_next,
    )


def _age(record: RunRecord, clock: Clock) -> int:
    """By the boot clock; after a restart of the machine by its own wall clock, which is all that is left."""
    by_boot = clock.boot_ms() - record.started_boot_ms
    return by_boot if by_boot >= 0 and record.boot_id else max(0, clock.wall_ms() - record.started_wall_ms)


def approval(record: ApprovalRecord, clock: Clock) -> approval_pb2.Approval:
    now = clock.boot_ms()
    shown, cut = _fitting(record.shown_json)
    return approval_pb2.Approval(
        id=record.id,
        run_id=record.run,
        attempt=record.attempt,
        kind=_QUESTION_KINDS.get(record.kind, approval_pb2.QUESTION_KIND_UNKNOWN),
        tool=clean(record.tool, 1_000),
        input_json=shown,
        cwd=clean(record.cwd),
        digest=record.digest,
        title=clean(record.title),
        why=clean(record.why),
        diff=clean(record.diff, SHOWN // 4),
        edits_input=record.edits_input,
        state=_APPROVAL_STATES[record.state],
        reason=clean(record.reason),
        age_ms=max(0, now - record.opened_boot_ms),
        expires_in_ms=max(0, record.expires_boot_ms - now),
        revision=record.revision,
        masked=record.masked or cut,
    )


def _fitting(shown_json: str) -> tuple[str, bool]:
    """Return the input, its longest texts cut where it is too large for one message, and whether any were."""
    if len(shown_json.encode("utf-8", "replace")) <= SHOWN:
        return clean(shown_json, SHOWN), False
    limit = SHOWN // 8
    while limit > 16:
        text = json.dumps(_cut(json.loads(shown_json), limit), sort_keys=True, separators=(",", ":"))
        if len(text) <= SHOWN:
            return text, True
        limit //= 4
    return json.dumps({"too large to show": f"{len(shown_json):,} characters"}), True


def _cut(value: object, limit: int) -> object:
    match value:
        case str() if len(value) > limit:
            return f"{value[:limit]}… (cut: {len(value):,} characters in all)"
        case dict():
            return {str(key)[:limit]: _cut(part, limit) for key, part in value.items()}
        case list():
            more = [f"… (cut: {len(value):,} entries in all)"] if len(value) > limit else []
            return [*(_cut(part, limit) for part in value[:limit]), *more]
        case _:
            return value


def _decision_receipt(record: ApprovalRecord) -> approval_pb2.DecisionReceipt:
    return approval_pb2.DecisionReceipt(
        approval_id=record.id,
        decision_id=record.decision_id,
        application=_APPLICATIONS.get(record.application, approval_pb2.APPLICATION_ACCEPTED),
        verdict=_VERDICTS[record.verdict or ""],
        by=clean(record.decided_by, 200),
        reason=clean(record.reason),
    )


def receipt(record: ReceiptRecord) -> stop_pb2.Receipt:
    saved = record.safety
    return stop_pb2.Receipt(
        order_id=record.order,
        run_id=record.run,
        attempt=record.attempt,
        outcome=_OUTCOMES.get(record.outcome, stop_pb2.OUTCOME_UNSPECIFIED),
        proof=_PROOFS.get(record.proof, stop_pb2.PROOF_UNSPECIFIED),
        rung=record.rung,
        took_ms=record.took_ms,
        processes=record.processes,
        reason=clean(record.reason),
        safety=stop_pb2.Safety(
            id=saved.id,
            head=clean(saved.head, 100),
            files=saved.files,
            bytes=saved.bytes,
            not_saved=[clean(path, 1_000) for path in _first(saved.not_saved, 200)],
            error=clean(saved.error),
            left_out=saved.left_out,
        )
        if saved
        else None,
    )


def _first(paths: Sequence[str], most: int) -> list[str]:
    return [*paths[:most], *([f"… and {len(paths) - most:,} more"] if len(paths) > most else [])]


def orders_held(held: Held) -> stop_pb2.OrderSet:
    """Return the orders for a server that may have lost them, as many as a hello can carry: those that stand, then the newest lifts."""
    orders, room = [], ORDERS_BYTES
    for record in sorted(held.orders, key=lambda o: (o.lifted, -o.generation if o.lifted else o.generation)):
        order = _order(record)
        room -= order.ByteSize()
        if room < 0:
            break
        orders.append(order)
    return stop_pb2.OrderSet(store_epoch=held.store_epoch, generation=held.generation, orders=orders)


def _order(record: OrderRecord) -> stop_pb2.StopOrder:
    lists = {name: [str(value) for value in record.selector.get(name) or ()] for name in LISTS}
    return stop_pb2.StopOrder(
        id=record.id,
        generation=record.generation,
        selector=stop_pb2.Selector(all=bool(record.selector.get("all")), **lists),
        reason=record.reason,
        by=record.by,
        issued_at_ms=record.issued_at_ms,
        hold=record.hold,
        lifted=record.lifted,
        lifted_by=record.lifted_by,
        lift_reason=record.lift_reason,
        lift_seal=record.lift_seal,
    )


def heartbeat(pulses: Mapping[str, int], store_epoch: str, generation: int) -> fleet_pb2.AttachRequest:
    return fleet_pb2.AttachRequest(
        heartbeat=fleet_pb2.Heartbeat(
            pulses=[fleet_pb2.Pulse(run_id=id, silent_ms=silent) for id, silent in pulses.items()],
            store_epoch=store_epoch,
            generation=generation,
        )
    )
