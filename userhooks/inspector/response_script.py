"""What an inbox answers to the webhooks that it receives: the response script, and the answer to the n-th request.

Pure; waiting and sending live in ingest.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from userhooks.errors import InvalidInput

Effect = Literal["hang", "drip", "reset", "redirect", "oversized"]
"""`hang`: never answer, until the sender leaves. `drip`: 200, and the body comes one byte a second. `reset`: close the connection without
an answer (TCP RST). `redirect`: 302 to the inbox itself. `oversized`: 200 with a body of OVERSIZED_BYTES."""

DRIP_BYTES = 60
"""The length of a dripping body; at one byte a second longer than senders wait."""

OVERSIZED_BYTES = 1 << 20

LONGEST_DELAY = 300.0
"""Seconds; longer than any sender waits."""

LONGEST_RETRY_AFTER = 86_400
MOST_RULES = 100
_MOST = 1_000_000_000

_EXAMPLE = 'Send for example {"script": [{"first": 3, "status": 500}, {"percent": 5, "seed": 7, "status": 429, "retry_after": 2}]}.'
_FIELDS = ("first", "every", "percent", "seed", "status", "delay", "retry_after", "effect")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a response script: a condition (at most one of `first`, `every`, `percent`; none: always) and what is done then.

    `first`: the first so many requests since the script was set. `every`: each k-th since then. `percent`: so many of a hundred, chosen by
    `seed` and the request's number alone, so that a repetition of the run chooses the same. `status` after `delay` seconds, with
    `retry_after` seconds as Retry-After; or else an `effect`.
    """

    first: int | None = None
    every: int | None = None
    percent: float | None = None
    seed: int = 0
    status: int = 200
    delay: float = 0.0
    retry_after: int | None = None
    effect: Effect | None = None

    def holds_for(self, nth: int) -> bool:
        """Whether the rule is for the `nth` request (1, 2, …) since the script was set."""
        if self.first is not None:
            return nth <= self.first
        if self.every is not None:
            return nth % self.every == 0
        return self.percent is None or _chance(self.seed, nth) * 100 < self.percent

    def condition(self) -> str:
        """When, in words: `first 3`, `every 10`, `5 % by seed 7` or `always`."""
        if self.first is not None:
            return f"first {self.first}"
        if self.every is not None:
            return f"every {self.every}"
        return "always" if self.percent is None else f"{self.percent:g} % by seed {self.seed}"

    def outcome(self) -> str:
        """What is done, in words: `500`, `429 with Retry-After 2`, `200 after 0.5 s`, `reset`."""
        if self.effect is not None:
            return self.effect
        after = f" after {self.delay:g} s" if self.delay else ""
        return f"{self.status}{after}" + ("" if self.retry_after is None else f" with Retry-After {self.retry_after}")

    def as_json(self) -> dict[str, Any]:
        """The rule as `parse_script` reads it, without what does not matter."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in ("first", "every") if getattr(self, name) is not None}
        if self.percent is not None:
            shown |= {"percent": self.percent, "seed": self.seed}
        if self.effect is not None:
            return shown | {"effect": self.effect}
        shown["status"] = self.status
        if self.delay:
            shown["delay"] = self.delay
        return shown if self.retry_after is None else shown | {"retry_after": self.retry_after}


Script = tuple[Rule, ...]
"""The first rule that holds for a request decides; when none does, 200 at once."""


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """What is done with one request, and why in `words`: `500, rule 1: first 3`."""

    words: str
    status: int = 200
    delay: float = 0.0
    retry_after: int | None = None
    effect: Effect | None = None


NO_RULE = ScriptedAnswer("200, no rule")


def decide(script: Script, nth: int) -> ScriptedAnswer:
    """The answer to the `nth` request (1, 2, …) since the script was set."""
    for number, rule in enumerate(script, 1):
        if rule.holds_for(nth):
            words = f"{rule.outcome()}, rule {number}: {rule.condition()}"
            return ScriptedAnswer(words, 302 if rule.effect == "redirect" else rule.status, rule.delay, rule.retry_after, rule.effect)
    return NO_RULE


def in_words(script: Script) -> list[str]:
    """What the script does, one line for each rule: `first 3: 500`, `always: 200`."""
    rules = [f"{rule.condition()}: {rule.outcome()}" for rule in script]
    return rules if "always" in {rule.condition() for rule in script} else [*rules, f"{'else' if rules else 'always'}: 200"]


def parse_script(rules: object) -> Script:
    """Read a list of rules as JSON has them; raises InvalidInput, which names the field and the rule."""
    if not isinstance(rules, Sequence) or isinstance(rules, (str, bytes)):
        raise InvalidInput("script", f"script is {_short(rules)}.", f"It must be a list of rules, [] for 200 at once. {_EXAMPLE}")
    if len(rules) > MOST_RULES:
        raise InvalidInput("script", f"script has {len(rules)} rules.", f"There may be {MOST_RULES}.")
    return tuple(_rule(f"script[{number}]", rule) for number, rule in enumerate(rules))


def _rule(where: str, rule: object) -> Rule:
    if not isinstance(rule, Mapping):
        raise InvalidInput(where, f"{where} is {_short(rule)}.", f"Each rule is a JSON object. {_EXAMPLE}")
    for key in rule:
        if key not in _FIELDS:
            raise InvalidInput(f"{where}.{key}", f"{key!r} is no field of a rule.", f"The fields are {', '.join(_FIELDS)}.")
    conditions = [name for name in ("first", "every", "percent") if name in rule]
    if len(conditions) > 1:
        raise InvalidInput(where, f"{where} has {' and '.join(conditions)}.", "A rule has one condition; write two rules.")
    if "seed" in rule and "percent" not in rule:
        raise InvalidInput(f"{where}.seed", f"{where} has a seed without percent.", "Add percent, or leave seed out.")
    if "effect" in rule and (others := [name for name in ("status", "delay", "retry_after") if name in rule]):
        raise InvalidInput(
            f"{where}.effect", f"{where} has effect and {', '.join(others)}.", "Give a status (and delay, retry_after) or an effect."
        )
    effect = rule.get("effect")
    if "effect" in rule and effect not in get_args(Effect):
        raise InvalidInput(f"{where}.effect", f"{where}.effect is {_short(effect)}.", f"It is one of {', '.join(get_args(Effect))}.")
    return Rule(
        first=_whole(where, rule, "first", None, 0, _MOST),
        every=_whole(where, rule, "every", None, 1, _MOST),
        percent=_number(where, rule, "percent", None, 100),
        seed=_whole(where, rule, "seed", 0, -(1 << 63), (1 << 63) - 1) or 0,
        status=_whole(where, rule, "status", 200, 100, 599) or 200,
        delay=_number(where, rule, "delay", 0.0, LONGEST_DELAY) or 0.0,
        retry_after=_whole(where, rule, "retry_after", None, 0, LONGEST_RETRY_AFTER),
        effect=effect,
    )


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


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _chance(seed: int, nth: int) -> float:
    """A number from 0 to below 1 that looks random, and is the same for the same seed and number."""
    return int.from_bytes(hashlib.blake2b(b"%d %d" % (seed, nth), digest_size=7).digest()) / (1 << 56)
