"""What binds a decision to what was asked: the same canonical JSON as on the machine, to the byte."""

import hashlib
import json
from typing import Any

from switchboard.domain.errors import Invalid


def canonical(value: Any) -> str:
    """Return *value* as JSON with sorted keys and no spaces. Raises Invalid for what JSON or UTF-8 cannot hold."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid("input", f"the edited input cannot be written as JSON: {error}") from error
    # A lone surrogate, which UTF-8 cannot hold, stays the escape that it came as.
    return text.encode("utf-8", "backslashreplace").decode()


def digest(*, run: str, attempt: int, kind: str, tool: str, input: Any, cwd: str) -> str:
    """Return "sha256:" + hex over the six."""
    asked = {"run": run, "attempt": attempt, "kind": kind, "tool": tool, "input": input, "cwd": cwd}
    return "sha256:" + hashlib.sha256(canonical(asked).encode()).hexdigest()
