"""What claude says, as session events: each frame of its output in, what there is to show of it out.

Words come twice, as they are made and again when their block is whole; they are passed on once.
"""

from dataclasses import dataclass, field
from typing import Any

from daemon.agents.claude_modes import not_gated
from daemon.agents.driver import Json
from daemon.domain.agent import Output, OutputKind, Ready, SessionEvent, TurnEnded, TurnStarted

TAIL_LIMIT = 64 << 10  # a line that does not end is passed on all the same
TOOLS_LIMIT = 10_000

# Book-keeping between the program and its screens: nothing that a person would look for.
SILENT = {
    "background_tasks_changed",
    "commands_changed",
    "hook_progress",
    "hook_started",
    "permission_check_status",
    "session_metadata",
    "task_progress",
    "task_updated",
    "thinking_tokens",
    "turn_duration",
    "ui_focus",
    "ui_invalidate",
    "ui_log",
    "ui_panes",
    "ui_placed",
    "ui_scroll",
    "ui_status",
}
SILENT_TYPES = {"keep_alive", "prompt_suggestion", "tool_progress", "transcript_mirror"}


@dataclass(slots=True)
class _Block:
    kind: OutputKind
    id: str
    said: list[str] = field(default_factory=list)  # passed on already
    tail: str = ""
    whole: bool = False  # its final form has been seen


class Translator:
    """Pure: holds the state of one session's stream."""

    def __init__(self) -> None:
        self.in_turn = False
        self.error = ""  # the last that claude itself called an error
        self._ready: Ready | None = None
        self._blocks: dict[
            str, dict[int, _Block]
        ] = {}  # by the tool call of the subagent that speaks, "" for claude itself
        self._message: dict[str, str] = {}
        self._tools: dict[str, str] = {}
        self._interrupted = False

    def take(self, frame: Json) -> list[SessionEvent]:
        try:
            return self._take(frame)
        except (KeyError, TypeError, AttributeError, ValueError):  # a shape that this code does not know: shown whole
            return [_unknown(frame)]

    def ready(self, **changes: str) -> list[SessionEvent]:
        """The session as claude tells it now; again only when something about it changed."""
        before = self._ready or Ready("")
        mode = changes.get("permission_mode") or before.permission_mode
        now = Ready(
            changes.get("session") or before.session,
            changes.get("version") or before.version,
            mode,
            changes.get("model") or before.model,
            not_gated(mode),
        )
        if now == self._ready:
            return []
        self._ready = now
        return [now]

    def _take(self, frame: Json) -> list[SessionEvent]:
        kind = frame["type"]
        if kind in SILENT_TYPES:
            return []
        if kind == "system":
            return self._system(frame)
        parent = frame.get("parent_tool_use_id") or ""
        if kind == "stream_event":
            return [*self._start_turn(parent), *self._stream(frame["event"], parent)]
        if kind == "assistant":
            return [*self._start_turn(parent), *self._assistant(frame, parent)]
        if kind == "user":
            return self._user(frame, parent)
        if kind == "result":
            return self._result(frame)
        if kind == "conversation_reset":
            return [_notice("a fresh conversation was begun", frame), *self.ready(session=frame["new_conversation_id"])]
        if kind == "rate_limit_event":
            info = frame["rate_limit_info"]
            return [] if info["status"] == "allowed" else [_notice(f"rate limit: {info['status']}", frame)]
        if kind == "tool_use_summary":
            return [_notice(str(frame["summary"]), frame)]
        if kind == "too_long":
            return [_notice(f"a message of {frame['bytes']} bytes was too long and is left out", frame)]
        if kind == "not_json":
            return [_notice(str(frame["text"]), frame)]
        return [_unknown(frame)]

    def _start_turn(self, parent: str = "") -> list[SessionEvent]:
        if self.in_turn or parent:
            return []
        self.in_turn = True
        self._interrupted = False
        return [TurnStarted()]

    def _system(self, frame: Json) -> list[SessionEvent]:
        subtype = frame["subtype"]
        if subtype in SILENT:
            return []
        if subtype == "init":
            ready = self.ready(
                session=str(frame["session_id"]),
                version=str(frame.get("claude_code_version") or ""),
                permission_mode=str(frame.get("permissionMode") or ""),
                model=str(frame.get("model") or ""),
            )
            return [*ready, *self._start_turn()]
        if subtype == "status":
            events = self.ready(permission_mode=str(frame.get("permissionMode") or ""))
            status = frame.get("status")
            return [*events, _notice(str(status), frame)] if status not in (None, "requesting") else events
        if subtype == "session_state_changed":
            running = frame["state"] == "running" and self._ready is not None  # the very first comes before the init
            return self._start_turn() if running else []
        sentence = _sentence(subtype, frame)
        return [_notice(sentence, frame)] if sentence else [_unknown(frame)]

    def _stream(self, event: Json, parent: str) -> list[SessionEvent]:
        kind = event["type"]
        if kind == "message_start":
            self._message[parent] = str(event["message"]["id"])
            self._blocks[parent] = {}
        elif kind == "content_block_start":
            made = {"text": OutputKind.MESSAGE, "thinking": OutputKind.THINKING}.get(event["content_block"]["type"])
            if made is not None:
                index = event["index"]
                self._blocks.setdefault(parent, {})[index] = _Block(made, f"{self._message.get(parent, '')}:{index}")
        elif kind == "content_block_delta":
            block = self._blocks.get(parent, {}).get(event["index"])
            delta = event["delta"]
            if block is not None and not block.whole:
                block.tail += delta.get("text") or delta.get("thinking") or ""
                lines, newline, rest = block.tail.rpartition("\n")
                if len(block.tail) > TAIL_LIMIT:
                    return self._say(block, block.tail, "", parent)
                if newline:
                    return self._say(block, lines + newline, rest, parent)
        elif kind == "content_block_stop":
            block = self._blocks.get(parent, {}).get(event["index"])
            if block is not None and block.tail:
                return self._say(block, block.tail, "", parent)
        elif kind == "error":
            return [_notice(str(event.get("error")), event)]
        return []

    def _say(self, block: _Block, text: str, tail: str, parent: str) -> list[SessionEvent]:
        block.tail = tail
        if not block.whole:
            block.said.append(text)
        return [Output(block.kind, text, block=block.id, detail=_by(parent))]

    def _assistant(self, frame: Json, parent: str) -> list[SessionEvent]:
        message = frame["message"]
        out: list[SessionEvent] = []
        for n, part in enumerate(message["content"]):
            kind = part["type"]
            if kind == "text":
                out += self._whole(
                    OutputKind.MESSAGE, part["text"], message.get("id"), f"{frame.get('uuid')}:{n}", parent
                )
            elif kind == "thinking":
                text = part["thinking"]
                out += self._whole(OutputKind.THINKING, text, message.get("id"), f"{frame.get('uuid')}:{n}", parent)
            elif kind == "redacted_thinking":
                out.append(Output(OutputKind.THINKING, "(not shown by the model)\n", detail=_by(parent)))
            elif kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
                if len(self._tools) > TOOLS_LIMIT:
                    self._tools.clear()  # results that never came
                self._tools[part["id"]] = part["name"]
                detail = part["input"] if isinstance(part["input"], dict) else {"input": part["input"]}
                out.append(Output(OutputKind.TOOL_CALL, "", part["name"], part["id"], detail))
            else:
                out.append(_unknown({**part, **_by(parent)}))
        return out

    def _whole(self, kind: OutputKind, text: str, message: Any, fallback: str, parent: str) -> list[SessionEvent]:
        """What of a finished block has not been passed on yet."""
        if message == self._message.get(parent):
            for block in self._blocks.get(parent, {}).values():
                said = "".join(block.said)
                if block.kind == kind and not block.whole and text.startswith(said):
                    block.whole = True
                    rest = text[len(said) :]
                    return self._say(block, rest, "", parent) if rest else []
        return [Output(kind, text, block=fallback, detail=_by(parent))] if text else []

    def _user(self, frame: Json, parent: str) -> list[SessionEvent]:
        content = frame["message"]["content"]
        out: list[SessionEvent] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "tool_result":
                call = part["tool_use_id"]
                detail = {"is_error": bool(part.get("is_error")), "result": frame.get("tool_use_result"), **_by(parent)}
                text = _words(part.get("content"))
                out.append(Output(OutputKind.TOOL_RESULT, text, self._tools.pop(call, ""), call, detail))
            elif part["type"] == "text":
                self._interrupted |= not parent and part["text"].startswith("[Request interrupted")
                out.append(Output(OutputKind.NOTICE, part["text"], detail={"from": "user", **_by(parent)}))
            else:
                out.append(_unknown({**part, **_by(parent)}))
        return out

    def _result(self, frame: Json) -> list[SessionEvent]:
        interrupted = self._interrupted or str(frame.get("terminal_reason", "")).startswith("aborted")
        ok = not frame.get("is_error")
        reason = "" if ok else "the turn was interrupted" if interrupted else _failure(frame)
        self.error = "" if ok or interrupted else reason
        self.in_turn = self._interrupted = False
        self._blocks.clear()
        detail = {
            "duration_ms": frame.get("duration_ms"),
            "num_turns": frame.get("num_turns"),
            "cost_usd": frame.get("total_cost_usd"),
            "usage": frame.get("usage"),
        }
        return [Output(OutputKind.TURN_END, reason, detail=detail), TurnEnded(ok, reason, interrupted and not ok)]


