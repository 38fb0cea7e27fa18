"""What this machine says of itself: written down first, then said, and said again until the switchboard has it.

When the disk takes nothing the truth is still told, but nothing begins and nothing that runs may go on.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import structlog

from daemon.disk import DiskFull
from daemon.domain.errors import NoSuch
from daemon.domain.facts import InstructionRecord, InstructionState, RunRecord
from daemon.domain.instruction import Alarm, Fact
from daemon.domain.redaction import Redactor
from daemon.domain.run import ENDED
from daemon.journal import Journal

log = structlog.get_logger()

DISK = "disk"


class Reports:
    def __init__(self, journal: Journal, redactor: Redactor) -> None:
        self._journal = journal
        self.masked = redactor.text  # for whatever is not the daemon's own wording
        self._alarms: dict[tuple[str, str], Alarm] = {}  # not acknowledged yet
        self._unwritten: dict[str, RunRecord] = {}  # as they stand and were said, while the disk takes nothing
        self.full = ""  # why nothing can be written, while that is so
        # These are set by whoever puts the daemon together.
        self.send: Callable[[Fact], None] = lambda fact: None
        self.on_full: Callable[[str], None] = lambda why: None
        self.output_next: Callable[[str], int] = lambda run: 0

    def say(self, fact: Fact) -> None:
        self.send(fact)

    def put_run(self, record: RunRecord) -> RunRecord:
        """Write *record* down and say it; return it with its revision."""
        upto = self.output_next(record.id) if record.state in ENDED else 0
        record = replace(record, reason=self.masked(record.reason), output_next=upto)
        try:
            record = self._journal.put_run(record)
            self._unwritten.pop(record.id, None)
        except DiskFull as error:
            record = self._unwritten[record.id] = replace(record, revision=record.revision + 1)
            self.disk_full(str(error))
        self.send(record)
        return record

    def unwritten(self) -> list[RunRecord]:
        """Runs that stand otherwise than the disk says."""
        return list(self._unwritten.values())

    def try_disk(self) -> None:
        """Write down what could not be written before. Raises DiskFull while it still cannot."""
        for id, record in list(self._unwritten.items()):
            written = self._journal.put_run(record)
            del self._unwritten[id]
            self.send(written)

    def finish(self, id: str, state: InstructionState, reason: str = "") -> None:
        """Write down and say how an instruction went; the daemon's own have no id."""
        if not id:
            return
        reason = self.masked(reason)
        try:
            self.send(self._journal.finish_instruction(id, state, reason))
        except NoSuch:
            return  # trimmed: the switchboard has had its word
        except DiskFull as error:
            self.disk_full(str(error))
            self.send(InstructionRecord(id, "", "", state, reason))

    def alarm(self, kind: str, text: str, run: str = "") -> None:
        alarm = Alarm(kind, text, run)
        if self._alarms.get((kind, run)) != alarm:
            log.error(kind, text=text, run=run)
            self._alarms[kind, run] = alarm
            self.send(alarm)

    def alarms(self) -> Iterator[Alarm]:
        yield from list(self._alarms.values())

    def alarm_acked(self, alarm: Alarm) -> None:
        if self._alarms.get((alarm.kind, alarm.run)) == alarm and not (alarm.kind == DISK and self.full):
            del self._alarms[alarm.kind, alarm.run]

    def disk_full(self, why: str) -> None:
        """The disk did not take a write."""
        first, self.full = not self.full, why
        self.alarm(DISK, f"nothing can be written, so no run may go on: {why}")
        if first:
            self.on_full(why)

    def disk_back(self) -> None:
        if self.full:
            self.full = ""
            self.alarm(DISK, "the disk takes writes again")
