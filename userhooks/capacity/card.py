"""Results of the measurements, as notebooks display them: a point per number of users, and a machine's capacity card. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from userhooks.shared.extras import lab_extra
from userhooks.shared.html_table import html_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Point:
    """Measured cost of serving a number of subscribed users.

    `create_seconds` is the time to subscribe the users added since the previous point. `webhooks_per_second` is measured with rows for all
    users in turn and one message per request. `engine_us` is the engine's CPU time per change in microseconds, and `engine_mb` its memory;
    both are None if a real Sequin server is used. `p50_ms` and `p99_ms` are latencies from commit to receipt at `rate` rows per second.
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
    """Capacity of a machine.

    Latencies are from commit to receipt at `rate` rows per second, and memory is in MB. `batched_per_second` is None if batches were not
    measured. With many users, changing every sink takes too long; a real Sequin server would resend messages after the change.
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
        return html_table("Capacity of this machine", dict(self._lines()))

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
            lines.append(("engine", f"{self.engine_us:.0f} µs CPU per change, {self.engine_mb:.0f} MB"))
        return lines


def frame(points: Iterable[Point]) -> pd.DataFrame:
    """Return the points as a DataFrame with the fields of `Point` as columns; unknown values are NaN."""
    with lab_extra():
        import pandas as pd

    table = pd.DataFrame([asdict(point) for point in points], columns=list(Point.__dataclass_fields__))
    return table.astype({"users": "int64"} | {name: "float64" for name in table.columns if name != "users"})
