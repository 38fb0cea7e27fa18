"""Whose fault it is. One table at each edge maps these to gRPC and to HTTP.

SwitchboardError
├── Invalid        the caller's mistake: names the field and what would do
├── Forbidden      known, but not allowed (Unauthenticated: not known)
├── NotFound       no such thing, or none that the caller may see
├── Conflict       not in the present state: names the state found (IllegalTransition: the story)
└── Unavailable    the other side is away, or the store is; trying again may help
"""

from collections.abc import Mapping
from typing import Any


class SwitchboardError(Exception):
    """Its text is one sentence for a person: what was wrong, where, what to do."""

    def __init__(self, text: str, **details: Any) -> None:
        super().__init__(text)
        self.details: Mapping[str, Any] = details


class Invalid(SwitchboardError):
    def __init__(self, field: str, text: str) -> None:
        super().__init__(text, field=field)
        self.field = field


class Forbidden(SwitchboardError):
    pass


class Unauthenticated(Forbidden):
    pass


class NotFound(SwitchboardError):
    pass


class Conflict(SwitchboardError):
    pass


class IllegalTransition(Conflict):
    """A move that the table does not have; nothing was changed."""

    def __init__(self, noun: str, id: str, state: str, event: str) -> None:
        super().__init__(
            f"{noun} {id} is {state}, so it cannot take {event}", noun=noun, id=id, state=state, event=event
        )


class Unavailable(SwitchboardError):
    pass
