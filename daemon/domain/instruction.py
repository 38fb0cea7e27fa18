"""What the switchboard tells this machine, and what this machine says of it: values, whatever the wire looks like."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.domain.facts import ApprovalRecord, InstructionRecord, OrderRecord, ReceiptRecord, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    run: str
    path: str
    agent: str
    mode: str = ""
    scope: tuple[str, ...] = ()
    prompt: str = ""
    owner: str = ""
    resume_after_crash: bool = False
    stopped_by: tuple[str, ...] = ()  # orders that were given while it was on its way


@dataclass(frozen=True, slots=True)
class Message:
    run: str
    text: str


@dataclass(frozen=True, slots=True)
class Interrupt:
    run: str


@dataclass(frozen=True, slots=True)
class Resume:
    run: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class End:
    run: str


@dataclass(frozen=True, slots=True)
class Purge:
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A person's answer on its way to the agent; the digest is of the request as that person saw it."""

    approval: str
    approve: bool
    digest: str
    input_json: str = ""  # replaces the agent's input; empty leaves it
    edited_digest: str = ""
    message: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class DiffQuery:
    run: str


@dataclass(frozen=True, slots=True)
class OutputQuery:
    run: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class SafetyQuery:
    verb: str  # list, show or restore
    id: str = ""
    into: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A kind that this daemon does not know: a newer switchboard's. It is answered, never ignored."""


Query = DiffQuery | OutputQuery | SafetyQuery
Body = Start | Message | Interrupt | Resume | End | Purge | Decision | Query | Unreadable


@dataclass(frozen=True, slots=True)
class Instruction:
    """Delivered again until it is reported; taken once, by id."""

    id: str
    body: Body


@dataclass(frozen=True, slots=True)
class OrdersSeen:
    """The set is on this machine's disk, and these of its runs match: order id to run ids."""

    store_epoch: str
    generation: int
    matches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecisionRefused:
    """The receipt of a decision that is not in force. The verdict and name are those that are, if any are."""

    approval: str
    decision: str
    reason: str
    verdict: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    kind: str
    text: str
    run: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    machine: str
    store_epoch: str
    generation: int
    orders: tuple[OrderRecord, ...]
    heartbeat_ms: int
    watermarks: Mapping[str, int]
    connection: int = 0


@dataclass(frozen=True, slots=True)
class AgentProgram:
    """What this machine found of one agent; *problem* is empty when it can be used."""

    name: str
    version: str = ""
    problem: str = ""
    signed_in: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """The orders on this machine's disk, as of a generation of a store."""

    store_epoch: str
    generation: int
    orders: tuple[OrderRecord, ...] = ()


Fact = RunRecord | ApprovalRecord | ReceiptRecord | InstructionRecord | DecisionRefused | OrdersSeen | Alarm
"""What this machine reports. It is kept and said again until the switchboard has it durably."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    name: str
    version: str
    boot_epoch: str
    platform: str
    agents: tuple[AgentProgram, ...]
    facts: tuple[Fact, ...]  # the most pressing first
    held: Held
    spool: Mapping[str, tuple[int, int]]  # run: lowest seq in the spool, next to be numbered
