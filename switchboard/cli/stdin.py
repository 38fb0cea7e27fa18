"""What comes on stdin: at most one line with a password, then a prompt or an input.

All of it is read from the one binary buffer: what a text layer had read ahead would be lost to whoever reads next.
"""

import codecs
import sys
from typing import BinaryIO

from switchboard.cli.errors import Failed


def line(what: str) -> str:
    """Return the next line without its end. Raises Failed when it is not UTF-8."""
    return _text(_stdin(what).readline(), what, whole=True).rstrip("\r\n")


def rest(what: str, limit: int = -1) -> str:
    """Return all that is left, or about its first *limit* bytes. Raises Failed when it is not UTF-8."""
    raw = _stdin(what).read(limit)
    return _text(raw, what, whole=len(raw) != limit)


def _stdin(what: str) -> BinaryIO:
    if sys.stdin is None:  # closed by whoever started this
        raise Failed(f"{what} was to come on stdin, which is closed")
    return sys.stdin.buffer


def _text(raw: bytes, what: str, *, whole: bool) -> str:
    try:  # a limit may fall into the middle of a character
        return codecs.getincrementaldecoder("utf-8")().decode(raw, final=whole)
    except UnicodeDecodeError as error:
        raise Failed(f"{what} on stdin is not valid UTF-8 at byte {error.start}") from None
