"""What was measured, as values that show themselves: a point for each number of users, and the card of a machine. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from userhooks.shared.extras import lab_extra

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Point:
    """What so many subscribed users cost.

    `create_seconds`: to subscribe those that came on top of the point before. `webhooks_per_second`: rows over all users, one message per
    request. `engine_us`: CPU time of the engine for one change, in microseconds; `engine_mb` its memory; both None on a real Sequin.
    `p50_ms`, `p99_ms`: commit to receipt at `rate` rows a second.
    """

    users: int
    create_seconds: float
    webhooks_per_second: float
    engine_us: float | None
    p50_ms: float
    p99_ms: float
    rate: float
    engine_mb: float | None


@dataclass(frozen=True)
class Card:
    """What a machine delivers; latencies in milliseconds from commit to receipt at `rate` rows a second, memory in MB.

    `batched_per_second` is None where there were too many users to change their sinks for it.
    """

    machine: str
    versions: str
    users: int
    webhooks_per_second: float
    batched_per_second: float | None
    rate: float
    p50_ms: float
    p99_ms: float
    engine_us: float | None
    engine_mb: float | None

    def __repr__(self) -> str:
        return f"Card({'; '.join(f'{name} {value}' for name, value in self._lines())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align: left">{html.escape(name)}</th><td style="text-align: left">{html.escape(value)}</td></tr>'
            for name, value in self._lines()
        )
        return f"<table><caption>Capacity of this machine</caption>{rows}</table>"

    def _lines(self) -> list[tuple[str, str]]:
        lines = [
            ("machine", self.machine),
            ("versions", self.versions),
            ("users", f"{self.users:,}"),
            ("one message per request", f"{self.webhooks_per_second:,.0f} webhooks/s"),
            *([("100 per request", f"{self.batched_per_second:,.0f} messages/s")] if self.batched_per_second is not None else []),
            (f"commit to receipt at {self.rate:,.0f} rows/s", f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"),
        ]
        if self.engine_us is not None and self.engine_mb is not None:
            lines.append(("the engine", f"{self.engine_us:.0f} µs CPU for a change, {self.engine_mb:.0f} MB"))
        return lines


def frame(points: Iterable[Point]) -> pd.DataFrame:
    """The points as a table, one line for each number of users, columns as in `Point`; what is not known is missing."""
    with lab_extra():
        import pandas as pd

    table = pd.DataFrame([asdict(point) for point in points], columns=list(Point.__dataclass_fields__))
    return table.astype({"users": "int64"} | {name: "float64" for name in table.columns if name != "users"})
