"""JSON with integers of any size, which orjson refuses to write and reads as floats. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import orjson

_LONG_NUMBER = re.compile(rb"\d{19}")
_DEEPEST = 255
"""Levels beyond which orjson refuses a value."""


def dumps(value: Any) -> bytes:
    """Write what orjson writes, and integers beyond 64 bits; raises TypeError for anything else."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_writable(value, 0))


def _writable(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {key: _writable(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, orjson.Fragment):
        return [_writable(one, depth + 1) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _writable(getattr(value, one.name), depth + 1) for one in fields(value)}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return orjson.Fragment(str(value))
    return value


def loads(text: bytes) -> Any:
    """Read what `dumps` has written; raises ValueError."""
    return json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)


def loads_first(text: bytes) -> Any:
    """Read JSON in which the first of repeated keys counts, as for Sequin; raises ValueError for what is not strictly JSON."""
    orjson.loads(text)  # is stricter than `json`
    try:
        return json.loads(text, object_pairs_hook=_first)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc


def _first(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found
