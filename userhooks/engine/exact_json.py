"""JSON with integers of any size. Pure.

orjson refuses to write integers beyond 64 bits, and reads them as floats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import orjson

_LONG_NUMBER = re.compile(rb"\d{19}")
_DEEPEST = 255
"""Deepest nesting that orjson accepts."""


def dumps(value: Any) -> bytes:
    """Return a value as JSON, with integers of any size; raises TypeError for types that orjson does not support."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_writable(value, 0))


def _writable(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {key: _writable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, orjson.Fragment):
        return [_writable(item, depth + 1) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _writable(getattr(value, field.name), depth + 1) for field in fields(value)}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return orjson.Fragment(str(value))
    return value


def loads(text: bytes) -> Any:
    """Parse JSON written by `dumps`; raises ValueError."""
    return json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)


def loads_first(text: bytes) -> Any:
    """Parse strict JSON, keeping the first value of a repeated key, as Sequin does; raises ValueError."""
    orjson.loads(text)  # `json` alone accepts invalid JSON such as NaN
    try:
        return json.loads(text, object_pairs_hook=_first)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc


def _first(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        document.setdefault(key, value)
    return document
