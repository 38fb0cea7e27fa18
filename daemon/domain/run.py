"""The life of one agent run. Every move it can make is in MOVES; there are no others.

A run is over only when its tree is empty: whoever reports ENDED_WELL, FAILED or DAEMON_LOST has seen that first.
"""

from enum import StrEnum

from daemon.domain.errors import IllegalTransition


class RunState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # a question of the agent is open
    IDLE = "idle"  # the turn is over; the session is alive and takes a message
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # every process was seen gone by the daemon itself
    INTERRUPTED = "interrupted"  # the daemon died or drained under it
    REFUSED = "refused"  # never started: a hold, a mode that cannot be enforced, a path that is no repository


class RunEvent(StrEnum):
    STARTED = "started"  # the program runs under its keeper
    READY = "ready"  # the session is up; some agents say so again at each turn
    TURN_STARTED = "turn started"
    ASKED = "asked"
    SETTLED = "settled"  # no question is open any more
    TURN_ENDED = "turn ended"
    STOP_ORDERED = "stop ordered"
    ENDED_WELL = "ended well"
    FAILED = "failed"
    TREE_EMPTY = "tree empty"
    DAEMON_LOST = "daemon lost"
    REFUSED = "refused"
    RESUMED = "resumed"


_S, _E = RunState, RunEvent

# What can happen to every run whose processes live and that nobody has stopped.
_ENDS = {
    _E.STOP_ORDERED: _S.STOPPING,
    _E.ENDED_WELL: _S.SUCCEEDED,
    _E.FAILED: _S.FAILED,
    _E.TREE_EMPTY: _S.FAILED,  # gone without a word
    _E.DAEMON_LOST: _S.INTERRUPTED,
}
_AGAIN = {_E.RESUMED: _S.STARTING}

MOVES: dict[RunState, dict[RunEvent, RunState]] = {
    _S.STARTING: {
        _E.STARTED: _S.STARTING,
        _E.READY: _S.IDLE,  # of a session that was taken up without a word; one with a prompt waits for its turn
        _E.TURN_STARTED: _S.RUNNING,
        _E.ASKED: _S.WAITING,
        _E.SETTLED: _S.STARTING,
        _E.TURN_ENDED: _S.IDLE,
        _E.REFUSED: _S.REFUSED,
        **_ENDS,
    },
    _S.RUNNING: {
        _E.READY: _S.RUNNING,
        _E.TURN_STARTED: _S.RUNNING,
        _E.ASKED: _S.WAITING,
        _E.SETTLED: _S.RUNNING,
        _E.TURN_ENDED: _S.IDLE,
        **_ENDS,
    },
    _S.WAITING: {
        _E.READY: _S.WAITING,
        _E.TURN_STARTED: _S.WAITING,
        _E.ASKED: _S.WAITING,  # several questions may be open
        _E.SETTLED: _S.RUNNING,
        _E.TURN_ENDED: _S.IDLE,  # its questions were withdrawn with it
        **_ENDS,
    },
    _S.IDLE: {
        _E.READY: _S.IDLE,
        _E.TURN_STARTED: _S.RUNNING,
        _E.ASKED: _S.WAITING,  # an agent may ask between turns
        _E.SETTLED: _S.IDLE,
        _E.TURN_ENDED: _S.IDLE,
        **_ENDS,
    },
    # However the agent goes on or exits once a stop is ordered, only an empty tree ends the run, and as stopped.
    _S.STOPPING: {
        **{event: _S.STOPPING for event in RunEvent if event not in (_E.REFUSED, _E.RESUMED)},
        _E.TREE_EMPTY: _S.STOPPED,
    },
    _S.SUCCEEDED: _AGAIN,
    _S.FAILED: _AGAIN,
    _S.STOPPED: _AGAIN,
    _S.INTERRUPTED: _AGAIN,
    _S.REFUSED: {},
}

LIVE = frozenset({_S.STARTING, _S.RUNNING, _S.WAITING, _S.IDLE, _S.STOPPING})
ENDED = frozenset(RunState) - LIVE


def after(id: str, state: RunState, event: RunEvent) -> RunState:
    """Return the state that *event* leads to. Raises IllegalTransition."""
    to = MOVES[state].get(event)
    if to is None:
        raise IllegalTransition("run", id, state, event)
    return to
