"""Routing functions, which choose the method, path, and headers of a message's request. Pure.

A routing function returns a map with the optional keys `method`, `endpoint_path`, and `headers`. `delivery/request_head.py` builds the
request head from this map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from userhooks.engine.functions.evaluator import Frame, Make, compile_expression
from userhooks.engine.functions.metadata import constant_metadata
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.program import Program, read_program, run_program
from userhooks.engine.functions.terms import STRUCT, Raised, of_key, pairs_of
from userhooks.engine.functions.text import inspect, to_string
from userhooks.engine.message_format import Routed, RouteOf
from userhooks.engine.postgres.pg_types import TimestampFormat

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_FIELDS = ("method", "endpoint_path", "headers")
_MAX_PATH = 2000
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class RouteFunction:
    """A parsed routing function."""

    program: Program

    def bind(self, constants: Mapping[str, Any], timestamp_format: TimestampFormat = "iso8601") -> RouteOf:
        """Return a callable that routes a message of the sink.

        The callable raises FunctionRaised if the function fails. `constants` is the same as in `Filter.bind`.
        """
        metadata = constant_metadata(constants)
        evaluate = partial(compile_expression, metadata=metadata, timestamp_format=timestamp_format)
        return run_program(self.program, metadata, timestamp_format, lambda result: _routed(evaluate(result)))


def parse_route(code: str) -> RouteFunction:
    """Parse a routing function; raises FunctionError with the line and the reason."""
    return RouteFunction(read_program(code))


def _routed(evaluate: Make[Any]) -> Make[Routed]:
    def make(frame: Frame) -> Routed:
        value = evaluate(frame)
        if type(value) is not dict or STRUCT in value:
            raise Raised(f"a routing function must return a map, got: {inspect(value)}")
        fields = {str(to_string(frame.meter, of_key(key))): item for key, item in value.items()}
        unknown = [name for name in fields if name not in _FIELDS]
        if unknown or len(fields) < len(value):
            raise _invalid("unknown_field", ", ".join(unknown) or "duplicate key")
        return Routed(
            _method(fields.get("method", "POST")),
            _path(fields.get("endpoint_path")),
            _headers(frame.meter, fields.get("headers")),
        )

    return make


def _invalid(field: str, reason: str) -> Raised:
    return Raised(f"Invalid routing attributes: {field}: {reason}")


def _method(value: Any) -> str:
    if value not in METHODS:
        raise _invalid("method", f"is invalid, valid values are: {', '.join(METHODS)}")
    return str(value)


def _path(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise _invalid("endpoint_path", "is invalid")
    if len(value) > _MAX_PATH:
        raise _invalid("endpoint_path", f"should be at most {_MAX_PATH} character(s)")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value) or value.startswith("//"):
        raise _invalid("endpoint_path", "must be a path, since messages go to the sink's own endpoint")
    return value if value.startswith(("/", "?", "#")) else f"/{value}"


def _headers(meter: Meter, value: Any) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if type(value) is not dict or STRUCT in value:
        raise _invalid("headers", "is invalid")
    headers = []
    for key, item in pairs_of(meter, value):
        name, text = to_string(meter, key), to_string(meter, item)
        if not (isinstance(name, str) and isinstance(text, str) and _TOKEN(name) and text.isprintable()):
            raise _invalid("headers", f"{inspect(key)} cannot be sent")
        headers.append((name, text))
    return tuple(headers)
