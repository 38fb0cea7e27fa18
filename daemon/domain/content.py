"""What of a run's content may leave its machine: full, redacted or metadata, as its repo says.

*full* is everything (secrets are masked before this), *redacted* the agent's words, tool names, paths, commands and exit
codes, *metadata* kinds, tool names, sizes and times. What stays behind leaves its size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from daemon.domain.agent import Output, OutputKind


class Content(StrEnum):
    FULL = "full"
    REDACTED = "redacted"
    METADATA = "metadata"


_WORDS = {OutputKind.MESSAGE, OutputKind.THINKING, OutputKind.PROMPT, OutputKind.NOTICE}
_COUNTS = {OutputKind.GAP, OutputKind.TURN_END}  # numbers only
# Fields of a tool's input and result that say what was done and how it went, not what was in it.
_NAMED = {"command", "cmd", "argv", "file_path", "filepath", "notebook_path", "path", "paths", "cwd", "workdir"}
_OUTCOME = {"exit_code", "exitcode", "code", "status", "is_error", "interrupted", "timed_out", "signal", "duration_ms"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A question as it may leave the machine; *masked* when part of its input stays."""

    title: str
    why: str
    diff: str
    input: Mapping[str, Any]
    masked: bool


def limit(output: Output, content: str) -> Output:
    """Return *output* as it may leave the machine."""
    rule = rule_of(content)
    if rule is Content.FULL or (rule is Content.REDACTED and output.kind in _COUNTS):
        return output
    if rule is Content.METADATA:
        text = output.text if output.kind is OutputKind.GAP else _size(output.text)
        return replace(output, text=text, detail=_numbers(output.detail))
    text = output.text if output.kind in _WORDS else _size(output.text)
    return replace(output, text=text, detail=_only(output.detail, _NAMED | _OUTCOME))


def limit_input(input: Mapping[str, Any], content: str) -> tuple[Mapping[str, Any], bool]:
    """Return a tool's input as it may leave the machine, and whether anything of it stays."""
    rule = rule_of(content)
    if rule is Content.FULL:
        return input, False
    shown = _only(input, _NAMED if rule is Content.REDACTED else set())
    return shown, shown != input


def limit_question(title: str, why: str, diff: str, input: Mapping[str, Any], content: str) -> Shown:
    """Return a whole question as it may leave the machine."""
    shown, masked = limit_input(input, content)
    if rule_of(content) is Content.FULL:
        return Shown(title, why, diff, shown, masked)
    return Shown(limit_words(title, content), limit_words(why, content), _size(diff), shown, masked or bool(diff))


def limit_words(text: str, content: str) -> str:
    """Return what a person or the agent said as it may leave the machine."""
    return _size(text) if rule_of(content) is Content.METADATA else text


def limit_names(names: Sequence[str], content: str) -> tuple[str, ...]:
    """Return what of the names of files may leave the machine; under *metadata* only their number is anybody's business."""
    return () if rule_of(content) is Content.METADATA else tuple(names)


def rule_of(content: str) -> Content:
    """Return the rule by that name; a name that nobody knows lets the least out."""
    return Content(content) if content in set(Content) else Content.METADATA


def _size(value: Any) -> str:
    """Return what stands in for *value*; nothing for nothing."""
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"«{len(text.encode(errors='surrogatepass')):,} bytes stay on the machine»"


def _only(value: Mapping[str, Any], keep: set[str]) -> dict[str, Any]:
    """Return *value* with the named fields and the sizes of the others."""
    return {key: part if key.lower() in keep and _flat(part) else _size(part) for key, part in value.items()}


def _flat(part: Any) -> bool:
    if isinstance(part, list | tuple):
        return all(isinstance(item, str | int | float | bool) for item in part)
    return not isinstance(part, Mapping)


def _numbers(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of *detail* is a number or a yes or no, nested ones too."""
    out: dict[str, Any] = {}
    for key, part in detail.items():
        if isinstance(part, bool | int | float):
            out[key] = part
        elif isinstance(part, Mapping) and (inner := _numbers(part)):
            out[key] = inner
    return out
