"""What machines answer, held to a shape: whatever one says beyond it is left out, and what does not fit is no answer."""

import math
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from switchboard.domain.errors import Unavailable


class FileDiff(BaseModel):
    path: str
    old_path: str = ""
    status: str = ""
    additions: int = 0
    deletions: int = 0
    patch: str = ""
    binary: bool = False
    truncated: bool = False
    note: str = ""


class Diff(BaseModel):
    files: list[FileDiff]
    count: int = 0  # of all files that differ, in `files` or not


class OlderEvent(BaseModel):
    seq: int
    at_ms: int = 0
    kind: str = "unknown"
    text: str = ""
    tool: str = ""
    block: str = ""
    detail: dict[str, Any] = {}
    attempt: int = 1


class OlderOutput(BaseModel):
    events: list[OlderEvent]


A = TypeVar("A", bound=BaseModel)

DEEPEST = 64
LARGEST = 2**53  # beyond it a browser's numbers are not exact


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """Return a stranger's JSON as any reader takes it: no half characters, no numbers beyond JSON's, not nested without end."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case bool() | None:
            return value
        case int():
            return value if abs(value) <= LARGEST else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case dict() if depth:
            return {plain(str(key)): plain(item, depth - 1) for key, item in value.items()}
        case list() | tuple() if depth:
            return [plain(item, depth - 1) for item in value]
    return "…nested too deeply"


def read(shape: type[A], answer: Any) -> A:
    """Return the answer in its shape. Raises Unavailable when it has another one."""
    try:
        return shape.model_validate(answer)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])[:100]
        raise Unavailable(
            f"the machine gave an answer that cannot be read, at {where!r}: is its daemon up to date?"
        ) from error
