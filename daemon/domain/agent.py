"""What an agent says and is told, whatever its protocol: values that drivers make and the supervisor reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class QuestionKind(StrEnum):
    TOOL = "tool"  # may this tool call run?
    CHOICE = "choice"  # answered with input {"answers": {question: answer}}
    PLAN = "plan"  # may it leave plan mode with this plan?
    ELICITATION = "elicitation"  # a form of an MCP server; answered with input that fits its schema
    UNKNOWN = "unknown"  # the whole payload on a generic card; deny always works


@dataclass(frozen=True, slots=True)
class Question:
    kind: QuestionKind
    tool: str  # the agent's own name for it
    input: Mapping[str, Any]  # the whole payload, JSON values only
    call: str = ""  # joins it with the tool call in the output
    title: str = ""
    diff: str = ""  # unified, what an edit would change; "" where the driver cannot say


@dataclass(frozen=True, slots=True)
class Answer:
    """*allow* is never true by default: a lost, expired or failed question is a no whose *message* tells the true cause."""

    allow: bool
    message: str = ""
    input: Mapping[str, Any] | None = None  # replaces the agent's input; None leaves it
    interrupt: bool = False  # end the turn as well


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this agent's protocol can do; shown on the screen, and what is missing is refused rather than pretended."""

    edits_input: bool = False
    denies_with_message: bool = False
    diff_before_decision: bool = False
    live_output: bool = False
    resumes: bool = False
    modes: frozenset[str] = frozenset()  # of diagnose, patch, plan: those that the driver enforces
    not_gated: tuple[str, ...] = ()  # what the agent does without asking, in words

    def abilities(self) -> tuple[str, ...]:
        """Return in words what people can do with this agent."""
        words = {
            "edits input": self.edits_input,
            "denies with a message": self.denies_with_message,
            "shows the diff before the decision": self.diff_before_decision,
            "prints as it works": self.live_output,
            "can be resumed": self.resumes,
        }
        return tuple(word for word, can in words.items() if can)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the agent so that its keeper stands between: the program to execute instead of the agent's own, and
    the environment entries that it needs (the keeper takes them out again before it starts the agent)."""

    program: Path
    env: Mapping[str, str] = field(default_factory=dict)


class OutputKind(StrEnum):
    MESSAGE = "message"
    THINKING = "thinking"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    PROMPT = "prompt"
    NOTICE = "notice"
    GAP = "gap"
    TURN_END = "turn_end"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Output:
    """Something to show. A streamed message comes as several Outputs of one *block*, whose texts are to be joined."""

    kind: OutputKind
    text: str = ""
    tool: str = ""
    block: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is up: what the agent itself said of it."""

    session: str
    version: str = ""
    permission_mode: str = ""
    model: str = ""
    not_gated: tuple[str, ...] = ()  # what it does without asking in this mode, in words


@dataclass(frozen=True, slots=True)
class TurnStarted:
    pass


@dataclass(frozen=True, slots=True)
class TurnEnded:
    ok: bool
    reason: str = ""  # one sentence when not ok
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """The program is gone or has hung up; nothing follows."""

    reason: str = ""  # "" when it went in good order
    code: int | None = None


SessionEvent = Output | Ready | TurnStarted | TurnEnded | Ended
