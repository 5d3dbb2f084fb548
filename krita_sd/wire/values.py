# SPDX-License-Identifier: GPL-3.0-or-later
"""Strict JSON reading: bounded depth, no duplicate keys, no NaN, and typed, range-checked fields.

Every value that comes from a peer, a file or imported metadata passes through `Fields`; a wrong one becomes one
`bad_request` that names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from .errors import bad_request
from .limits import MAX_JSON_DEPTH


class _Unset:
    """The type of `UNSET`. Falsy on purpose is not offered: 0 and "" are real values, absence is asked by `is`."""

    _instance: _Unset | None = None

    def __new__(cls) -> _Unset:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        raise TypeError("UNSET has no truth value; compare with `is UNSET`")

    def __reduce__(self) -> str:
        return "UNSET"


UNSET = _Unset()
"""Not given: the model's default applies. Absent in JSON."""

Unset = _Unset
T = TypeVar("T")


def or_default(value: T | _Unset, default: T) -> T:
    """`value` unless it is UNSET."""
    return default if isinstance(value, _Unset) else value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("duplicate key")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth(text: str) -> int:
    # Counted before parsing: the parser itself recurses, and a deep document would raise RecursionError in it.
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_JSON_DEPTH:
                return deepest
        elif char in "]}":
            depth -= 1
    return deepest


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object, or raise `bad_request` naming `what`. The caller has bounded the length already."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        # Only a document with many brackets can be deep; the plain count spares the walk for ordinary messages.
        brackets = decoded.count("[") + decoded.count("{")
        if brackets > MAX_JSON_DEPTH and _depth(decoded) > MAX_JSON_DEPTH:
            raise ValueError("nested too deeply")
        value = json.loads(decoded, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise bad_request(f"The {what} could not be read as JSON ({error}).") from None
    if not isinstance(value, dict):
        raise bad_request(f"The {what} must be a JSON object.")
    return value


def dump(value: dict[str, Any]) -> str:
    """Compact JSON text; refuses NaN and infinity."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_MISSING = object()


class Fields:
    """Typed access to a JSON object. Unknown keys are ignored; a wrong type or range raises `bad_request`."""

    def __init__(self, data: dict[str, Any], what: str) -> None:
        self.data = data
        self.what = what

    def _fail(self, key: str, expected: str) -> Any:
        raise bad_request(f"In the {self.what}, {key} must be {expected}.")

    def has(self, key: str) -> bool:
        return self.data.get(key, _MISSING) is not _MISSING

    def text(self, key: str, limit: int, default: Any = _MISSING) -> str:
        value = self.data.get(key, default)
        if value is default and default is not _MISSING:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, str):
            return self._fail(key, "text")
        if len(value) > limit:
            return self._fail(key, f"at most {limit} characters long (it has {len(value)})")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            # A lone surrogate parses as JSON but can be neither stored nor tokenized.
            return self._fail(key, "valid Unicode text")
        return value

    def identifier(self, key: str, limit: int, default: Any = _MISSING) -> str:
        """Text without control characters; not empty unless a default is given."""
        value = self.text(key, limit, default)
        if value is default:
            return value
        if not value or any(ord(char) < 32 or ord(char) == 127 for char in value):
            return self._fail(key, "a non-empty name without control characters")
        return value

    def integer(self, key: str, low: int, high: int, default: Any = _MISSING) -> int:
        value = self.data.get(key, default)
        if value is default and default is not _MISSING:
            return default  # type: ignore[no-any-return]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            return self._fail(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: Any = _MISSING) -> float:
        value = self.data.get(key, default)
        if value is default and default is not _MISSING:
            return default  # type: ignore[no-any-return]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            return self._fail(key, f"a number from {low:g} to {high:g}")
        return float(value) if math.isfinite(value) else self._fail(key, "finite")

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        return value if isinstance(value, bool) else self._fail(key, "true or false")

    def choice(self, key: str, allowed: Iterable[str], default: Any = _MISSING) -> str:
        options = tuple(allowed)
        value = self.data.get(key, default)
        if value is default and default is not _MISSING:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, str) or value not in options:
            return self._fail(key, "one of " + ", ".join(options))
        return value

    def object(self, key: str, default: Any = _MISSING) -> dict[str, Any]:
        value = self.data.get(key, default)
        if value is default and default is not _MISSING:
            return default  # type: ignore[no-any-return]
        return value if isinstance(value, dict) else self._fail(key, "an object")

    def objects(self, key: str, limit: int) -> list[dict[str, Any]]:
        value = self.data.get(key, [])
        if not isinstance(value, list) or len(value) > limit or not all(isinstance(item, dict) for item in value):
            return self._fail(key, f"a list of at most {limit} objects")
        return value

    def texts(self, key: str, count: int, limit: int) -> tuple[str, ...]:
        value = self.data.get(key, [])
        ok = isinstance(value, list) and len(value) <= count
        if not ok or not all(isinstance(item, str) and len(item) <= limit for item in value):
            return self._fail(key, f"a list of at most {count} texts")
        return tuple(value)

    def hash(self, key: str, default: Any = _MISSING) -> str:
        value = self.data.get(key, default)
        if value is default and default is not _MISSING:
            return default  # type: ignore[no-any-return]
        if not is_hash(value):
            return self._fail(key, "a hash of 32 hexadecimal digits")
        return value  # type: ignore[no-any-return]


def is_hash(value: Any) -> bool:
    """Whether `value` is a blake2b-128 digest in lower-case hexadecimal."""
    return isinstance(value, str) and len(value) == 32 and all(char in "0123456789abcdef" for char in value)
