"""What people and daemons may write: checked once where it comes in, with one sentence that names the field."""

import re

from switchboard.domain.errors import Invalid

LONGEST_PROMPT = 1 << 20
LONGEST_REASON = 2_000
LONGEST_NOTE = 20_000
LONGEST_PATH = 4_096

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")


def words(field: str, text: str, longest: int = LONGEST_REASON, *, need: str = "") -> str:
    """Return *text*. Raises Invalid when it is too long, is no Unicode, or is blank although *need* says why it is needed."""
    if need and not text.strip():
        raise Invalid(field, need)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise Invalid(
            field, f"{field} holds half a character (a lone surrogate) at {error.start}: send UTF-8"
        ) from error
    if size > longest:
        raise Invalid(field, f"{field} is {size:,} bytes long; at most {longest:,} are taken")
    return text


def ident(field: str, id: str) -> str:
    """Return *id*. Raises Invalid when it could not be one of ours."""
    if not _ID.fullmatch(id):
        raise Invalid(field, f"{field} is not an id: letters, digits and . _ : - only, at most 100")
    return id
