"""Values as JSON bytes and back. Another version may have written them: the unknown is kept, the missing takes its default."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from switchboard.domain.errors import Invalid

T = TypeVar("T")


class Unreadable(ValueError):
    """A stored value that this version cannot read: says which field and why."""


class Codec(Generic[T]):
    def __init__(self, kind: type[T]) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._names = frozenset(f.name for f in fields(kind))  # type: ignore[arg-type]

    def dump(self, value: T, extra: Mapping[str, Any] | None = None) -> bytes:
        """Return *value* as JSON, with *extra* fields that this version does not know. Raises Invalid for text that is no Unicode."""
        try:
            known = self._adapter.dump_json(value)
        except ValueError as error:
            raise Invalid(
                "value", f"this cannot be stored, because some of its text is not Unicode: {error}"
            ) from error
        return orjson.dumps({**extra, **orjson.loads(known)}) if extra else known

    def load(self, blob: bytes | str) -> tuple[T, dict[str, Any]]:
        """Return the value and the fields that this version does not know. Raises Unreadable."""
        try:
            raw = orjson.loads(blob)
            value = self._adapter.validate_python(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole of it"
            raise Unreadable(f"{where}: {first['msg']}") from error
        except ValueError as error:
            raise Unreadable(f"it is not JSON: {error}") from error
        extra = {name: raw[name] for name in raw.keys() - self._names} if isinstance(raw, dict) else {}
        return value, extra
