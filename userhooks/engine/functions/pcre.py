"""Perl-compatible regular expressions, matched by backtracking that spends steps from a meter. Pure.

Python's `re` cannot be interrupted: a pattern like `(a+)+$` would block the whole engine. Matching works on characters, with and without
the option `u`.

This module is long because it holds both a parser and a matcher for each construct.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from userhooks.engine.functions.meter import Meter

_MAX_PATTERN = 2_000
_MAX_REPEAT = 65_535
_ENDLESS = 1 << 60


class BadRegex(Exception):
    """The pattern is not a valid regular expression, or uses an unsupported construct."""


class _State:
    """State of one search."""

    __slots__ = ("groups", "meter", "text")

    def __init__(self, text: str, count: int, meter: Meter) -> None:
        self.text = text
        self.meter = meter
        self.groups: list[tuple[int, int] | None] = [None] * (count + 1)


_Next: TypeAlias = Callable[[int], int | None]
_Matcher: TypeAlias = Callable[[_State, int, _Next], int | None]
"""Function that matches at a position and calls the continuation; it returns the end of the whole match, or None if there is no match."""
_Test: TypeAlias = Callable[[str], bool]


class Found(NamedTuple):
    """A match: the searched text, and the start and end of each group; group 0 is the whole match."""

    text: str
    spans: list[tuple[int, int] | None]

    def group(self, number: int) -> str | None:
        """Return the text of a group; None for a group that did not participate."""
        span = self.spans[number] if number < len(self.spans) else None
        return None if span is None else self.text[span[0] : span[1]]


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled pattern."""

    source: str
    options: str
    matcher: _Matcher
    groups: int
    names: dict[str, int]
    first_line: bool

    def search(self, meter: Meter, text: str, start: int = 0) -> Found | None:
        """Return the first match at or after `start`; None if there is no match."""
        state = _State(text, self.groups, meter)
        last = len(text)
        if self.first_line and "\n" in text:
            last = text.index("\n")
        for position in range(start, last + 1):
            meter.spend()
            end = self.matcher(state, position, _end)
            if end is not None:
                meter.spend(8)
                state.groups[0] = (position, end)
                return Found(text, list(state.groups))
            state.groups = [None] * (self.groups + 1)
        return None

    def all(self, meter: Meter, text: str) -> list[Found]:
        """Return all matches, which do not overlap."""
        matches: list[Found] = []
        position = 0
        while position <= len(text):
            match = self.search(meter, text, position)
            if match is None:
                break
            matches.append(match)
            start, end = match.spans[0] or (0, 0)
            position = end if end > start else end + 1
        return matches


def _end(position: int) -> int | None:
    return position


@lru_cache(maxsize=128)
def compile_regex(source: str, options: str) -> Regex:
    """Compile a pattern; raises BadRegex."""
    if len(source) > _MAX_PATTERN:
        raise BadRegex(f"the pattern is longer than {_MAX_PATTERN} characters")
    unknown = set(options) - set("imsxufUE")
    if unknown:
        raise BadRegex(f"the option {min(unknown)} does not exist or is not supported")
    parser = _Parser(source, frozenset(options))
    matcher = parser.whole()
    return Regex(source, options, matcher, parser.count, parser.names, "f" in options)


# --- character classes ---------------------------------------------------------------------------------------------------


def _exactly(character: str, ignore_case: bool) -> _Test:
    if ignore_case and character.lower() != character.upper():
        folded = character.lower()
        return lambda other: other.lower() == folded
    return lambda other: other == character


def _inverted(test: _Test) -> _Test:
    return lambda character: not test(character)


def _any_of(tests: list[_Test]) -> _Test:
    return tests[0] if len(tests) == 1 else lambda character: any(test(character) for test in tests)


def _ascii(test: _Test) -> _Test:
    return lambda character: character < "\x80" and test(character)


_POSIX: dict[str, _Test] = {
    "alpha": _ascii(str.isalpha),
    "digit": _ascii(str.isdigit),
    "alnum": _ascii(str.isalnum),
    "upper": _ascii(str.isupper),
    "lower": _ascii(str.islower),
    "space": lambda character: character in " \t\n\r\v\f",
    "blank": lambda character: character in " \t",
    "punct": lambda character: character < "\x80" and character.isprintable() and not character.isalnum() and character != " ",
    "xdigit": lambda character: character in "0123456789abcdefABCDEF",
    "word": _ascii(lambda character: character.isalnum() or character == "_"),
    "cntrl": lambda character: character < " " or character == "\x7f",
    "print": _ascii(str.isprintable),
    "graph": _ascii(lambda character: character.isprintable() and character != " "),
}


