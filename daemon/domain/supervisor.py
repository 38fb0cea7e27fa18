"""One attempt of a run from its start to its last process: events in, instructions out.

It knows no loop, no socket and no file. A run ends only on TreeEmptied, which the shell says once it has looked for itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from daemon.domain.errors import IllegalTransition
from daemon.domain.run import ENDED, RunEvent, RunState, after
from daemon.domain.steps import (
    AgentEnded,
    Announce,
    Applied,
    Asked,
    CloseSession,
    DrainOrdered,
    EndOrdered,
    Event,
    Failed,
    GiveReceipts,
    HaltOrdered,
    IdleTimer,
    Instruction,
    InterruptOrdered,
    InterruptTurn,
    KeeperLost,
    KeeperUp,
    MessageOrdered,
    SaveWork,
    Say,
    SessionClosed,
    SessionReady,
    Settled,
    Spawn,
    StartFailed,
    StartOrdered,
    StopMatched,
    TreeEmptied,
    TreeLeft,
    TurnBegan,
    TurnOver,
    WakeAt,
    WalkLadder,
    Withdraw,
)

BUSY = frozenset({RunState.STARTING, RunState.RUNNING, RunState.WAITING})


@dataclass(slots=True)
class Supervised:
    run: str
    idle_after_ms: int
    state: RunState = RunState.STARTING
    prompted: bool = False  # it is started with something to do: its first rest is the end of a turn
    reason: str = ""
    asks: dict[str, None] = field(default_factory=dict)  # open ones, oldest first
    orders: dict[str, None] = field(default_factory=dict)  # whose receipts are owed
    story: list[str] = field(default_factory=list)  # the names of the last events
    _end: tuple[RunEvent, str] | None = None  # what the end will be called once the tree is empty
    _drain: str = ""
    _ready: bool = False
    _waiting: list[MessageOrdered] = field(default_factory=list)  # for the session to be up
    _turn_failed: str = ""
    _sentence: str = ""  # why it was stopped
    _idle_since: int = 0

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def ending(self) -> bool:
        return self._end is not None or self.state is RunState.STOPPING

    def take(self, event: Event, at: int) -> list[Instruction]:
        """Return what is to be done about *event* at *at* (ms of the boot clock). Late and repeated events do no harm."""
        self.story = [*self.story[-19:], type(event).__name__]
        if isinstance(event, MessageOrdered | InterruptOrdered | EndOrdered) and (self.over or self.ending):
            return [Failed(event.instruction, f"run {self.run} is {'ending' if not self.over else self.state}")]
        if isinstance(event, Asked) and (self.over or self.ending):
            return [Withdraw((event.ask,), self._cause())]
        if self.over:
            return []
        handle: Callable[..., list[Instruction]] = _HANDLERS[type(event)]
        return handle(self, event, at)

    # Each of these answers one event of a run that is not over.

    def _start(self, event: StartOrdered, at: int) -> list[Instruction]:
        return [self._announce(), Spawn()] if not self.ending else []

    def _start_failed(self, event: StartFailed, at: int) -> list[Instruction]:
        return self._finish(RunEvent.FAILED, event.reason, "terminate")

    def _keeper_up(self, event: KeeperUp, at: int) -> list[Instruction]:
        if self.ending or self.state is not RunState.STARTING:
            return [self._announce()]  # the agent was faster; how well it is held is news all the same
        return self._move(RunEvent.STARTED, changed=True)

    def _keeper_lost(self, event: KeeperLost, at: int) -> list[Instruction]:
        return self._finish(RunEvent.FAILED, event.cause, "kill")

    def _session_ready(self, event: SessionReady, at: int) -> list[Instruction]:
        if self.ending:
            return []
        self._ready = True
        said: list[Instruction] = [Say(m.instruction, m.text) for m in self._waiting]
        self._waiting.clear()
        if self.state is RunState.STARTING and (self.prompted or said):
            return said  # a turn is about to begin: this is no idle moment
        return [*self._move(RunEvent.READY), *said, *self._rest(at)]

    def _turn_began(self, event: TurnBegan, at: int) -> list[Instruction]:
        if self.ending:
            return []
        self._turn_failed = ""
        return self._move(RunEvent.TURN_STARTED, " ")

    def _turn_over(self, event: TurnOver, at: int) -> list[Instruction]:
        if self.ending:
            return []
        self._turn_failed = "" if event.ok or event.interrupted else event.reason or "the turn failed"
        left = self._withdraw("the agent ended its turn")
        reason = "the turn was interrupted" if event.interrupted else self._turn_failed
        return [*left, *self._move(RunEvent.TURN_ENDED, reason or " "), *self._rest(at)]

    def _asked(self, event: Asked, at: int) -> list[Instruction]:
        self.asks[event.ask] = None
        return self._move(RunEvent.ASKED, changed=True)

    def _settled(self, event: Settled, at: int) -> list[Instruction]:
        if event.ask not in self.asks:
            return []
        del self.asks[event.ask]
        if self.ending:
            return []
        if self.asks:
            return [self._announce()]  # it waits for the next one
        return [*self._move(RunEvent.SETTLED, changed=True), *self._rest(at)]

    def _message(self, event: MessageOrdered, at: int) -> list[Instruction]:
        if self._drain:
            return [Failed(event.instruction, f"run {self.run} takes no message now: {self._drain}")]
        if not self._ready:
            self._waiting.append(event)
            return []
        return [Say(event.instruction, event.text)]

    def _interrupt(self, event: InterruptOrdered, at: int) -> list[Instruction]:
        if self.state not in BUSY:
            return [Failed(event.instruction, f"run {self.run} is {self.state}: there is no turn to interrupt")]
        return [InterruptTurn(event.instruction)]

    def _end_ordered(self, event: EndOrdered, at: int) -> list[Instruction]:
        if self.state is not RunState.IDLE:
            return [
                Failed(event.instruction, f"run {self.run} is {self.state}, not idle: interrupt it first, or stop it")
            ]
        return [Applied(event.instruction), *self._close()]

    def _idle_timer(self, event: IdleTimer, at: int) -> list[Instruction]:
        if self.ending or self.state is not RunState.IDLE:
            return []
        if at < self._idle_since + self.idle_after_ms:
            return [WakeAt(self._idle_since + self.idle_after_ms)]
        return self._close()

    def _stop(self, event: StopMatched, at: int) -> list[Instruction]:
        self.orders[event.order] = None
        if self.state is RunState.STOPPING:
            return [WalkLadder("interrupt")]
        self._sentence = event.sentence
        moved = self._move(RunEvent.STOP_ORDERED, event.sentence)
        return [*moved, *self._withdraw(event.sentence), *self._unsaid(), WalkLadder("interrupt")]

    def _drain_ordered(self, event: DrainOrdered, at: int) -> list[Instruction]:
        self._drain = event.reason
        return self._rest(at)

    def _halt(self, event: HaltOrdered, at: int) -> list[Instruction]:
        if self._drain and self._end == (RunEvent.DAEMON_LOST, self._drain):
            self._end = None  # it was coming to rest already: the later word is the true one
        return self._finish(RunEvent.DAEMON_LOST, event.reason, "interrupt")

    def _session_closed(self, event: SessionClosed, at: int) -> list[Instruction]:
        return [WalkLadder("terminate")]

    def _agent_ended(self, event: AgentEnded, at: int) -> list[Instruction]:
        reason = event.reason or self._turn_failed
        return self._finish(RunEvent.FAILED if reason else RunEvent.ENDED_WELL, reason or " ", "terminate")

    def _tree_emptied(self, event: TreeEmptied, at: int) -> list[Instruction]:
        left = self._withdraw(self._cause())
        if self.state is RunState.STOPPING:
            # The receipts first: a crash between the two is met again as a run that is not over, and proven once more.
            receipts = GiveReceipts(tuple(self.orders), ended=True)
            moved = self._move(RunEvent.TREE_EMPTY, self._sentence)
            return [*left, receipts, *moved, SaveWork(receipts.orders)]
        how, reason = self._end or (RunEvent.FAILED, "all of its processes are gone, and it said nothing")
        return [*left, *self._unsaid(), *self._move(how, reason)]

    def _tree_left(self, event: TreeLeft, at: int) -> list[Instruction]:
        self.reason = f"still alive after the last rung: {event.left}"
        receipts = [GiveReceipts(tuple(self.orders), ended=False, reason=self.reason)] if self.orders else []
        return [self._announce(), *receipts]

    # Parts.

    def _finish(self, how: RunEvent, reason: str, rung: str) -> list[Instruction]:
        """The end has begun: the first cause names it, and every later one only sees to it that the ladder is walked."""
        if self.state is not RunState.STOPPING and self._end is None:
            self._end = (how, reason)
        return [*self._withdraw(self._cause()), *self._unsaid(), WalkLadder(rung)]

    def _close(self) -> list[Instruction]:
        failed = self._turn_failed
        self._end = (RunEvent.FAILED, failed) if failed else (RunEvent.ENDED_WELL, " ")
        return [CloseSession()]

    def _rest(self, at: int) -> list[Instruction]:
        """What an idle moment is for: draining, or waiting for the timer."""
        if self.ending or self.state is not RunState.IDLE:
            return []
        if self._drain:
            self._end = (RunEvent.DAEMON_LOST, self._drain)
            return [*self._unsaid(), CloseSession()]
        self._idle_since = at
        return [WakeAt(at + self.idle_after_ms)]

    def _withdraw(self, cause: str) -> list[Instruction]:
        asks, self.asks = tuple(self.asks), {}
        return [Withdraw(asks, cause)] if asks else []

    def _unsaid(self) -> list[Instruction]:
        """Messages that waited for a session which will not be."""
        unsaid, self._waiting = self._waiting, []
        return [Failed(m.instruction, f"run {self.run} ended before it could take a message") for m in unsaid]

    def _cause(self) -> str:
        if self.state is RunState.STOPPING:
            return self._sentence
        return (self._end[1].strip() if self._end else self.reason) or "the run is over"

    def _move(self, event: RunEvent, reason: str = "", *, changed: bool = False) -> list[Instruction]:
        """Make the move of the table; *reason* of one blank clears the last one. Announced when something changed."""
        try:
            to = after(self.run, self.state, event)
        except IllegalTransition as error:
            error.add_note(f"its last events: {', '.join(self.story)}")
            raise
        was = (self.state, self.reason)
        self.state, self.reason = to, (reason or self.reason).strip()
        return [self._announce()] if changed or was != (self.state, self.reason) else []

    def _announce(self) -> Announce:
        return Announce(self.state, self.reason, next(iter(self.asks), ""))


_HANDLERS: dict[type, Callable[..., list[Instruction]]] = {
    StartOrdered: Supervised._start,
    StartFailed: Supervised._start_failed,
    KeeperUp: Supervised._keeper_up,
    KeeperLost: Supervised._keeper_lost,
    SessionReady: Supervised._session_ready,
    TurnBegan: Supervised._turn_began,
    TurnOver: Supervised._turn_over,
    Asked: Supervised._asked,
    Settled: Supervised._settled,
    MessageOrdered: Supervised._message,
    InterruptOrdered: Supervised._interrupt,
    EndOrdered: Supervised._end_ordered,
    IdleTimer: Supervised._idle_timer,
    StopMatched: Supervised._stop,
    DrainOrdered: Supervised._drain_ordered,
    HaltOrdered: Supervised._halt,
    SessionClosed: Supervised._session_closed,
    AgentEnded: Supervised._agent_ended,
    TreeEmptied: Supervised._tree_emptied,
    TreeLeft: Supervised._tree_left,
}
