"""Strings as the wire can hold them."""

SHORT, LONG = 4_096, 16_384  # characters of a sentence or a name; of a prompt


def clean(text: str, limit: int = SHORT) -> str:
    """Return *text* as the wire can hold it: no lone surrogates, at most *limit* characters."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text):,} characters in all)"
    return text.encode("utf-8", "replace").decode()
