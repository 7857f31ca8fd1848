"""The library: all functions that code may call, by full name, and the structs that it may construct. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from userhooks.engine.functions.stdlib import (
    base,
    date,
    datetime,
    decimal,
    enum,
    integer,
    json,
    kernel,
    naive_datetime,
    regex,
    sigils,
    string,
    uri,
)
from userhooks.engine.functions.stdlib import list as lists
from userhooks.engine.functions.stdlib import map as maps
from userhooks.engine.functions.structs import URI_FIELDS
from userhooks.engine.functions.terms import Atom

Run: TypeAlias = Callable[..., Any]
UNFIT = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""Exceptions that a library function raises for arguments of the wrong kind."""


@dataclass(frozen=True, slots=True)
class LibraryFunction:
    """A library function, which takes the meter and `least` to `most` arguments; `most` is None if their number is not limited."""

    name: str
    run: Run
    least: int
    most: int | None


def functions_of(module: str, runs: Mapping[str, Run]) -> dict[str, LibraryFunction]:
    """Return the functions of a module by full name."""
    functions = {}
    for name, run in runs.items():
        parameters = list(inspect.signature(run).parameters.values())[1:]
        least = sum(parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
        most = None if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters) else len(parameters)
        full = f"{module}.{name}" if module else name
        functions[full] = LibraryFunction(full, run, least, most)
    return functions


_MODULES = {
    "Base": base,
    "Date": date,
    "DateTime": datetime,
    "Decimal": decimal,
    "Enum": enum,
    "Integer": integer,
    "JSON": json,
    "List": lists,
    "Map": maps,
    "NaiveDateTime": naive_datetime,
    "Regex": regex,
    "String": string,
    "URI": uri,
}
LIBRARY: dict[str, LibraryFunction] = functions_of("", {**kernel.FUNCTIONS, **sigils.FUNCTIONS}) | functions_of("Access", kernel.ACCESS)
for _name, _module in _MODULES.items():
    LIBRARY |= functions_of(_name, _module.FUNCTIONS)

_ISO = Atom("Elixir.Calendar.ISO")
_DAY: dict[str, Any] = {"calendar": _ISO, "year": None, "month": None, "day": None}
_CLOCK: dict[str, Any] = {"hour": None, "minute": None, "second": None, "microsecond": (0, 0)}
STRUCTS: dict[str, dict[str, Any]] = {
    "Date": _DAY,
    "Time": {"calendar": _ISO, **_CLOCK},
    "NaiveDateTime": {**_DAY, **_CLOCK},
    "DateTime": {**_DAY, **_CLOCK, "time_zone": None, "zone_abbr": None, "utc_offset": None, "std_offset": None},
    "Decimal": {"sign": 1, "coef": 0, "exp": 0},
    "URI": dict.fromkeys(URI_FIELDS),
}
"""Fields of each struct with their defaults, by the name of the struct."""
