"""What goes wrong at a receiver, as percentages: turned into an inbox's response script, into words, and into the call for a cell. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from userhooks.errors import InvalidInput

RETRY_AFTER = 2
"""Seconds that a 429 asks the sender to wait."""


@dataclass(frozen=True)
class Faults:
    """Shares of the requests, in percent, that are answered 500 (`fails`) or 429 (`busy`), never answered (`hangs`), or cut off (`resets`);
    the others are answered 200. All answers come after `delay` seconds. The same `seed` picks the same requests.

    Raises InvalidInput when the shares are more than 100 together.

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
            raise InvalidInput("faults", f"The faults are {listed} % of the requests.", "Choose shares that are at most 100 together.")

    def script(self) -> list[dict[str, Any]]:
        """The response script. Its rules have one seed and growing percentages, so that each request meets at most one of them."""
        late = {"delay": self.delay} if self.delay else {}
        kinds: list[tuple[float, dict[str, Any]]] = [
            (self.fails, {"status": 500, **late}),
            (self.busy, {"status": 429, "retry_after": RETRY_AFTER, **late}),
            (self.hangs, {"effect": "hang"}),
            (self.resets, {"effect": "reset"}),
        ]
        rules, upto = [], 0.0
        for share, effect in kinds:
            if share:
                upto += share
                rules.append({"percent": upto, "seed": self.seed, **effect})
        return [*rules, {"status": 200, **late}] if late else rules

    def words(self) -> str:
        """What goes wrong: `20 % answered 500, 5 % never answered`; `all is well` when nothing does."""
        kinds = (
            (self.fails, "answered 500"),
            (self.busy, "answered 429"),
            (self.hangs, "never answered"),
            (self.resets, "cut off"),
        )
        said = [f"{share:g} % {what}" for share, what in kinds if share]
        said += [f"answers take {self.delay:g} s"] if self.delay else []
        return ", ".join(said) or "all is well"

    def call(self, user: str) -> str:
        """The same as a line for a cell."""
        script = self.script()
        return f'lesson.inbox("{user}").respond({script if script else ""})'
