"""Output, in the spool and on its way up."""

import json
from collections.abc import Iterable

from switchboard_rpc.v1 import fleet_pb2, run_pb2

from daemon.domain.outbox import Event
from daemon.translate.text import clean

_EVENT_KINDS = {name.removeprefix("EVENT_KIND_").lower(): number for name, number in run_pb2.EventKind.items()}
_KIND_NAMES = {number: name for name, number in _EVENT_KINDS.items()}


def event(said: Event) -> bytes:
    """Return what the spool keeps of one event."""
    return run_pb2.RunEvent(
        seq=said.seq,
        at_ms=said.at_ms,
        kind=_EVENT_KINDS.get(said.kind, run_pb2.EVENT_KIND_UNKNOWN),
        text=clean(said.text, 1 << 20),
        tool=clean(said.tool),
        block=clean(said.block),
        detail_json=clean(said.detail_json, 1 << 20),
        attempt=said.attempt,
    ).SerializeToString()


def batch(run: str, first: int, count: int, events: Iterable[bytes]) -> fleet_pb2.UploadRequest:
    """Return a batch of spooled events: joined as they are, which is what a serialised RunEvents is."""
    joined = b"".join(b"\x0a" + _varint(len(data)) + data for data in events)
    return fleet_pb2.UploadRequest(batch=run_pb2.OutputBatch(run_id=run, first=first, count=count, events=joined))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def shown(data: bytes) -> dict[str, object]:
    """Return a spooled event as a query's answer has it."""
    said = run_pb2.RunEvent.FromString(data)
    return {
        "seq": said.seq,
        "at_ms": said.at_ms,
        "kind": _KIND_NAMES.get(said.kind, "unknown"),
        "text": said.text,
        "tool": said.tool,
        "block": said.block,
        "detail": json.loads(said.detail_json) if said.detail_json else {},
        "attempt": said.attempt,
    }


def answer(instruction: str, part: bytes, *, last: bool, error: str = "") -> fleet_pb2.UploadRequest:
    return fleet_pb2.UploadRequest(
        answer=fleet_pb2.Answer(instruction_id=instruction, part=part, last=last, error=clean(error))
    )
