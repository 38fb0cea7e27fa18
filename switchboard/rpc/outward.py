"""From the domain to the wire: what daemons are told."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from switchboard_rpc.v1 import approval_pb2, enroll_pb2, fleet_pb2, stop_pb2

from switchboard.domain.instruction import Instruction, Kind
from switchboard.domain.stop import Order
from switchboard.rpc.translate import LISTS, VERDICTS

T = TypeVar("T")

VERDICT_NUMBERS = {word: number for number, word in VERDICTS.items()}


def order_set_to(epoch: str, generation: int, orders: Iterable[Order]) -> stop_pb2.OrderSet:
    return stop_pb2.OrderSet(store_epoch=epoch, generation=generation, orders=map(_order_to, orders))


def _order_to(order: Order) -> stop_pb2.StopOrder:
    return stop_pb2.StopOrder(
        id=order.id,
        generation=order.generation,
        selector=stop_pb2.Selector(all=order.selector.all, **{name: getattr(order.selector, name) for name in LISTS}),
        reason=order.reason,
        by=order.by,
        issued_at_ms=int(order.issued_at.timestamp() * 1000),
        hold=order.hold,
        lifted=order.lifted,
        lifted_by=order.lifted_by,
        lift_reason=order.lift_reason,
        lift_seal=order.lift_seal,
    )


def instruction_to(instruction: Instruction) -> fleet_pb2.Instruction:
    message = fleet_pb2.Instruction(id=instruction.id, by=instruction.by, reason=instruction.reason)
    body = instruction.body
    match instruction.kind:
        case Kind.START:
            message.start.CopyFrom(_filled(fleet_pb2.Start, body))
        case Kind.MESSAGE:
            message.message.CopyFrom(_filled(fleet_pb2.Message, body))
        case Kind.INTERRUPT:
            message.interrupt.CopyFrom(_filled(fleet_pb2.Interrupt, body))
        case Kind.RESUME:
            message.resume.CopyFrom(_filled(fleet_pb2.Resume, body))
        case Kind.END:
            message.end.CopyFrom(_filled(fleet_pb2.End, body))
        case Kind.PURGE:
            message.purge.CopyFrom(_filled(fleet_pb2.Purge, body))
        case Kind.DECISION:
            verdict = VERDICT_NUMBERS.get(str(body.get("verdict")), approval_pb2.VERDICT_DENY)
            message.decision.CopyFrom(_filled(approval_pb2.Decision, {**body, "verdict": verdict}))
        case Kind.QUERY:
            for name, kind in _QUERIES.items():
                if name in body:
                    getattr(message.query, name).CopyFrom(_filled(kind, body[name]))
    return message


_QUERIES: dict[str, Callable[..., Any]] = {
    "diff": fleet_pb2.DiffQuery,
    "output": fleet_pb2.OutputQuery,
    "safety": fleet_pb2.SafetyQuery,
}


def certificate_to(certificate_pem: str, ca_pem: bytes, left: timedelta, generation: int) -> enroll_pb2.Certificate:
    return enroll_pb2.Certificate(
        certificate_pem=certificate_pem.encode(),
        ca_pem=ca_pem,
        life_s=max(0, int(left.total_seconds())),
        generation=generation,
    )


def _filled(kind: Callable[..., T], body: Mapping[str, Any]) -> T:
    """Make a message of the fields that it has: a younger replica may have written more."""
    fields = kind.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    return kind(**{name: value for name, value in body.items() if name in fields})
