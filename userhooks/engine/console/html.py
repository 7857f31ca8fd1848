"""The console's pages: plain values in, HTML out. `routes.py` gathers the values and performs the buttons' actions.

Jinja2 renders `templates/` with autoescape, so that no value becomes markup. `layout.html` is the frame of every page: its style, and
the script that keeps it live. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from userhooks.engine.resources import BackfillResource, Discarded, SinkStatus

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN_SINKS = 100
"""Maximum number of sinks in the overview."""
SHOWN_BACKFILLS = 50
"""Maximum number of backfills on a page."""
SHOWN_DISCARDED = 100
"""Maximum number of discarded messages on a sink's page."""


@dataclass(frozen=True, slots=True)
class SinkRow:
    """A sink as a row of the overview's table.

    `health` is the overall status of the sink's health, `failing` the number of messages waiting for a retry, and `oldest` the age of the
    oldest pending message in seconds. `last_error` says why the last attempt failed, or why the sink is in trouble.
    """

    id: str
    name: str
    status: SinkStatus
    health: str
    pending: int
    failing: int
    delivered: int
    discarded: int
    last_error: str | None
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Slot:
    """The replication slot: its name, and in bytes its retained WAL and the lag of its confirmed position. None means unknown."""

    name: str
    retained: int | None
    lag: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The values on the first page.

    `sinks` are the first sinks whose names contain `find`; `matching` counts all of those, and `total` counts all sinks. `backfills` are
    pairs of a sink's name and its backfill.
    """

    problem: str | None
    slot: Slot
    changes: int
    store_bytes: int
    find: str
    sinks: Sequence[SinkRow]
    matching: int
    total: int
    backfills: Sequence[tuple[str, BackfillResource]]


@dataclass(frozen=True, slots=True)
class SinkDetail:
    """The values on a sink's page: its row, and its health checks, settings by name, discarded messages, and backfills, newest first."""

    row: SinkRow
    attempted: int
    failed: int
    checks: Sequence[Mapping[str, Any]]
    settings: Mapping[str, str]
    discarded: Sequence[Discarded]
    backfills: Sequence[BackfillResource]


def overview(values: Overview, token: str, nonce: str) -> str:
    """Render the first page. Each form contains `token`; the Content-Security-Policy must allow style and script with `nonce`."""
    return _templates().get_template("overview.html").render(overview=values, token=token, nonce=nonce)


def sink_page(values: SinkDetail, token: str, nonce: str) -> str:
    """Render a sink's page; `token` and `nonce` are those of `overview`."""
    return _templates().get_template("sink.html").render(detail=values, token=token, nonce=nonce)


def message(heading: str, text: str, nonce: str) -> str:
    """Render a page that says why something was not found or not done."""
    return _templates().get_template("message.html").render(heading=heading, text=text, nonce=nonce)


def sink_url(name: str) -> str:
    """Return the path of a sink's page."""
    return f"/sinks/{quote(name, safe='')}"


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


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # a console that nobody opens costs neither start time nor memory

    templates = Environment(
        loader=PackageLoader("userhooks.engine.console"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(sink_url=sink_url, backfill_url=_backfill_url)
    templates.filters.update(number=_number, plural=_plural, size=_size, age=_age)
    return templates
