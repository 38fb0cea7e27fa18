"""What every coding agent looks like from the daemon: the one interface that Claude Code, Codex and ACP agents share.

A driver reports protocol facts and never decides: each question goes to *ask*, and nothing but its answer lets an action run.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from daemon.domain.agent import Answer, Capabilities, Question, SessionEvent
from daemon.domain.agent import Launch as Launch


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at this machine says of one agent program. *problem* is empty when it can be used, else one sentence."""

    name: str
    version: str = ""
    path: Path | None = None
    signed_in: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """One start or resume of a session."""

    run: str
    cwd: Path
    prompt: str  # empty on a resume without a message
    mode: str  # "" is the agent's own; diagnose, patch and plan only where capabilities.modes has them
    launch: Launch
    resume: str = ""  # the session id to take up again


Ask = Callable[[Question], Awaitable[Answer]]
"""Called once per question. It is cancelled when the agent withdraws the question, and may wait for hours."""


class Session(Protocol):
    """A live agent. After `end()` or the program's death, `events()` finishes with an Ended."""

    def events(self) -> AsyncIterator[SessionEvent]:
        """Everything that happens, in order; never raises for what the agent does."""

    async def send(self, text: str) -> None:
        """Say *text* to the agent; queued by the agent when a turn is running. Raises AgentGone."""

    async def interrupt(self) -> None:
        """End the current turn by the agent's own protocol; open questions are withdrawn. Raises AgentGone."""

    async def end(self) -> None:
        """Close the session in good order and return when the driver is done with it; never waits for the program's pipes
        once its tree is dead (an escapee may hold them open)."""


class Driver(Protocol):
    name: str
    capabilities: Capabilities

    async def find(self) -> Found:
        """Look for the program: path, version, signed in or not."""

    async def start(self, spec: Spec, ask: Ask) -> Session:
        """Start or resume a session. Raises AgentUnusable with one clear sentence when it is missing, too old, not signed in
        or dies at start."""


class AgentUnusable(Exception):
    """The agent could not be started; the text is one sentence for the person who started the run."""


class AgentGone(Exception):
    """The agent's process is no longer there."""


Json = dict[str, Any]
