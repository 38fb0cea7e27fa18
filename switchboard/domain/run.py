"""One agent session on one machine in one checkout, as its machine announces it. The machine's word is the truth."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class RunState(StrEnum):
    ORDERED = "ordered"  # asked for here; its machine has not said a word yet
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # a question is open
    IDLE = "idle"  # the turn is over; takes a message
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # every process was seen gone by its daemon
    INTERRUPTED = "interrupted"  # the daemon died or drained under it; resumable
    REFUSED = "refused"  # its daemon would not start it


FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED, RunState.INTERRUPTED, RunState.REFUSED})
RESUMABLE = FINAL - {RunState.REFUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    id: str
    machine: str  # from the certificate that announced it, or the machine it was ordered for
    attempt: int = 1
    revision: int = 0  # the machine's counter; 0 while only ordered
    state: RunState = RunState.ORDERED
    reason: str = ""
    repo: str = ""
    path: str = ""
    branch: str = ""
    base_commit: str = ""
    agent: str = ""
    agent_version: str = ""
    mode: str = ""
    permission_mode: str = ""
    not_gated: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()  # what its agent's protocol can do, in words
    owner: str = ""  # a person's id
    waits_for: str = ""
    prompt: str = ""
    session_id: str = ""
    started_at: datetime  # by this server's clock: now minus the age that the machine stated
    changed_at: datetime
    content: str = "full"
    containment: str = ""
    scope: tuple[str, ...] = ()
    resume_after_crash: bool = False
    purged: bool = False  # what it said and did is forgotten, and nothing of it is taken in again
    output_next: int = 0  # of an ended run: the seq after its last output; 0 where its machine does not say

    @property
    def active(self) -> bool:
        return self.state not in FINAL

    def announced(self, by: "Run") -> "Run":
        """Return the newer of what is known and what its machine says; another machine's word changes nothing."""
        if by.machine != self.machine or by.id != self.id or by.revision <= self.revision:
            return self
        newer = replace(by, started_at=min(self.started_at, by.started_at))
        return newer.forgotten() if self.purged else newer

    def forgotten(self) -> "Run":
        """Return what stays of a run that is purged: that it was, where, and whose."""
        return replace(
            self,
            purged=True,
            reason="purged",
            prompt="",
            session_id="",
            waits_for="",
            not_gated=(),
            scope=(),
            output_next=0,
        )
