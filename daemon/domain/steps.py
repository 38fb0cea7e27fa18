"""What can happen to one attempt of a run, and what is then to be done: the words between the supervisor and its shell."""

from dataclasses import dataclass

from daemon.domain.run import RunState

# What happens.


@dataclass(frozen=True, slots=True)
class StartOrdered:
    pass


@dataclass(frozen=True, slots=True)
class StartFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class KeeperUp:
    pass


@dataclass(frozen=True, slots=True)
class KeeperLost:
    """The keeper is dead, stopped or silent: the run must not go on without its gate."""

    cause: str


@dataclass(frozen=True, slots=True)
class SessionReady:
    pass


@dataclass(frozen=True, slots=True)
class TurnBegan:
    pass


@dataclass(frozen=True, slots=True)
class TurnOver:
    ok: bool = True
    reason: str = ""
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    ask: str


@dataclass(frozen=True, slots=True)
class Settled:
    ask: str


@dataclass(frozen=True, slots=True)
class MessageOrdered:
    instruction: str
    text: str


@dataclass(frozen=True, slots=True)
class InterruptOrdered:
    instruction: str


@dataclass(frozen=True, slots=True)
class EndOrdered:
    instruction: str


@dataclass(frozen=True, slots=True)
class IdleTimer:
    pass


@dataclass(frozen=True, slots=True)
class StopMatched:
    order: str
    sentence: str


@dataclass(frozen=True, slots=True)
class DrainOrdered:
    """Interrupt at the next idle moment."""

    reason: str


@dataclass(frozen=True, slots=True)
class HaltOrdered:
    """Interrupt now: the daemon ends, or can write nothing any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The agent took its leave, or would not within its time."""


@dataclass(frozen=True, slots=True)
class AgentEnded:
    reason: str = ""  # "" when it went in good order


@dataclass(frozen=True, slots=True)
class TreeEmptied:
    """The daemon has seen with its own eyes that nothing of the run is alive."""


@dataclass(frozen=True, slots=True)
class TreeLeft:
    """The ladder is at its end and something lives; the shell goes on trying."""

    left: str


Event = (
    StartOrdered
    | StartFailed
    | KeeperUp
    | KeeperLost
    | SessionReady
    | TurnBegan
    | TurnOver
    | Asked
    | Settled
    | MessageOrdered
    | InterruptOrdered
    | EndOrdered
    | IdleTimer
    | StopMatched
    | DrainOrdered
    | HaltOrdered
    | SessionClosed
    | AgentEnded
    | TreeEmptied
    | TreeLeft
)

# What is to be done.


@dataclass(frozen=True, slots=True)
class Spawn:
    pass


@dataclass(frozen=True, slots=True)
class Say:
    instruction: str
    text: str


@dataclass(frozen=True, slots=True)
class InterruptTurn:
    instruction: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Let the agent take its leave, then say SessionClosed."""


@dataclass(frozen=True, slots=True)
class WalkLadder:
    """End every process, from this rung on, and say TreeEmptied or TreeLeft. Asked for again while walking, it changes nothing."""

    rung: str  # interrupt, terminate or kill


@dataclass(frozen=True, slots=True)
class Withdraw:
    """These questions get a no with this cause, and are over."""

    asks: tuple[str, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Write the run down as it stands and tell the switchboard."""

    state: RunState
    reason: str
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    instruction: str


@dataclass(frozen=True, slots=True)
class Failed:
    instruction: str
    reason: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Say IdleTimer at this moment of the boot clock."""

    boot_ms: int


@dataclass(frozen=True, slots=True)
class GiveReceipts:
    orders: tuple[str, ...]
    ended: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SaveWork:
    """Keep the checkout's state, and give these receipts again with it."""

    orders: tuple[str, ...]


Instruction = (
    Spawn
    | Say
    | InterruptTurn
    | CloseSession
    | WalkLadder
    | Withdraw
    | Announce
    | Applied
    | Failed
    | WakeAt
    | GiveReceipts
    | SaveWork
)
