"""How the nouns look as JSON to one caller: secrets never, a run's content only to who may read it, ages instead of clocks."""

from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from switchboard.clock import Clock
from switchboard.domain.approval import Approval
from switchboard.domain.instruction import Instruction, Kind
from switchboard.domain.machine import Machine
from switchboard.domain.people import ROLE_PERMITS, Caller, Person, Token
from switchboard.domain.run import Run
from switchboard.domain.stop import Order, Receipt
from switchboard.services.people import People
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.runs import RunRow, Runs

_RUN, _APPROVAL = TypeAdapter(Run), TypeAdapter(Approval)
_MACHINE, _ORDER, _RECEIPT = TypeAdapter(Machine), TypeAdapter(Order), TypeAdapter(Receipt)

Json = dict[str, Any]


class View:
    def __init__(self, *, people: People, runs: Runs, presence: Presence, projection: Projection, clock: Clock) -> None:
        self._people, self._runs, self._presence = people, runs, presence
        self._projection, self._clock = projection, clock

    def one(self, caller: Caller, noun: str, id: str) -> Json | None:
        """Return the thing with this noun and id as it stands now; None when it is gone."""
        found = self._projection.one(noun, id)
        match found:
            case Run():
                return self.run(caller, found)
            case Approval():
                return self.approval(caller, found)
            case Order():
                return self.order(found)
            case Receipt():
                return {"id": found.id, **self.receipt(caller, found)}
            case Machine():
                return self.machine(self._presence.machine(id) or found)
            case Instruction():
                return self.instruction(found)
            case Person():
                return self.person(found)
        return None

    def run(self, caller: Caller, run: Run) -> Json:
        return self.run_row(caller, self._runs.row(run))

    def run_row(self, caller: Caller, row: RunRow) -> Json:
        run = row.run
        shown: Json = _RUN.dump_python(run, mode="json")
        readable = self._runs.may_read(caller, run)
        if not readable:
            shown["prompt"] = shown["reason"] = ""
        return shown | {
            "machine_name": row.machine_name,
            "active": run.active,
            "age_s": round(row.age.total_seconds(), 1),
            "changed_s": self._age(run.changed_at),
            "proof_age_s": round(row.proof_age.total_seconds(), 1) if row.proof_age is not None else None,
            "reachable": row.reachable,
            "readable": readable,
        }

    def approval(self, caller: Caller, approval: Approval) -> Json:
        row: Json = _APPROVAL.dump_python(approval, mode="json")
        run, machine = self._projection.run(approval.run), self._presence.machine(approval.machine)
        readable = run is not None and self._runs.may_read(caller, run)
        if not readable:
            row |= {"input_json": "", "diff": "", "why": "", "title": "", "votes": [], "reason": "", "cwd": ""}
        first = approval.decision
        return row | {
            "machine_name": machine.name if machine else approval.machine,
            "branch": run.branch if run else "",
            "agent": run.agent if run else "",
            "age_s": self._age(approval.opened_at),
            "expires_in_s": -self._age(approval.expires_at, floor=None),
            "decided_by": first.by if first else "",
            "reachable": bool(machine and machine.attached),
            "readable": readable,
        }

    def order(self, order: Order) -> Json:
        row: Json = _ORDER.dump_python(order, mode="json")
        row["expected"] = len(order.expected)
        overdue = not order.lifted and order.hold and self._clock.now() >= order.review_at
        return row | {
            "age_s": self._age(order.issued_at),
            "standing": order.hold and not order.lifted,
            "review_due": overdue,
        }

    def receipt(self, caller: Caller, receipt: Receipt) -> Json:
        run = self._projection.run(receipt.run)
        if run is None or not self._runs.may_read(caller, run):
            receipt = receipt.unnamed()
        row: Json = _RECEIPT.dump_python(receipt, mode="json")
        return row

    def machine(self, machine: Machine) -> Json:
        row: Json = _MACHINE.dump_python(machine, mode="json")
        del row["certificate_pem"], row["key_fingerprint"]
        return row | {"seen_age_s": self._age(machine.seen_at) if machine.seen_at else None}

    def person(self, person: Person) -> Json:
        return {
            "id": person.id,
            "display": person.display,
            "role": person.role.value,
            "disabled": person.disabled,
            "has_password": bool(person.password_hash),
        }

    def me(self, person: Person) -> Json:
        return {
            "person": person.id,
            "display": person.display,
            "role": person.role.value,
            "permits": sorted(ROLE_PERMITS[person.role]),
            "solo": self._people.solo(),
        }

    def token(self, token: Token) -> Json:
        return {
            "id": token.id[:16],  # enough to name it; the rest is nobody's business
            "name": token.name,
            "person": token.person,
            "permits": sorted(token.permits),
            "machine": token.machine,
            "until": token.until.isoformat(),
        }

    def instruction(self, instruction: Instruction) -> Json:
        """Without its body: prompts and inputs are content."""
        return {
            "id": instruction.id,
            "machine": instruction.machine,
            "kind": instruction.kind.value,
            "run": instruction.run,
            "by": instruction.by,
            "at": instruction.at.isoformat(),
            "state": instruction.state.value,
            "outcome": "" if instruction.kind is Kind.QUERY else instruction.outcome,  # an answer is content, too
            "pending": instruction.pending,
        }

    def _age(self, since: datetime, floor: float | None = 0.0) -> float:
        age = round((self._clock.now() - since).total_seconds(), 1)
        return age if floor is None else max(floor, age)
