"""What a run prints, decoded: values for people to read. Every string is a stranger's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    seq: int
    at_ms: int
    kind: str
    text: str = ""
    tool: str = ""
    block: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Appended:
    """What the store made of a batch: *next* is the only thing that moves a watermark."""

    next: int
    taken: bool  # False: a repeat, a gap or an overlap; send again from next
