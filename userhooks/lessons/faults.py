"""Faults of a receiver as percentages. They are converted to a response script, a description, and a line of code for a cell. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from userhooks.errors import InvalidInput

RETRY_AFTER = 2
"""Seconds in the `Retry-After` header of a 429 response."""


@dataclass(frozen=True)
class Faults:
    """Percentages of requests that go wrong: answered 500 (`fails`) or 429 (`busy`), never answered (`hangs`), or reset (`resets`).

    All other requests are answered 200. Answers are delayed by `delay` seconds. The same `seed` always selects the same requests. Raises
    InvalidInput if the percentages add up to more than 100.

        lesson.inbox("ada").respond(Faults(fails=20, hangs=5).script())
    """

    fails: float = 0.0
    busy: float = 0.0
    hangs: float = 0.0
    resets: float = 0.0
    delay: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        shares = (self.fails, self.busy, self.hangs, self.resets)
        if min(shares) < 0 or sum(shares) > 100:
            listed = " + ".join(f"{share:g}" for share in shares)
            raise InvalidInput("faults", f"The percentages are {listed}.", "Choose percentages of 0 or more that add up to at most 100.")

    def script(self) -> list[dict[str, Any]]:
        """Return the response script.

        Its rules share a seed and have cumulative percentages, so that each fault affects its share of the requests.
        """
        late = {"delay": self.delay} if self.delay else {}
        kinds: list[tuple[float, dict[str, Any]]] = [
            (self.fails, {"status": 500, **late}),
            (self.busy, {"status": 429, "retry_after": RETRY_AFTER, **late}),
            (self.hangs, {"effect": "hang"}),
            (self.resets, {"effect": "reset"}),
        ]
        rules, cumulative = [], 0.0
        for share, effect in kinds:
            if share:
                cumulative += share
                rules.append({"percent": cumulative, "seed": self.seed, **effect})
        return [*rules, {"status": 200, **late}] if late else rules

    def describe(self) -> str:
        """Return a description like `20% answered 500, 5% never answered`, or `no faults`."""
        kinds = (
            (self.fails, "answered 500"),
            (self.busy, "answered 429"),
            (self.hangs, "never answered"),
            (self.resets, "reset"),
        )
        phrases = [f"{share:g}% {what}" for share, what in kinds if share]
        phrases += [f"responses delayed by {self.delay:g} s"] if self.delay else []
        return ", ".join(phrases) or "no faults"

    def call(self, user: str) -> str:
        """Return the line of code that sets these faults for a user's inbox."""
        script = self.script()
        return f'lesson.inbox("{user}").respond({script if script else ""})'
