"""What the switchboard tells this machine."""

from switchboard_rpc.v1 import approval_pb2, fleet_pb2, stop_pb2

from daemon.domain.facts import OrderRecord
from daemon.domain.instruction import (
    Body,
    Decision,
    DiffQuery,
    End,
    Held,
    Instruction,
    Interrupt,
    Message,
    OutputQuery,
    Purge,
    Resume,
    SafetyQuery,
    Start,
    Unreadable,
    Welcome,
)
from daemon.domain.orders import LISTS


def welcome(message: fleet_pb2.Welcome) -> Welcome:
    held = orders_of(message.orders)
    return Welcome(
        machine=message.machine_id,
        store_epoch=held.store_epoch,
        generation=held.generation,
        orders=held.orders,
        heartbeat_ms=min(max(message.heartbeat_ms or 5_000, 100), 60_000),
        watermarks={mark.run_id: mark.next for mark in message.watermarks},
        connection=message.connection,
    )


def orders_of(message: stop_pb2.OrderSet) -> Held:
    return Held(message.store_epoch, message.generation, tuple(_order_of(order) for order in message.orders))


def _order_of(message: stop_pb2.StopOrder) -> OrderRecord:
    selector = {
        field.name: list(value) if field.name in LISTS else value for field, value in message.selector.ListFields()
    }
    return OrderRecord(
        id=message.id,
        generation=message.generation,
        selector=selector,
        reason=message.reason,
        by=message.by,
        issued_at_ms=message.issued_at_ms,
        hold=message.hold,
        lifted=message.lifted,
        lifted_by=message.lifted_by,
        lift_reason=message.lift_reason,
        lift_seal=message.lift_seal,
    )


def instruction(message: fleet_pb2.Instruction) -> Instruction:
    return Instruction(message.id, _body(message))


def _body(message: fleet_pb2.Instruction) -> Body:
    match message.WhichOneof("kind"):
        case "start":
            start = message.start
            return Start(
                run=start.run_id,
                path=start.path,
                agent=start.agent,
                mode=start.mode,
                scope=tuple(start.scope),
                prompt=start.prompt,
                owner=start.owner,
                resume_after_crash=start.resume_after_crash,
                stopped_by=tuple(start.stopped_by),
            )
        case "message":
            return Message(message.message.run_id, message.message.text)
        case "interrupt":
            return Interrupt(message.interrupt.run_id)
        case "resume":
            return Resume(message.resume.run_id, message.resume.text)
        case "end":
            return End(message.end.run_id)
        case "purge":
            return Purge(message.purge.run_id)
        case "decision":
            decided = message.decision
            if decided.verdict not in (approval_pb2.VERDICT_APPROVE, approval_pb2.VERDICT_DENY):
                return Unreadable()
            return Decision(
                approval=decided.approval_id,
                approve=decided.verdict == approval_pb2.VERDICT_APPROVE,
                digest=decided.digest,
                input_json=decided.input_json,
                edited_digest=decided.edited_digest,
                message=decided.message,
                by=decided.by,
            )
        case "query":
            return _query(message.query)
        case _:
            return Unreadable()


def _query(message: fleet_pb2.Query) -> Body:
    match message.WhichOneof("kind"):
        case "diff":
            return DiffQuery(message.diff.run_id)
        case "output":
            return OutputQuery(message.output.run_id, message.output.first, message.output.count)
        case "safety":
            asked = message.safety
            return SafetyQuery(asked.verb, asked.id, asked.into)
        case _:
            return Unreadable()
