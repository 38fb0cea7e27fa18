"""The named points at which the campaigns end a process, each with the first and the last pass that a seed may choose.

Passes before the first belong to the start of the process; every story reaches the last.
"""

import random

DISK = {
    "journal.run.writing": (2, 9),
    "journal.run.written": (2, 9),
    "journal.approval.writing": (1, 3),
    "journal.approval.written": (1, 3),
    "journal.decision.writing": (1, 2),
    "journal.decision.written": (1, 2),
    "journal.order.writing": (1, 1),
    "journal.order.written": (1, 1),
    "journal.receipt.writing": (1, 2),
    "journal.receipt.written": (1, 2),
    "journal.instruction.writing": (2, 7),
    "journal.instruction.written": (2, 7),
    "spool.written": (2, 8),
    "spool.dropped": (1, 6),
}
DAEMON = {
    "link.hello.sent": (1, 1),
    "link.instruction.taken": (1, 4),
    "link.report.sent": (4, 15),
    "process.launched": (1, 2),
    "process.keeper.welcomed": (1, 2),
    "process.signalled": (1, 2),
    "process.proven": (1, 2),
    "runner.started": (1, 2),
    "runner.asked": (1, 2),
    "runner.decided": (1, 2),
    "runner.answered": (1, 2),
    "runner.stopping": (2, 2),
    "runner.emptied": (1, 2),
}
SERVER = {
    "store.record.saved": (6, 12),
    "store.output.appended": (2, 4),
    "store.change.published": (5, 12),
    "store.audit.appended": (2, 4),
    "store.orderjournal.written": (1, 1),
    "service.run.saved": (1, 2),
    "service.vote.saved": (1, 2),
    "service.instruction.saved": (1, 4),
    "service.order.journaled": (1, 1),
    "service.order.saved": (1, 1),
    "rpc.welcome.sent": (1, 1),
    "rpc.report.stored": (3, 9),
    "rpc.report.acked": (3, 9),
    "rpc.instruction.sent": (1, 4),
    "rpc.batch.stored": (2, 4),
}
# Each with a story of its own.
ALONE = {"service.machine.enrolled", "service.link.used"}
# Proven where they live, by tests that end a process there and read the disk again.
ELSEWHERE = {
    "journal.meta.writing",
    "journal.meta.written",
    "identity.key.written",
    "identity.certificate.written",
    "safety.writing",
    "safety.written",
}


def chosen(point: str, luck: random.Random) -> str:
    """Return `point:pass`."""
    first, last = {**DISK, **DAEMON, **SERVER}[point]
    return f"{point}:{luck.randint(first, last)}"
