"""What strangers wrote, made safe for a terminal: nothing that moves the cursor, hides or turns text around gets through."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# Letters, marks and symbols that print as nothing, so that two different commands would look alike.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(c) for c in range(0xE0100, 0xE01F0)}


def _visible(char: str) -> str:
    if char.isprintable() and char not in _INVISIBLE:  # of all spaces, only " " counts as printable
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain(value: object) -> str:
    """Return *value* as one line in which every control, invisible and direction-changing character is a visible escape."""
    text = "" if value is None else str(value)
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def block(value: object, indent: str = "") -> str:
    """Return *value* like `plain`, with its line ends kept, tabs widened and each line behind *indent*."""
    text = ("" if value is None else str(value)).replace("\r\n", "\n").expandtabs(4)
    return "\n".join(indent + plain(line) for line in text.split("\n"))


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """Return *value* as JSON in ASCII: exact, and safe on a terminal."""
    return json.dumps(value, indent=indent, ensure_ascii=True)


def deeper(value: Any, levels: int) -> bool:
    """Tell whether lists and objects stand in *value*, which is one, more than *levels* deep, with it."""
    layer: list[Any] = [value]
    for _ in range(levels):
        inner = [item for outer in layer for item in (outer.values() if isinstance(outer, dict) else outer)]
        layer = [item for item in inner if isinstance(item, list | dict)]
    return bool(layer)


def age(seconds: object) -> str:
    """Return a length of time in one or two units: 42 s, 3 min, 2 h 5 min, 4 d 1 h."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return ""
    s = max(0, int(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"


def moment(at: object) -> str:
    """Return an instant, from ISO 8601 text or milliseconds since 1970, to the second and in UTC."""
    try:
        if isinstance(at, int | float) and not isinstance(at, bool):
            when = datetime.fromtimestamp(at / 1000, UTC)
        else:
            when = datetime.fromisoformat(str(at)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return plain(at)
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def size(count: object) -> str:
    """Return a number of bytes in the unit that a person would say."""
    amount = float(count) if isinstance(count, int | float) else 0.0
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def payload(value: Any, indent: str) -> str:
    """Return the whole of an agent's input, never cut: text as lines, everything else as JSON."""
    if not isinstance(value, Mapping):
        return block(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False), indent)
    parts = []
    for key, item in value.items():
        text = item if isinstance(item, str) else json.dumps(item, indent=2, ensure_ascii=False)
        if "\n" in text:
            parts.append(f"{indent}{plain(key)}:\n{block(text, indent + '  ')}")
        else:
            parts.append(f"{indent}{plain(key)}: {plain(text)}")
    return "\n".join(parts) if parts else f"{indent}(nothing)"
