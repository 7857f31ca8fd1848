"""Renders the console's pages from plain values. `page_values.py` gathers the values, and `routes.py` performs the buttons' actions.

Jinja2 renders `templates/` with autoescape, so that no value becomes markup. `layout.html` is the frame of every page: its style, and
the script that keeps it live. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from userhooks.engine.console.rate_chart import HEIGHT, MINUTES, WIDTH, RateChart
from userhooks.engine.console.recent_messages import RecentMessage
from userhooks.engine.resources import BackfillResource, Discarded, SinkStatus

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN_SINKS = 100
"""Maximum number of sinks in the overview."""
SHOWN_BACKFILLS = 50
"""Maximum number of backfills on a page."""
SHOWN_DISCARDED = 100
"""Maximum number of discarded messages on a sink's page."""


STATES = {"failing": "bad", "retrying": "warn", "paused": "warn", "healthy": "good", "idle": "idle", "disabled": "idle"}
"""The possible states of a sink, each with its color in the style sheet, in the order in which the overview lists them.

A sink is failing if its last attempt failed or messages were discarded, retrying if an earlier attempt failed, and idle if nothing is
pending and nothing was sent in the last few minutes.
"""


@dataclass(frozen=True, slots=True)
class PageFrame:
    """The values that every page needs.

    `parts` maps the names of the stack's parts to their states. Each form contains the CSRF `token`, and the page's content security policy
    allows only styles and scripts with the `nonce`.
    """

    parts: Mapping[str, str]
    has_inspector: bool
    token: str
    nonce: str


@dataclass(frozen=True, slots=True)
class SinkRow:
    """A sink as a row of the overview's table.

    `state` is one of `STATES`, `user` the user that its annotations name, and `url` its URL without possible secrets. `failing` is the
    number of messages waiting for a retry, and `oldest` the age of the oldest pending message in seconds. `last_error` says why the last
    attempt failed, or why the sink is in trouble.
    """

    id: str
    name: str
    user: str | None
    url: str
    status: SinkStatus
    state: str
    pending: int
    failing: int
    delivered: int
    discarded: int
    last_error: str | None
    oldest: float | None
    chart: RateChart


@dataclass(frozen=True, slots=True)
class Slot:
    """The replication slot: its name, its retained WAL in bytes, and the lag of its confirmed position in bytes. None means unknown."""

    name: str
    retained: int | None
    lag: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The values on the first page.

    `sinks` are the first sinks whose state is `state` (any state if it is empty) and whose name or user contains `find`; `matching` is the
    number of all such sinks. `states` counts the sinks that match `find` by state, and `total` is the number of all sinks. `backfills` are
    pairs of a sink's name and its backfill.
    """

    problem: str | None
    slot: Slot
    changes: int
    store_bytes: int
    find: str
    state: str
    sinks: Sequence[SinkRow]
    states: Mapping[str, int]
    total: int
    backfills: Sequence[tuple[str, BackfillResource]]

    @property
    def matching(self) -> int:
        """Number of sinks that match both `find` and `state`."""
        return self.states.get(self.state, 0) if self.state else sum(self.states.values())


@dataclass(frozen=True, slots=True)
class OpenedMessage:
    """The message whose body the page shows; it may no longer be among the recent messages.

    `body` consists of (kind, text) pairs. If it is empty, `problem` says why.
    """

    message: RecentMessage
    body: Sequence[tuple[str, str]]
    problem: str | None


@dataclass(frozen=True, slots=True)
class SinkDetail:
    """The values on a sink's page: its row, and its health checks, settings by name, discarded messages, and backfills, newest first.

    `full_url` is set if it was requested, and `is_masked` is whether the row's URL hides any part of it. `opened_id` is the id of the
    requested message, and `opened` is None if that message is no longer known. `counted_since` is in Unix time.
    """

    row: SinkRow
    attempted: int
    failed: int
    counted_since: int | None
    full_url: str | None
    is_masked: bool
    messages: Sequence[RecentMessage]
    opened_id: str
    opened: OpenedMessage | None
    checks: Sequence[Mapping[str, Any]]
    settings: Mapping[str, str]
    discarded: Sequence[Discarded]
    backfills: Sequence[BackfillResource]


def sink_rows(values: Overview, frame: PageFrame) -> Iterator[str]:
    """Render the rows of the overview's table one by one, since rendering a hundred takes up to 20 ms."""
    template = _templates().get_template("sink_row.html")
    for sink in values.sinks:
        yield template.render(sink=sink, overview=values, frame=frame)


