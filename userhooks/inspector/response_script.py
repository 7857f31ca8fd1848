"""Response scripts: how an inbox answers the webhooks it receives.

Pure. ingest.py waits and sends the responses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from userhooks.errors import InvalidInput

Effect = Literal["hang", "drip", "reset", "redirect", "oversized"]
"""A response other than a plain status.

`hang`: send nothing until the sender disconnects. `drip`: 200, with a body of one byte per second. `reset`: close the connection without a
response (TCP RST). `redirect`: 302 to the inbox itself. `oversized`: 200 with a body of OVERSIZED_BYTES.
"""

DRIP_BYTES = 60
"""Length of a `drip` body. At one byte per second, the response takes longer than senders wait."""

OVERSIZED_BYTES = 1 << 20

LONGEST_DELAY = 300.0
"""Maximum delay of a response in seconds, longer than any sender waits."""

LONGEST_RETRY_AFTER = 86_400
LONGEST_BODY = 64 << 10
"""Maximum bytes of a rule's body in UTF-8."""

MOST_HEADERS = 50
LONGEST_HEADER = 4_096
"""Maximum characters of a header's value; a name may have 100."""

MOST_RULES = 100
_MOST = 1_000_000_000
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?|")
_SET_BY_THE_INSPECTOR = frozenset(
    "connection content-length keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade".split()
)
"""Headers that a rule may not set, because they describe the connection or the length of the body."""

_EXAMPLE = 'For example: {"script": [{"first": 3, "status": 500}, {"percent": 5, "seed": 7, "status": 429, "retry_after": 2}]}.'
_ANSWER_FIELDS = ("status", "delay", "retry_after", "headers", "body")
_FIELDS = ("first", "every", "percent", "seed", *_ANSWER_FIELDS, "effect")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a response script: at most one condition, and a response.

    `first` matches the first N requests since the script was set, and `every` matches every Nth one. `percent` matches that percentage of
    requests, selected only by `seed` and the request's number, so that a repeated run selects the same ones. A rule without a condition
    matches every request.

    The response is `status` after `delay` seconds, with `retry_after` seconds as Retry-After, `headers` (pairs of name and value), and
    `body`; or it is an `effect`.
    """

    first: int | None = None
    every: int | None = None
    percent: float | None = None
    seed: int = 0
    status: int = 200
    delay: float = 0.0
    retry_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    effect: Effect | None = None

    def holds_for(self, nth: int) -> bool:
        """Return whether the rule matches the `nth` request (1, 2, …) since the script was set."""
        if self.first is not None:
            return nth <= self.first
        if self.every is not None:
            return nth % self.every == 0
        return self.percent is None or _chance(self.seed, nth) * 100 < self.percent

    def condition(self) -> str:
        """Return the condition in words: `first 3`, `every 10`, `5 % by seed 7`, or `always`."""
        if self.first is not None:
            return f"first {self.first}"
        if self.every is not None:
            return f"every {self.every}"
        return "always" if self.percent is None else f"{self.percent:g} % by seed {self.seed}"

    def outcome(self) -> str:
        """Return the response in words: `500`, `429 with Retry-After 2`, `200 after 0.5 s`, `reset`."""
        if self.effect is not None:
            return self.effect
        after = f" after {self.delay:g} s" if self.delay else ""
        extras = [] if self.retry_after is None else [f"Retry-After {self.retry_after}"]
        extras += [f"{len(self.headers)} header{'s' if len(self.headers) > 1 else ''}"] if self.headers else []
        extras += [f"a body of {_bytes_in_words(len(self.body.encode()))}"] if self.body else []
        return f"{self.status}{after}" + (f" with {' and '.join(extras)}" if extras else "")

    def as_json(self) -> dict[str, Any]:
        """Return the rule as `parse_script` reads it, without fields that have no effect."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("first", "every") if getattr(self, name) is not None}
        if self.percent is not None:
            fields |= {"percent": self.percent, "seed": self.seed}
        if self.effect is not None:
            return fields | {"effect": self.effect}
        fields["status"] = self.status
        if self.delay:
            fields["delay"] = self.delay
        if self.retry_after is not None:
            fields["retry_after"] = self.retry_after
        if self.headers:
            fields["headers"] = dict(self.headers)
        return fields | {"body": self.body} if self.body else fields


