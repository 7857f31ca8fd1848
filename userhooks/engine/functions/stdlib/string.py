"""Elixir's `String`. Pure.

A grapheme is approximated as a character with the combining marks that follow it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib import regex as regexes
from userhooks.engine.functions.stdlib.kernel import as_integer, as_list, as_text, options
from userhooks.engine.functions.terms import Atom, Closure, Raised, is_binary
from userhooks.engine.functions.text import inspect

_JOINER = "\u200d"


def graphemes_of(meter: Meter, text: str) -> list[str]:
    """Split a string into graphemes, the characters that a reader sees."""
    meter.spend(len(text) // 8)
    if text.isascii():
        return re.findall("\r\n|.", text, re.DOTALL) if "\r\n" in text else list(text)
    graphemes: list[str] = []
    for character in text:
        mark = unicodedata.category(character) in ("Mn", "Me", "Mc") or character == _JOINER or 0x1F3FB <= ord(character) <= 0x1F3FF
        if graphemes and (
            mark
            or graphemes[-1].endswith(_JOINER)
            or (graphemes[-1] == "\r" and character == "\n")
            or _second_flag(graphemes[-1], character)
        ):
            graphemes[-1] += character
        else:
            graphemes.append(character)
    return graphemes


def _second_flag(before: str, character: str) -> bool:
    return len(before) == 1 and 0x1F1E6 <= ord(before) <= 0x1F1FF and 0x1F1E6 <= ord(character) <= 0x1F1FF


def length(meter: Meter, text: Any) -> int:
    if as_text(text).isascii() and "\r\n" not in text:
        return len(text)
    return len(graphemes_of(meter, text))


def at(meter: Meter, text: Any, index: Any) -> str | None:
    parts = graphemes_of(meter, as_text(text))
    index = as_integer(index)
    return parts[index] if -len(parts) <= index < len(parts) else None


def slice_(meter: Meter, text: Any, start: Any, size: Any) -> str:
    parts = graphemes_of(meter, as_text(text))
    start, size = as_integer(start), as_integer(size)
    if size < 0:
        raise Raised("no function clause matching in String.slice/3")
    if start < 0:
        start = max(start + len(parts), 0)
    return "".join(parts[start : start + size])


def split_at(meter: Meter, text: Any, position: Any) -> tuple[str, str]:
    parts = graphemes_of(meter, as_text(text))
    position = as_integer(position)
    cut = max(position + len(parts), 0) if position < 0 else position
    return "".join(parts[:cut]), "".join(parts[cut:])


def _patterns(pattern: Any) -> list[str]:
    """Return the alternatives of a pattern, which is a string or a list of strings."""
    alternatives = pattern if type(pattern) is list else [pattern]
    if not all(type(alternative) is str for alternative in alternatives):
        raise Raised(f"argument error: a pattern must be a string or a list of strings, got: {inspect(pattern)}")
    return alternatives


def contains(meter: Meter, text: Any, pattern: Any) -> bool:
    if regexes.is_regex(pattern):
        raise Raised("no function clause matching in String.contains?/2")
    return any(alternative in as_text(text) for alternative in _patterns(pattern))


def starts_with(meter: Meter, text: Any, prefix: Any) -> bool:
    return as_text(text).startswith(tuple(_patterns(prefix)))


def ends_with(meter: Meter, text: Any, suffix: Any) -> bool:
    return as_text(text).endswith(tuple(_patterns(suffix)))


def match(meter: Meter, text: Any, regex: Any) -> bool:
    return regexes.match(meter, regex, text)


def split(meter: Meter, text: Any, pattern: Any = None, opts: Any = ()) -> list[str]:
    whole = as_text(text)
    if pattern is None or (type(pattern) is list and pattern and type(pattern[0]) is tuple):
        return re.split(r"[ \t\n\v\f\r\x85\u2000-\u200a\u2028\u2029\u205f\u3000]+", whole.strip(_SPACE)) if whole.strip(_SPACE) else []
    if regexes.is_regex(pattern):
        return regexes.split(meter, pattern, text, opts)
    settings = options(list(opts))
    max_parts, trim = settings.get("parts", Atom("infinity")), settings.get("trim") is True
    patterns = _patterns(pattern)
    if "" in patterns:
        parts = ["", *graphemes_of(meter, whole), ""]
        parts = _limited(parts, max_parts, "")
    elif not patterns:
        parts = [whole]
    else:
        limit = max_parts - 1 if type(max_parts) is int and max_parts > 0 else 0
        limit = -1 if type(max_parts) is int and max_parts == 1 else limit
        parts = (
            [whole] if limit == -1 else re.split("|".join(map(re.escape, sorted(patterns, key=len, reverse=True))), whole, maxsplit=limit)
        )
    return [part for part in parts if part] if trim else parts


def _limited(parts: list[str], max_parts: Any, joiner: str) -> list[str]:
    if type(max_parts) is int and 0 < max_parts < len(parts):
        return [*parts[: max_parts - 1], joiner.join(parts[max_parts - 1 :])]
    return parts


_SPACE = " \t\n\v\f\r\x85\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u2028\u2029\u205f\u3000"


def replace(meter: Meter, text: Any, pattern: Any, replacement: Any, opts: Any = ()) -> str:
    whole = as_text(text)
    if regexes.is_regex(pattern):
        return regexes.replace(meter, pattern, text, replacement, opts)
    once = options(list(opts)).get("global") is False
    patterns = sorted(_patterns(pattern), key=len, reverse=True)
    if not patterns:
        return whole
    count = sum(whole.count(alternative) for alternative in patterns)
    meter.spend(count)
    if isinstance(replacement, str):
        meter.text(len(whole) + len(replacement) * count)

    def new(occurrence: re.Match[str]) -> str:
        if isinstance(replacement, Closure):
            return as_text(replacement(occurrence[0]))
        return as_text(replacement)

    return re.sub("|".join(map(re.escape, patterns)), new, whole, count=int(once))


def _replace_at(end: bool, once: bool, meter: Meter, text: str, pattern: str, new: str) -> str:
    """Replace the pattern at the start of the text, or at its end if `end` is true: one occurrence if `once`, else all in a row."""
    if pattern == "":
        if once:
            return text + new if end else new + text
        raise Raised("cannot use an empty string as the match to replace")
    count = 0
    while (text.endswith(pattern) if end else text.startswith(pattern)) and not (once and count):
        meter.spend()
        text = text[: -len(pattern)] if end else text[len(pattern) :]
        count += 1
    meter.text(len(new) * count + len(text))
    return text + new * count if end else new * count + text


def replace_prefix(meter: Meter, text: Any, pattern: Any, new: Any) -> str:
    return _replace_at(False, True, meter, as_text(text), as_text(pattern), as_text(new))


def replace_suffix(meter: Meter, text: Any, pattern: Any, new: Any) -> str:
    return _replace_at(True, True, meter, as_text(text), as_text(pattern), as_text(new))


def replace_leading(meter: Meter, text: Any, pattern: Any, new: Any) -> str:
    return _replace_at(False, False, meter, as_text(text), as_text(pattern), as_text(new))


def replace_trailing(meter: Meter, text: Any, pattern: Any, new: Any) -> str:
    return _replace_at(True, False, meter, as_text(text), as_text(pattern), as_text(new))


def trim(meter: Meter, text: Any, to_trim: Any = None) -> str:
    return trim_trailing(meter, trim_leading(meter, text, to_trim), to_trim)


def trim_leading(meter: Meter, text: Any, to_trim: Any = None) -> str:
    return as_text(text).lstrip(_SPACE) if to_trim is None else replace_leading(meter, text, to_trim, "")


def trim_trailing(meter: Meter, text: Any, to_trim: Any = None) -> str:
    return as_text(text).rstrip(_SPACE) if to_trim is None else replace_trailing(meter, text, to_trim, "")


def upcase(meter: Meter, text: Any, mode: Any = None) -> str:
    if mode is Atom("ascii"):
        return "".join(letter.upper() if letter.isascii() else letter for letter in as_text(text))
    return as_text(text).upper()


def downcase(meter: Meter, text: Any, mode: Any = None) -> str:
    if mode is Atom("ascii"):
        return "".join(letter.lower() if letter.isascii() else letter for letter in as_text(text))
    return as_text(text).replace("\u0130", "i\u0307").lower() if mode is not Atom("greek") else as_text(text).lower()


def capitalize(meter: Meter, text: Any, mode: Any = None) -> str:
    first, rest = split_at(meter, text, 1)
    return first.title() + downcase(meter, rest, mode)


def duplicate(meter: Meter, text: Any, times: Any) -> str:
    times = as_integer(times)
    if times < 0:
        raise Raised("no function clause matching in String.duplicate/2")
    meter.text(len(as_text(text)) * times)
    return str(text * times)


def _padding(meter: Meter, text: Any, count: Any, padding: Any) -> str:
    needed = as_integer(count)
    if needed < 0:
        raise Raised("no function clause matching in String.pad_leading/3")
    needed -= length(meter, text)
    if needed <= 0:
        return ""
    meter.text(needed)
    meter.spend(needed // 8)
    parts = graphemes_of(meter, padding) if type(padding) is str else as_list(padding)
    if not parts or not all(type(part) is str for part in parts):
        raise Raised("padding must be a string or a non-empty list of strings")
    return "".join([parts[i % len(parts)] for i in range(needed)])


def pad_leading(meter: Meter, text: Any, count: Any, padding: Any = " ") -> str:
    return _padding(meter, as_text(text), count, padding) + str(text)


def pad_trailing(meter: Meter, text: Any, count: Any, padding: Any = " ") -> str:
    return as_text(text) + _padding(meter, text, count, padding)


def reverse(meter: Meter, text: Any) -> str:
    return "".join(reversed(graphemes_of(meter, as_text(text))))


_INTEGER = re.compile(r"[+-]?\d+", re.ASCII).fullmatch
_FLOAT = re.compile(r"[+-]?\d+\.\d+([eE][+-]?\d+)?", re.ASCII).fullmatch


def to_integer(meter: Meter, text: Any, base: Any = 10) -> int:
    if base != 10:
        from userhooks.engine.functions.stdlib.integer import parse

        parsed = parse(meter, text, base)
        if type(parsed) is tuple and parsed[1] == "":
            return int(parsed[0])
    elif _INTEGER(as_text(text)):
        meter.digits(4 * len(text))
        return int(text)
    raise Raised(_not_a("an integer", text))


def to_float(meter: Meter, text: Any) -> float:
    if _FLOAT(as_text(text)) and len(text) < 400:
        number = float(text)
        if math.isfinite(number):
            return number
    raise Raised(_not_a("a float", text))


def _not_a(kind: str, text: Any) -> str:
    return f"errors were found at the given arguments:\n\n  * 1st argument: not a textual representation of {kind}\n"


def first(meter: Meter, text: Any) -> str | None:
    return at(meter, text, 0)


def last(meter: Meter, text: Any) -> str | None:
    return at(meter, text, -1)


def next_codepoint(meter: Meter, text: Any) -> Any:
    return (text[0], text[1:]) if as_text(text) else None


def next_grapheme(meter: Meter, text: Any) -> Any:
    return split_at(meter, text, 1) if as_text(text) else None


def valid(meter: Meter, text: Any) -> bool:
    if not is_binary(text):
        raise Raised("no function clause matching in String.valid?/1")
    return type(text) is str


def printable(meter: Meter, text: Any, limit: Any = None) -> bool:
    checked = text if limit is None or type(limit) is not int else text[:limit]
    return type(text) is str and all(letter.isprintable() or letter in "\n\r\t\v\b\f\x1b\x7f\a" for letter in checked)


def equivalent(meter: Meter, a: Any, b: Any) -> bool:
    return unicodedata.normalize("NFD", as_text(a)) == unicodedata.normalize("NFD", as_text(b))


def normalize(meter: Meter, text: Any, form: Any) -> str:
    forms = {Atom("nfd"): "NFD", Atom("nfc"): "NFC", Atom("nfkd"): "NFKD", Atom("nfkc"): "NFKC"}
    if form not in forms:
        raise Raised("invalid normalization mode")
    meter.text(4 * len(as_text(text)))
    return unicodedata.normalize(forms[form], text)  # type: ignore[arg-type]


def jaro_distance(meter: Meter, a: Any, b: Any) -> float:
    left, right = graphemes_of(meter, as_text(a)), graphemes_of(meter, as_text(b))
    if left == right:
        return 1.0
    if not left or not right:
        return 0.0
    reach = max(max(len(left), len(right)) // 2 - 1, 0)
    meter.spend(len(left) * (2 * reach + 1) // 4)
    taken: list[int] = []
    matched = []
    for i, character in enumerate(left):
        for j in range(max(0, i - reach), min(len(right), i + reach + 1)):
            if j not in taken and right[j] == character:
                taken.append(j)
                matched.append(character)
                break
    if not matched:
        return 0.0
    swaps = sum(a_ != right[j] for a_, j in zip(matched, sorted(taken), strict=True)) / 2
    count = len(matched)
    return (count / len(left) + count / len(right) + (count - swaps) / count) / 3


FUNCTIONS = {
    "length": length,
    "at": at,
    "slice": slice_,
    "split_at": split_at,
    "contains?": contains,
    "starts_with?": starts_with,
    "ends_with?": ends_with,
    "match?": match,
    "split": split,
    "replace": replace,
    "replace_prefix": replace_prefix,
    "replace_suffix": replace_suffix,
    "replace_leading": replace_leading,
    "replace_trailing": replace_trailing,
    "trim": trim,
    "trim_leading": trim_leading,
    "trim_trailing": trim_trailing,
    "upcase": upcase,
    "downcase": downcase,
    "capitalize": capitalize,
    "duplicate": duplicate,
    "pad_leading": pad_leading,
    "pad_trailing": pad_trailing,
    "reverse": reverse,
    "to_integer": to_integer,
    "to_float": to_float,
    "first": first,
    "last": last,
    "next_codepoint": next_codepoint,
    "next_grapheme": next_grapheme,
    "valid?": valid,
    "printable?": printable,
    "equivalent?": equivalent,
    "normalize": normalize,
    "jaro_distance": jaro_distance,
    "graphemes": lambda meter, text: list(graphemes_of(meter, as_text(text))),
    "codepoints": lambda meter, text: list(as_text(text)),
    "to_charlist": lambda meter, text: list(map(ord, as_text(text))),
}