def _property(name: str) -> _Test:
    if name in ("L&", "LC"):
        return lambda character: unicodedata.category(character) in ("Lu", "Ll", "Lt")
    if name == "Any":
        return lambda character: True
    if name in ("Greek", "Latin", "Cyrillic", "Han", "Hiragana", "Katakana", "Arabic", "Hebrew", "Thai", "Hangul"):
        script = {"Han": "CJK"}.get(name, name).upper()
        return lambda character: unicodedata.name(character, "").startswith(script)
    if not (name and len(name) <= 2 and name[0] in "CLMNPSZ"):
        raise BadRegex(f"the property {name} does not exist or is not supported")
    return lambda character: unicodedata.category(character).startswith(name)


# --- parsing -------------------------------------------------------------------------------------------------------------

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "a": "\a", "e": "\x1b"}


class _Parser:
    """Parses one pattern and builds its matchers.

    This class is long because each construct has its own method.
    """

    def __init__(self, source: str, options: frozenset[str]) -> None:
        self._source = source
        self._at = 0
        self._options = options
        self._depth = 0
        self.count = 0
        self.names: dict[str, int] = {}

    def whole(self) -> _Matcher:
        matcher = self._alternatives()
        if self._at < len(self._source):
            raise BadRegex(f"unmatched closing parenthesis at {self._at}")
        return matcher

    def _peek(self, text: str) -> bool:
        return self._source.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        if self._peek(text):
            self._at += len(text)
            return True
        return False

    def _next(self) -> str:
        if self._at >= len(self._source):
            raise BadRegex("unexpected end of the pattern")
        self._at += 1
        return self._source[self._at - 1]

    def _until(self, end: str) -> str:
        stop = self._source.find(end, self._at)
        if stop < 0:
            raise BadRegex(f"missing {end}")
        text = self._source[self._at : stop]
        self._at = stop + len(end)
        return text

    def _alternatives(self) -> _Matcher:
        self._depth += 1
        if self._depth > 30:
            raise BadRegex("parentheses are nested too deeply")
        before = self._options
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        self._options = before
        self._depth -= 1
        return branches[0] if len(branches) == 1 else _alternatives(branches)

    def _sequence(self) -> _Matcher:
        parts: list[_Matcher] = []
        while self._at < len(self._source) and not self._peek("|") and not self._peek(")"):
            if "x" in self._options and self._skipped():
                continue
            part = self._part()
            if part is not None:
                parts.append(part)
        return _sequence(parts)

    def _skipped(self) -> bool:
        if self._source[self._at].isspace():
            self._at += 1
            return True
        if self._take("#"):
            stop = self._source.find("\n", self._at)
            self._at = len(self._source) if stop < 0 else stop
            return True
        return False

    def _part(self) -> _Matcher | None:
        """Parse one item and its repetition; returns None for an item without a matcher, like a comment."""
        character = self._next()
        test: _Test | None = None
        matcher: _Matcher | None = None
        if character == "(":
            matcher = self._group()
            if matcher is None:
                return None
        elif character == "[":
            test = self._class()
        elif character == ".":
            test = (lambda _: True) if "s" in self._options else (lambda other: other != "\n")
        elif character == "^":
            return _line_start if "m" in self._options else _text_start
        elif character == "$":
            return _line_end if "m" in self._options else _text_end
        elif character == "\\":
            test, matcher = self._escape()
        elif character in "*+?":
            raise BadRegex(f"nothing to repeat at {self._at - 1}")
        else:
            test = _exactly(character, "i" in self._options)
        return self._repeated(test, matcher)

    def _repeated(self, test: _Test | None, matcher: _Matcher | None) -> _Matcher:
        while True:
            bounds = self._bounds()
            if bounds is None:
                return _single(test) if matcher is None and test is not None else matcher or _sequence([])
            mode = "lazy" if self._take("?") else "possessive" if self._take("+") else "greedy"
            if "U" in self._options and mode != "possessive":
                mode = "greedy" if mode == "lazy" else "lazy"
            if test is not None and matcher is None:
                matcher = _repeat_test(test, *bounds, mode)
            else:
                matcher = _repeat(matcher or _sequence([]), *bounds, mode)
            test = None

    def _bounds(self) -> tuple[int, int] | None:
        if self._take("*"):
            return 0, _ENDLESS
        if self._take("+"):
            return 1, _ENDLESS
        if self._take("?"):
            return 0, 1
        if not self._peek("{"):
            return None
        stop = self._source.find("}", self._at)
        low, comma, high = self._source[self._at + 1 : stop].partition(",")
        if stop < 0 or not low.isdecimal() or not (high.isdecimal() or not high):
            return None
        self._at = stop + 1
        least = int(low)
        most = int(high) if high else _ENDLESS if comma else least
        if least > most or least > _MAX_REPEAT:
            raise BadRegex("the bounds of a repetition are out of order or too large")
        return least, most

    def _group(self) -> _Matcher | None:
        if not self._take("?"):
            return self._captured(None)
        for start, lookaround in _LOOKAROUNDS.items():
            if self._take(start):
                return lookaround(self._inside())
        if self._take("#"):
            self._until(")")
            return None
        if self._take(":"):
            return self._inside()
        if self._take(">"):
            return _atomic(self._inside())
        if self._take("P<") or (self._peek("<") and self._take("<")):
            return self._captured(self._until(">"))
        if self._take("'"):
            return self._captured(self._until("'"))
        return self._flags()

    def _flags(self) -> _Matcher | None:
        flags = ""
        while self._at < len(self._source) and self._source[self._at] in "imsxU-":
            flags += self._next()
        on, _, off = flags.partition("-")
        before = self._options
        self._options = (before | frozenset(on)) - frozenset(off)
        if self._take(")"):
            return None  # the flags apply to the rest of this group
        if not self._take(":"):
            raise BadRegex(f"unknown type of group at {self._at}")
        inside = self._inside()
        self._options = before
        return inside

    def _inside(self) -> _Matcher:
        inside = self._alternatives()
        if not self._take(")"):
            raise BadRegex("missing closing parenthesis")
        return inside

    def _captured(self, name: str | None) -> _Matcher:
        self.count += 1
        number = self.count
        if name is not None:
            if not name.isidentifier() or name in self.names:
                raise BadRegex(f"{name!r} is an invalid or duplicate group name")
            self.names[name] = number
        return _capture(self._inside(), number)

    def _escape(self) -> tuple[_Test | None, _Matcher | None]:
        character = self._next()
        test = self._class_escape(character)
        if test is not None:
            return test, None
        simple = {"b": _boundary(True, self._word()), "B": _boundary(False, self._word()), "A": _text_start, "G": _text_start}
        simple |= {"z": _very_end, "Z": _text_end}
        if character in simple:
            return None, simple[character]
        if character == "R":
            return None, _alternatives([_sequence([_single(lambda c: c == "\r"), _single(lambda c: c == "\n")]), _single(_newline)])
        if character == "K":
            raise BadRegex(r"\K is not supported")
        if character in "123456789":
            digits = character
            while (
                self._at < len(self._source) and self._source[self._at].isdecimal() and int(digits + self._source[self._at]) <= self.count
            ):
                digits += self._next()
            return None, _same_as(int(digits), "i" in self._options)
        if character in "kg":
            closing = {"{": "}", "<": ">", "'": "'"}.get(self._next())
            name = self._until(closing) if closing else ""
            number = int(name) if name.isdecimal() else self.names.get(name, 0)
            if not 0 < number <= self.count:
                raise BadRegex(f"there is no group {name!r}")
            return None, _same_as(number, "i" in self._options)
        if character == "Q":
            stop = self._source.find("\\E", self._at)
            text = self._source[self._at :] if stop < 0 else self._source[self._at : stop]
            self._at += len(text) + 2 * (stop >= 0)
            return None, _sequence([_single(_exactly(letter, "i" in self._options)) for letter in text])
        return _exactly(self._literal(character), "i" in self._options), None

    def _word(self) -> _Test:
        return _unicode_word if "u" in self._options else _POSIX["word"]

    def _class_escape(self, character: str) -> _Test | None:
        """Return the test for a class escape like `\\d`; None for any other escape."""
        unicode_ = "u" in self._options
        tests: dict[str, _Test] = {
            "d": str.isdecimal if unicode_ else _POSIX["digit"],
            "w": self._word(),
            "s": str.isspace if unicode_ else _POSIX["space"],
            "h": lambda other: other in " \t\xa0" or unicodedata.category(other) == "Zs",
            "v": _newline,
        }
        if character.lower() in tests:
            test = tests[character.lower()]
            return test if character.islower() else _inverted(test)
        if character == "N":
            return lambda other: other != "\n"
        if character in "pP":
            name = self._until("}") if self._take("{") else self._next()
            negative = name.startswith("^") != (character == "P")
            test = _property(name.removeprefix("^"))
            return _inverted(test) if negative else test
        return None

    def _literal(self, character: str) -> str:
        """Return the character that an escape represents."""
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character == "x":
            digits = self._until("}") if self._take("{") else ""
            while (
                not digits.endswith("}")
                and len(digits) < 2
                and self._at < len(self._source)
                and self._source[self._at] in "0123456789abcdefABCDEF"
            ):
                digits += self._next()
            return self._codepoint(digits or "0", 16)
        if character == "c":
            return chr(ord(self._next().upper()) ^ 64)
        if character == "0":
            digits = "0"
            while len(digits) < 3 and self._at < len(self._source) and self._source[self._at] in "01234567":
                digits += self._next()
            return self._codepoint(digits, 8)
        if character.isalnum() and character.isascii():
            raise BadRegex(f"unknown escape \\{character}")
        return character

    def _codepoint(self, digits: str, base: int) -> str:
        try:
            return chr(int(digits, base))
        except (ValueError, OverflowError) as exc:
            raise BadRegex(f"{digits} is not a valid character code") from exc

    def _class(self) -> _Test:
        """Parse a bracketed class: `[…]`."""
        negative = self._take("^")
        tests: list[_Test] = []
        first = True
        while first or not self._peek("]"):
            first = False
            if self._peek("[:"):
                self._at += 2
                name = self._until(":]")
                test = _POSIX.get(name.removeprefix("^"))
                if test is None:
                    raise BadRegex(f"the class [:{name}:] does not exist")
                tests.append(_inverted(test) if name.startswith("^") else test)
                continue
            character = self._next()
            if character == "\\":
                character = self._next()
                test = self._class_escape(character)
                if test is not None:
                    tests.append(test)
                    continue
                character = "\b" if character == "b" else self._literal(character)
            if self._peek("-") and not self._source.startswith("-]", self._at) and self._at + 1 < len(self._source):
                self._at += 1
                last = self._next()
                if last == "\\":
                    last = self._literal(self._next())
                if last < character:
                    raise BadRegex("a range is out of order")
                tests.append(self._range(character, last))
            else:
                tests.append(_exactly(character, "i" in self._options))
        self._at += 1
        test = _any_of(tests)
        return _inverted(test) if negative else test

    def _range(self, first: str, last: str) -> _Test:
        if "i" in self._options:
            return lambda other: any(first <= variant <= last for variant in (other, other.lower(), other.upper()) if len(variant) == 1)
        return lambda other: first <= other <= last