Script = tuple[Rule, ...]
"""Rules in order of priority: the first that matches a request decides. If none matches, the response is 200 immediately."""


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """The response to one request; `words` describes it and the rule: `500, rule 1: first 3`."""

    words: str
    status: int = 200
    delay: float = 0.0
    retry_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    effect: Effect | None = None


NO_RULE = ScriptedAnswer("200, no rule")


def decide(script: Script, nth: int) -> ScriptedAnswer:
    """Return the response to the `nth` request (1, 2, …) since the script was set."""
    for number, rule in enumerate(script, 1):
        if rule.holds_for(nth):
            words = f"{rule.outcome()}, rule {number}: {rule.condition()}"
            status = 302 if rule.effect == "redirect" else rule.status
            return ScriptedAnswer(words, status, rule.delay, rule.retry_after, rule.headers, rule.body, rule.effect)
    return NO_RULE


def describe_script(script: Script) -> list[str]:
    """Return the script in words, one line per rule: `first 3: 500`, `always: 200`."""
    lines = [f"{rule.condition()}: {rule.outcome()}" for rule in script]
    return lines if "always" in {rule.condition() for rule in script} else [*lines, f"{'else' if lines else 'always'}: 200"]


def parse_script(rules: object) -> Script:
    """Parse a list of rules as decoded from JSON; raises InvalidInput, which names the rule and the field."""
    if not isinstance(rules, Sequence) or isinstance(rules, (str, bytes)):
        raise InvalidInput("script", f"script is {_short(rules)}.", f"It must be a list of rules; [] answers 200 immediately. {_EXAMPLE}")
    if len(rules) > MOST_RULES:
        raise InvalidInput("script", f"script has {len(rules)} rules.", f"It may have at most {MOST_RULES}.")
    return tuple(_rule(f"script[{number}]", rule) for number, rule in enumerate(rules))


def _rule(where: str, rule: object) -> Rule:
    if not isinstance(rule, Mapping):
        raise InvalidInput(where, f"{where} is {_short(rule)}.", f"Each rule must be a JSON object. {_EXAMPLE}")
    for key in rule:
        if key not in _FIELDS:
            raise InvalidInput(f"{where}.{key}", f"A rule has no field {key!r}.", f"The fields are {', '.join(_FIELDS)}.")
    conditions = [name for name in ("first", "every", "percent") if name in rule]
    if len(conditions) > 1:
        raise InvalidInput(where, f"{where} has {' and '.join(conditions)}.", "A rule has at most one condition. Write a rule for each.")
    if "seed" in rule and "percent" not in rule:
        raise InvalidInput(f"{where}.seed", f"{where} has seed but not percent.", "Add percent or remove seed.")
    if "effect" in rule and (others := [name for name in _ANSWER_FIELDS if name in rule]):
        raise InvalidInput(
            f"{where}.effect",
            f"{where} has effect and {', '.join(others)}.",
            "Use either an effect, or status with delay, retry_after, headers, and body.",
        )
    effect = rule.get("effect")
    if "effect" in rule and effect not in get_args(Effect):
        raise InvalidInput(f"{where}.effect", f"{where}.effect is {_short(effect)}.", f"It must be one of {', '.join(get_args(Effect))}.")
    status = _whole(where, rule, "status", 200, 100, 599) or 200
    return Rule(
        first=_whole(where, rule, "first", None, 0, _MOST),
        every=_whole(where, rule, "every", None, 1, _MOST),
        percent=_number(where, rule, "percent", None, 100),
        seed=_whole(where, rule, "seed", 0, -(1 << 63), (1 << 63) - 1) or 0,
        status=status,
        delay=_number(where, rule, "delay", 0.0, LONGEST_DELAY) or 0.0,
        retry_after=_whole(where, rule, "retry_after", None, 0, LONGEST_RETRY_AFTER),
        headers=_headers(where, rule),
        body=_body(where, rule, status),
        effect=effect,
    )


