"""The projected nouns in memory: typed views, groups, and who is told of a change. It keeps the newer of two versions."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from switchboard.domain.approval import Approval
from switchboard.domain.instruction import Instruction
from switchboard.domain.machine import Machine
from switchboard.domain.people import Person
from switchboard.domain.run import Run
from switchboard.domain.stop import Order, Receipt
from switchboard.services.ports import Stored

# Nouns that are asked for by something other than their id.
GROUPS: dict[str, Callable[[Any], str]] = {
    "receipt": lambda receipt: receipt.order,
    "instruction": lambda instruction: instruction.machine,
}

Listener = Callable[[str, str], None]
log = structlog.get_logger()


class Memory:
    def __init__(self, nouns: Iterable[str]) -> None:
        self._held: dict[str, dict[str, Stored[Any]]] = {noun: {} for noun in nouns}
        self._groups: dict[str, defaultdict[str, dict[str, None]]] = {
            noun: defaultdict(dict) for noun in GROUPS if noun in self._held
        }
        self._listeners: list[Listener] = []

    def runs(self) -> list[Run]:
        return self.all("run")

    def run(self, id: str) -> Run | None:
        found: Run | None = self.one("run", id)
        return found

    def approvals(self) -> list[Approval]:
        return self.all("approval")

    def approval(self, id: str) -> Approval | None:
        found: Approval | None = self.one("approval", id)
        return found

    def orders(self) -> list[Order]:
        return self.all("order")

    def order(self, id: str) -> Order | None:
        found: Order | None = self.one("order", id)
        return found

    def receipts(self, order: str) -> list[Receipt]:
        return self._group("receipt", order)

    def receipt(self, id: str) -> Receipt | None:
        found: Receipt | None = self.one("receipt", id)
        return found

    def machines(self) -> list[Machine]:
        return self.all("machine")

    def machine(self, id: str) -> Machine | None:
        found: Machine | None = self.one("machine", id)
        return found

    def instructions(self, machine: str) -> list[Instruction]:
        return self._group("instruction", machine)

    def instruction(self, id: str) -> Instruction | None:
        found: Instruction | None = self.one("instruction", id)
        return found

    def people(self) -> list[Person]:
        return self.all("person")

    def person(self, id: str) -> Person | None:
        found: Person | None = self.one("person", id)
        return found

    def all(self, noun: str) -> list[Any]:
        return [stored.value for stored in self._held[noun].values() if stored.value is not None]

    def one(self, noun: str, id: str) -> Any | None:
        stored = self._held[noun].get(id)
        return stored.value if stored else None

    def stored(self, noun: str, id: str) -> Stored[Any] | None:
        return self._held[noun].get(id)

    def _group(self, noun: str, name: str) -> list[Any]:
        held = self._held[noun]
        return [held[id].value for id in self._groups[noun].get(name, ())]

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call *callback* with noun and id on every change, at once; it must be quick. Returns what ends that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def apply(self, noun: str, id: str, value: Any | None, version: int) -> None:
        """Take one value (None: deleted) as it was just saved; the newer version stays."""
        self.put(noun, Stored(id, version, value))

    def put(self, noun: str, stored: Stored[Any]) -> bool:
        """As `apply`, for what the store returned. Returns whether the value is another one now."""
        before = self._held[noun].get(stored.id)
        return stored.version > (before.version if before else 0) and self._set(noun, before, stored)

    def _set(self, noun: str, before: Stored[Any] | None, after: Stored[Any]) -> bool:
        old = before.value if before else None
        if noun in self._groups:
            group, name = self._groups[noun], GROUPS[noun]
            if old is not None and (after.value is None or name(old) != name(after.value)):
                group[name(old)].pop(after.id, None)
                if not group[name(old)]:
                    del group[name(old)]
            if after.value is not None:
                group[name(after.value)][after.id] = None
        self._held[noun][after.id] = after
        if old == after.value:
            return False
        for callback in list(self._listeners):
            try:
                callback(noun, after.id)
            except Exception:
                # The change has happened; a listener's mistake must not look like a failed write.
                log.exception("a listener failed", noun=noun, id=after.id)
        return True

    def heard(self, noun: str, before: Stored[Any] | None, stored: Stored[Any]) -> bool:
        """Take the store's word; when it changed here since the reading began, the newer of the two."""
        if self._held[noun].get(stored.id) is not before:
            return self.put(noun, stored)
        return (before is not None or stored.value is not None) and stored != before and self._set(noun, before, stored)