def _newline(character: str) -> bool:
    return character in "\n\r\v\f\x85\u2028\u2029"


def _unicode_word(character: str) -> bool:
    return character.isalnum() or character == "_"


# --- matching ------------------------------------------------------------------------------------------------------------


def _single(test: _Test) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        return then(position + 1) if position < len(state.text) and test(state.text[position]) else None

    return match


def _sequence(parts: list[_Matcher]) -> _Matcher:
    if len(parts) == 1:
        return parts[0]

    def match(state: _State, position: int, then: _Next) -> int | None:
        def from_part(number: int, position: int) -> int | None:
            state.meter.spend()
            if number == len(parts):
                return then(position)
            return parts[number](state, position, lambda end: from_part(number + 1, end))

        return from_part(0, position)

    return match


def _alternatives(branches: list[_Matcher]) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        for branch in branches:
            state.meter.spend()
            end = branch(state, position, then)
            if end is not None:
                return end
        return None

    return match


def _repeat_test(test: _Test, least: int, most: int, mode: str) -> _Matcher:
    """Repeat a test of one character, counting in a loop so that long texts need no deep recursion."""

    def match(state: _State, position: int, then: _Next) -> int | None:
        text, meter = state.text, state.meter
        limit = min(most, len(text) - position)
        count = 0
        target = min(least, limit) if mode == "lazy" else limit
        while count < target and test(text[position + count]):
            count += 1
        meter.spend(1 + count // 8)
        if count < least:
            return None
        if mode == "possessive":
            return then(position + count)
        if mode == "greedy":
            for taken in range(count, least - 1, -1):
                meter.spend()
                end = then(position + taken)
                if end is not None:
                    return end
            return None
        while True:
            meter.spend()
            end = then(position + count)
            if end is not None:
                return end
            if count >= limit or not test(text[position + count]):
                return None
            count += 1

    return match


def _repeat(inner: _Matcher, least: int, most: int, mode: str) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        def again(count: int, position: int) -> int | None:
            state.meter.spend()

            def repeat() -> int | None:
                if count >= most:
                    return None
                return inner(state, position, lambda end: again(count + 1, end) if end > position or count < least else None)

            if count < least:
                return repeat()
            if mode == "lazy":
                end = then(position)
                return repeat() if end is None else end
            groups = list(state.groups)
            end = repeat()
            if end is None:
                state.groups = groups
                return then(position)
            return end

        return again(0, position)

    return _possessive(inner, least, most) if mode == "possessive" else match


def _possessive(inner: _Matcher, least: int, most: int) -> _Matcher:
    return _atomic(_repeat(inner, least, most, "greedy"))


def _capture(inner: _Matcher, number: int) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        before = state.groups[number]

        def closed(end: int) -> int | None:
            inside = state.groups[number]
            state.groups[number] = (position, end)
            result = then(end)
            if result is None:
                state.groups[number] = inside
            return result

        result = inner(state, position, closed)
        if result is None:
            state.groups[number] = before
        return result

    return match


def _atomic(inner: _Matcher) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        end = inner(state, position, _end)
        return None if end is None else then(end)

    return match


def _ahead(inner: _Matcher, positive: bool) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        state.meter.spend()
        return then(position) if (inner(state, position, _end) is not None) is positive else None

    return match


def _behind(inner: _Matcher, positive: bool) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        def exactly(end: int) -> int | None:
            return end if end == position else None

        matched = False
        for start in range(position, -1, -1):
            state.meter.spend(2)
            if inner(state, start, exactly) is not None:
                matched = True
                break
        return then(position) if matched is positive else None

    return match


_LOOKAROUNDS: dict[str, Callable[[_Matcher], _Matcher]] = {
    "=": lambda inner: _ahead(inner, True),
    "!": lambda inner: _ahead(inner, False),
    "<=": lambda inner: _behind(inner, True),
    "<!": lambda inner: _behind(inner, False),
}


def _same_as(number: int, ignore_case: bool) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        span = state.groups[number] if number < len(state.groups) else None
        if span is None:
            return None
        expected = state.text[span[0] : span[1]]
        actual = state.text[position : position + len(expected)]
        state.meter.text(len(expected))
        same = actual.lower() == expected.lower() if ignore_case else actual == expected
        return then(position + len(expected)) if same else None

    return match


def _text_start(state: _State, position: int, then: _Next) -> int | None:
    return then(position) if position == 0 else None


def _line_start(state: _State, position: int, then: _Next) -> int | None:
    return then(position) if position == 0 or state.text[position - 1] == "\n" else None


def _very_end(state: _State, position: int, then: _Next) -> int | None:
    return then(position) if position == len(state.text) else None


def _text_end(state: _State, position: int, then: _Next) -> int | None:
    last = len(state.text)
    return then(position) if position == last or (position == last - 1 and state.text[position] == "\n") else None


def _line_end(state: _State, position: int, then: _Next) -> int | None:
    return then(position) if position == len(state.text) or state.text[position] == "\n" else None


def _boundary(positive: bool, word: _Test) -> _Matcher:
    def match(state: _State, position: int, then: _Next) -> int | None:
        before = position > 0 and word(state.text[position - 1])
        after = position < len(state.text) and word(state.text[position])
        return then(position) if (before != after) is positive else None

    return match
