"""Who did what, when, why: an append-only chain in which every entry carries the hash of the one before."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    seq: int
    at: datetime
    by: str
    via: str
    action: str  # noun.verb: approval.voted, order.issued, machine.revoked, run.read
    subject: str
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    previous: str = ""
    hash: str = ""

    def sealed(self) -> str:
        """Return the hash of this entry: sha256 over its canonical JSON without `hash`."""
        body = [
            self.seq,
            self.at.isoformat(),
            self.by,
            self.via,
            self.action,
            self.subject,
            self.reason,
            dict(self.details),
            self.previous,
        ]
        return hashlib.sha256(
            json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        ).hexdigest()