def _failure(frame: Json) -> str:
    errors = frame.get("errors")
    texts = [str(error) for error in errors] if isinstance(errors, list) else []
    text = " ".join("; ".join(texts or [str(frame.get("result") or "")]).split())[:500]
    if "/login" in text:
        return f"claude is not signed in on this machine: {text}"
    return text or f"claude ended the turn with {str(frame.get('subtype')).replace('_', ' ')}"


def _sentence(subtype: str, frame: Json) -> str:
    """What a person would want to know of a system message; "" for one that is not known."""
    for known in ("content", "message", "text", "summary"):  # claude's own words, where it has some
        if isinstance(frame.get(known), str) and frame[known]:
            return str(frame[known])
    match subtype:
        case "api_retry" | "api_error":
            return f"the model could not be reached: {frame.get('error') or frame.get('error_status') or subtype}"
        case "compact_boundary":
            return "the conversation was compacted"
        case "task_started":
            return f"started in the background: {frame.get('description') or frame.get('task_id')}"
        case "task_notification":
            return f"background task {frame.get('status')}"
        case "hook_response":
            return f"hook {frame.get('hook_name') or frame.get('hook_event')}: {frame.get('outcome') or 'ran'}"
        case "permission_denied":
            return f"{frame.get('tool_name')} was refused: {frame.get('decision_reason')}"
        case "elicitation_complete":
            return f"{frame.get('mcp_server_name')}: the form was completed"
    return ""


def _words(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or f"({part.get('type')})") for part in content)
    return content if isinstance(content, str) else ""


def _by(parent: str) -> Json:
    return {"parent": parent} if parent else {}


def _notice(text: str, frame: Json) -> Output:
    return Output(OutputKind.NOTICE, text, detail=frame)


def _unknown(frame: Json) -> Output:
    return Output(OutputKind.UNKNOWN, detail=frame)