def _headers(where: str, rule: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    headers, field = rule.get("headers", {}), f"{where}.headers"
    if not isinstance(headers, Mapping):
        raise InvalidInput(field, f"{field} is {_short(headers)}.", 'It must be an object, like {"content-type": "text/plain"}.')
    if len(headers) > MOST_HEADERS:
        raise InvalidInput(field, f"{field} has {len(headers)} headers.", f"It may have at most {MOST_HEADERS}.")
    names: set[str] = set()
    for name, value in headers.items():
        if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name)):
            remedy = "It must have 1 to 100 letters, digits, and characters of !#$%&'*+-.^_`|~."
            raise InvalidInput(field, f"{field} has the name {_short(name)}.", remedy)
        field_of_value = f"{field}.{name}"
        if name.lower() in _SET_BY_THE_INSPECTOR:
            raise InvalidInput(field_of_value, f"{field} has {name}.", "The inspector sets it or leaves it out. Remove it.")
        if name.lower() in names or (name.lower() == "retry-after" and "retry_after" in rule):
            raise InvalidInput(field_of_value, f"{where} sets the header {name} twice.", "Remove one of them.")
        names.add(name.lower())
        if not (isinstance(value, str) and len(value) <= LONGEST_HEADER and _HEADER_VALUE.fullmatch(value)):
            bounds = f"It must be a string of at most {LONGEST_HEADER:,} printable ASCII characters, without leading or trailing spaces."
            raise InvalidInput(field_of_value, f"{field_of_value} is {_short(value)}.", bounds)
    return tuple(headers.items())


def _body(where: str, rule: Mapping[str, Any], status: int) -> str:
    body, field = rule.get("body", ""), f"{where}.body"
    if not isinstance(body, str):
        raise InvalidInput(field, f"{field} is {_short(body)}.", "It must be a string. For JSON, write the JSON into the string.")
    try:
        size = len(body.encode())
    except UnicodeEncodeError:
        raise InvalidInput(field, f"{field} contains half of a surrogate pair.", "It must be text that UTF-8 can encode.") from None
    if size > LONGEST_BODY:
        raise InvalidInput(field, f"{field} has {size:,} bytes.", f"It may have at most {LONGEST_BODY:,}.")
    if body and (status < 200 or status in (204, 205, 304)):
        raise InvalidInput(field, f"{field} is set, but the status is {status}.", "A response with this status has no body.")
    return body


def _whole(where: str, rule: Mapping[str, Any], name: str, default: int | None, lowest: int, highest: int) -> int | None:
    if name not in rule:
        return default
    value = rule[name]
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        bounds = f"It must be a whole number from {lowest} to {highest}."
        raise InvalidInput(f"{where}.{name}", f"{where}.{name} is {_short(value)}.", bounds)
    return value


def _number(where: str, rule: Mapping[str, Any], name: str, default: float | None, highest: float) -> float | None:
    if name not in rule:
        return default
    value = rule[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= highest:
        raise InvalidInput(f"{where}.{name}", f"{where}.{name} is {_short(value)}.", f"It must be a number from 0 to {highest:g}.")
    return value


def _bytes_in_words(size: int) -> str:
    return "1 byte" if size == 1 else f"{size:,} bytes"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _chance(seed: int, nth: int) -> float:
    """Return a pseudorandom number in [0, 1) that depends only on the seed and the request's number."""
    return int.from_bytes(hashlib.blake2b(b"%d %d" % (seed, nth), digest_size=7).digest()) / (1 << 56)
