"""Elixir's `JSON`. Pure."""

from __future__ import annotations

import json
from typing import Any

from userhooks.engine.functions.encoding import to_json
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import as_text
from userhooks.engine.functions.terms import ERROR, OK, Raised


def decode(meter: Meter, text: Any) -> Any:
    meter.spend(len(as_text(text)) // 8)
    try:
        return OK, json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        return ERROR, ("invalid_byte", getattr(exc, "pos", 0), 0)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def decode_bang(meter: Meter, text: Any) -> Any:
    answer = decode(meter, text)
    if answer[0] is ERROR:
        raise Raised(f"invalid byte at position {answer[1][1]}")
    return answer[1]


def encode(meter: Meter, value: Any) -> str:
    return to_json(meter, value).decode()


FUNCTIONS = {"decode": decode, "decode!": decode_bang, "encode!": encode, "encode_to_iodata!": encode}