def overview(values: Overview, frame: PageFrame, rows: Iterable[str] | None = None) -> str:
    """Render the first page; `rows` are the results of `sink_rows` if they have already been rendered."""
    from markupsafe import Markup

    safe = [Markup(row) for row in (sink_rows(values, frame) if rows is None else rows)]  # noqa: S704  # rendered with autoescape
    return _templates().get_template("overview.html").render(overview=values, frame=frame, rows=safe)


def sink_page(values: SinkDetail, frame: PageFrame) -> str:
    """Render a sink's page."""
    return _templates().get_template("sink.html").render(detail=values, frame=frame)


def message(heading: str, text: str, frame: PageFrame) -> str:
    """Render a page that says why something was not found or not done."""
    return _templates().get_template("message.html").render(heading=heading, text=text, frame=frame)


def sink_url(name: str, message_id: str = "", *, shows_url: bool = False) -> str:
    """Return the path of a sink's page. `message_id` opens that message, and `shows_url` shows the sink's full URL."""
    query = urlencode({key: value for key, value in {"message": message_id, "show": "url" if shows_url else ""}.items() if value})
    return f"/sinks/{quote(name, safe='')}" + (f"?{query}" if query else "")


def overview_url(find: str = "", state: str = "") -> str:
    """Return the path of the first page, limited to the sinks that match."""
    query = urlencode({key: value for key, value in {"find": find, "state": state}.items() if value})
    return f"/?{query}" if query else "/"


# --- what the templates use ----------------------------------------------------------------------------------------------


def _backfill_url(sink_name: str, backfill_id: str) -> str:
    return f"{sink_url(sink_name)}/backfills/{quote(backfill_id, safe='')}"


def _number(n: int) -> str:
    return f"{n:,}"


def _plural(n: int, noun: str) -> str:
    return f"{_number(n)} {noun}" if n == 1 else f"{_number(n)} {noun}s"


def _size(n: int | None) -> str:
    if n is None:
        return "unknown"
    size = float(n)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _reason(status: int) -> str:
    """Return the reason phrase of an HTTP status; empty if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 or per_second == 0 else f"{per_second:.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.001 else "< 1 ms"  # the event loop's clock ticks in milliseconds


def _clock(unix: float) -> str:
    """Show a time of day in UTC with milliseconds."""
    return datetime.fromtimestamp(unix, UTC).strftime("%H:%M:%S.%f")[:-3]


def _moment(unix: float) -> str:
    """Show a day and a time of day in UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _timestamp(unix: float) -> str:
    """Show a time in ISO 8601, in UTC with milliseconds."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # imported late, so that an unopened console costs no time or memory
    from markupsafe import Markup

    templates = Environment(
        loader=PackageLoader("userhooks.engine.console"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    theme = Markup((files("userhooks.web") / "theme.css").read_text(encoding="utf-8"))  # noqa: S704  # a file of this package
    templates.globals.update(
        theme=theme, sink_url=sink_url, overview_url=overview_url, backfill_url=_backfill_url, states=STATES, minutes=MINUTES
    )
    templates.globals.update(chart_width=WIDTH, chart_height=HEIGHT, reason=_reason)
    templates.filters.update(number=_number, plural=_plural, size=_size, age=_age, rate=_rate, milliseconds=_milliseconds)
    templates.filters.update(clock=_clock, moment=_moment, timestamp=_timestamp)
    return templates
