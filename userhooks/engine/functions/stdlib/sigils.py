"""Sigils: strings, word lists, regular expressions, dates, and times as literals. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib import date, datetime, naive_datetime, regex
from userhooks.engine.functions.stdlib.calendar import answer, bang
from userhooks.engine.functions.stdlib.kernel import as_text
from userhooks.engine.functions.terms import Raised, atom


def words(meter: Meter, text: Any, flags: list[int]) -> list[Any]:
    kinds: dict[str, Callable[[str], Any]] = {"": str, "s": str, "a": atom, "c": lambda word: list(map(ord, word))}
    kind = kinds.get("".join(map(chr, flags)))
    if kind is None:
        raise Raised("modifier must be one of: s, a, c")
    return list(map(kind, as_text(text).split()))


def time_from_iso8601(meter: Meter, text: Any) -> Any:
    parsed = structs.parse_time(as_text(text))
    return answer(structs.time(*parsed) if isinstance(parsed, tuple) else parsed)


def _datetime(meter: Meter, text: Any) -> Any:
    return datetime.from_iso8601(meter, text)[:2]


def _of(parse: Callable[..., Any]) -> Callable[..., Any]:
    read = bang(parse, "cannot parse")
    return lambda meter, text, flags: read(meter, text)


FUNCTIONS = {
    "sigil_s": lambda meter, text, flags: text,
    "sigil_S": lambda meter, text, flags: text,
    "sigil_c": lambda meter, text, flags: list(map(ord, as_text(text))),
    "sigil_C": lambda meter, text, flags: list(map(ord, as_text(text))),
    "sigil_w": words,
    "sigil_r": lambda meter, text, flags: regex.make(as_text(text), "".join(map(chr, flags))),
    "sigil_R": lambda meter, text, flags: regex.make(as_text(text), "".join(map(chr, flags))),
    "sigil_D": _of(date.from_iso8601),
    "sigil_T": _of(time_from_iso8601),
    "sigil_N": _of(naive_datetime.from_iso8601),
    "sigil_U": _of(_datetime),
}
