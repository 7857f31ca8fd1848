"""The console's pages: plain values in, HTML out, every value escaped. Pure; whence the values come and what buttons do is in `routes.py`.

The shell around them (style, the script that keeps a page live) is `console.html`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from userhooks.engine.resources import BackfillResource, Discarded, SinkStatus

_SHELL = (files("userhooks.engine.console") / "console.html").read_text(encoding="utf-8")
SHOWN_SINKS = 100
SHOWN_BACKFILLS = 50
SHOWN_DISCARDED = 100


@dataclass(frozen=True, slots=True)
class SinkRow:
    """What one row of the sinks' table shows. `health` is the overall one; `failing`: messages that wait for another attempt.

    `says`: why it is paused or what the last attempt failed with. `oldest` is the age in seconds of the oldest message that is owed.
    """

    id: str
    name: str
    status: SinkStatus
    health: str
    pending: int
    failing: int
    delivered: int
    discarded: int
    says: str | None
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot's name, and in bytes what it keeps and how far its confirmed position is behind the WAL's end; None when not known."""

    name: str
    retained: int | None
    lag: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows. `sinks` are the worst of the `matching` ones with `find` in their names, `all` counts all sinks.

    `backfills` come with the names of their sinks, newest first.
    """

    problem: str | None
    slot: Slot
    changes: int
    store_bytes: int
    find: str
    sinks: Sequence[SinkRow]
    matching: int
    all: int
    backfills: Sequence[tuple[str, BackfillResource]]


@dataclass(frozen=True, slots=True)
class SinkDetail:
    """What a sink's page shows beside its row: checks of its health, settings by name, what was given up, backfills newest first."""

    row: SinkRow
    attempted: int
    failed: int
    checks: Sequence[Mapping[str, Any]]
    settings: Mapping[str, str]
    discarded: Sequence[Discarded]
    backfills: Sequence[BackfillResource]


# --- pages -------------------------------------------------------------------------------------------------------------


def shell(title: str, main: str, nonce: str) -> str:
    """Return a whole page; `main` is HTML, `title` text. Script and style run only under a CSP that has the nonce."""
    given = {"title": escape(title), "main": main, "nonce": escape(nonce)}
    return re.sub(r"\{(title|main|nonce)\}", lambda match: given[match[1]], _SHELL)


def overview(seen: Overview, token: str) -> str:
    """Return the first page's main part; `token` goes into each form."""
    fine = '<p class="healthy">Reading the replication slot.</p>'
    state = f'<p class="problem">{escape(seen.problem)}</p>' if seen.problem else fine
    facts = [
        ("Slot", f"<code>{escape(seen.slot.name)}</code>"),
        ("Slot lag", _bytes(seen.slot.lag)),
        ("Retained WAL", _bytes(seen.slot.retained)),
        ("Changes read", f"{seen.changes:,}"),
        ("Store", _bytes(seen.store_bytes)),
        ("Sinks", f"{seen.all:,}"),
    ]
    return f"<h1>Userhooks engine</h1>{state}{_facts(facts)}{_sinks(seen, token)}{_latest_backfills(seen)}"


def sink_page(seen: SinkDetail, token: str) -> str:
    """Return the main part of a sink's page."""
    row = seen.row
    says = f'<p class="problem">{escape(row.says)}</p>' if row.says else ""
    facts = [
        ("Status", _state(row.health)),
        ("Pending", f"{row.pending:,}"),
        ("Failing", f"{row.failing:,}"),
        ("Delivered", f"{row.delivered:,}"),
        ("Discarded", f"{row.discarded:,}"),
        ("Oldest message", _age(row.oldest) or "none"),
        ("Attempts", f"{seen.attempted:,}, {seen.failed:,} failed"),
    ]
    checks = _table(
        "Health",
        "",
        (("Check", ""), ("Status", ""), ("What is wrong", "")),
        [
            (f"check-{n}", [_th(str(check["name"])), _td(_state(str(check["status"]))), _td(escape(str(check.get("error", ""))), "says")])
            for n, check in enumerate(seen.checks)
        ],
    )
    settings = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in seen.settings.items())
    return (
        f'<p><a href="/">All sinks</a></p><h1>{escape(row.name)}</h1>{says}{_facts(facts)}'
        f'<p class="does">{_sink_form(row, token, None)}</p>{checks}'
        f"{_discarded(seen, token)}{_backfills_of(seen, token)}"
        f'<h2>Settings</h2><dl class="settings">{settings}</dl>'
    )


def message(heading: str, text: str) -> str:
    """Return the main part of a page that says why something is not there or was not done."""
    return f'<h1>{escape(heading)}</h1><p class="problem">{escape(text)}</p><p><a href="/">All sinks</a></p>'


def sink_url(name: str) -> str:
    """Return the path of a sink's page."""
    return f"/sinks/{quote(name, safe='')}"


# --- sinks -------------------------------------------------------------------------------------------------------------

_SINK_COLUMNS = (
    ("Sink", ""),
    ("Status", ""),
    ("Pending", "n"),
    ("Failing", "n"),
    ("Delivered", "n"),
    ("Discarded", "n"),
    ("Oldest message", "n"),
    ("Last error", ""),
    ("Actions", ""),
)


def _sinks(seen: Overview, token: str) -> str:
    find = (
        '<form method="get" action="/" role="search"><label for="find">Find a sink</label> '
        f'<input id="find" name="find" value="{escape(seen.find)}" autocomplete="off" placeholder="part of its name"> '
        "<button>Find</button></form>"
    )
    if not seen.all:
        return "<h2>Sinks</h2><p>There are no sinks yet.</p>"
    if not seen.matching:
        return f'<h2>Sinks</h2>{find}<p>No sink has “{escape(seen.find)}” in its name. <a href="/">All sinks</a></p>'
    rest = seen.matching - len(seen.sinks)
    whose = f"{seen.matching:,} of {seen.all:,} sinks" if seen.find else _count(seen.all, "sink")
    caption = f"{whose}; the {len(seen.sinks)} worst are shown, failing first, {rest:,} more are not" if rest else f"{whose}, failing first"
    rows = [(f"sink-{row.id}", _sink_cells(row, token, seen.find)) for row in seen.sinks]
    return f"<h2>Sinks</h2>{find}" + _table("", caption, _SINK_COLUMNS, rows)


def _sink_cells(row: SinkRow, token: str, find: str) -> list[str]:
    return [
        _linked(row.name),
        _td(_state("disabled" if row.status == "disabled" else row.health)),
        *(_td(f"{n:,}", "n") for n in (row.pending, row.failing, row.delivered, row.discarded)),
        _td(_age(row.oldest), "n"),
        _td(escape(row.says or ""), "says"),
        _td(_sink_form(row, token, find), "does"),
    ]


def _sink_form(row: SinkRow, token: str, find: str | None) -> str:
    """Return the buttons of a sink; `find` (from the list) is where the answer leads back to, None from the sink's own page."""
    buttons = []
    if row.status == "active":
        buttons.append(_button("pause", "Pause", row.name))
    elif row.status == "paused":
        buttons.append(_button("resume", "Resume", row.name))
    if row.discarded and row.status != "disabled":
        buttons.append(_button("redeliver", "Redeliver all", f"that {row.name} gave up"))
    if not buttons:
        return ""
    hidden = {} if find is None else {"find": find}
    return _form(sink_url(row.name), token, hidden, buttons)


# --- what was given up -------------------------------------------------------------------------------------------------


def _discarded(seen: SinkDetail, token: str) -> str:
    if not seen.row.discarded:
        return "<h2>Discarded messages</h2><p>None.</p>"
    if not seen.discarded:
        return f"<h2>Discarded messages</h2><p>{_count(seen.row.discarded, 'message')}.</p>"
    url = sink_url(seen.row.name)
    rows = [
        (
            f"discarded-{message.id}",
            [
                _th(message.table),
                _td(f"<code>{escape(message.key)}</code>"),
                _td(escape(message.action)),
                _td(f"{message.attempts:,}", "n"),
                _td(escape(message.error), "says"),
                _td(escape(message.discarded_at)),
                _td(
                    _form(url, token, {"message": str(message.id)}, [_button("redeliver", "Redeliver", f"{message.table} {message.key}")]),
                    "does",
                ),
            ],
        )
        for message in seen.discarded
    ]
    rest = seen.row.discarded - len(rows)
    caption = _count(seen.row.discarded, "message") + (f"; the first {len(rows)} are shown" if rest > 0 else "")
    columns = (("Table", ""), ("Key", ""), ("Action", ""), ("Attempts", "n"), ("Last error", ""), ("Discarded at", ""), ("Actions", ""))
    return _table("Discarded messages", caption, columns, rows)


# --- backfills ---------------------------------------------------------------------------------------------------------

_STEPS = {"active": (("pause", "Pause"), ("cancel", "Cancel")), "paused": (("resume", "Resume"), ("cancel", "Cancel"))}
_BACKFILL_COLUMNS = (("Table", ""), ("State", ""), ("Progress", ""), ("Begun at", ""))


def _latest_backfills(seen: Overview) -> str:
    if not seen.backfills:
        return ""
    rows = [
        (f"backfill-{backfill.id}", [_linked(name), _td(escape(".".join(backfill.table))), *_backfill_cells(backfill)])
        for name, backfill in seen.backfills
    ]
    return _table("Backfills", "active ones first, then the newest", (("Sink", ""), *_BACKFILL_COLUMNS), rows)


def _backfills_of(seen: SinkDetail, token: str) -> str:
    if not seen.backfills:
        return "<h2>Backfills</h2><p>None.</p>"
    rows = []
    for backfill in seen.backfills:
        buttons = [_button(do, label, f"the backfill of {'.'.join(backfill.table)}") for do, label in _STEPS.get(backfill.state, ())]
        form = _form(f"{sink_url(seen.row.name)}/backfills/{quote(backfill.id, safe='')}", token, {}, buttons) if buttons else ""
        rows.append((f"backfill-{backfill.id}", [_th(".".join(backfill.table)), *_backfill_cells(backfill), _td(form, "does")]))
    return _table("Backfills", "newest first", (*_BACKFILL_COLUMNS, ("Actions", "")), rows)


def _backfill_cells(backfill: BackfillResource) -> list[str]:
    done, of = backfill.rows_processed_count, backfill.rows_initial_count
    if of is None:
        progress = f"{done:,} rows"
    else:
        most = max(of, done, 1)
        value = most if backfill.state == "completed" else done
        bar = f'<progress max="{most}" value="{value}" aria-label="Rows of {escape(".".join(backfill.table))}"></progress>'
        progress = f"{bar} {done:,} of {of:,} rows"
    return [_td(_state(backfill.state)), _td(progress), _td(escape(backfill.inserted_at))]


# --- pieces ------------------------------------------------------------------------------------------------------------


def _table(heading: str, caption: str, columns: Iterable[tuple[str, str]], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table; columns are (title, class), rows (id, cells as HTML). The ids tell the script which row is which."""
    head = "".join(f'<th scope="col" class="{kind}">{title}</th>' if kind else f'<th scope="col">{title}</th>' for title, kind in columns)
    body = "".join(f'<tr id="{escape(row_id)}">{"".join(cells)}</tr>' for row_id, cells in rows)
    shown_heading = f"<h2>{heading}</h2>" if heading else ""
    shown_caption = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'{shown_heading}<div class="wide"><table>{shown_caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _th(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _linked(name: str) -> str:
    return f'<th scope="row"><a href="{escape(sink_url(name))}">{escape(name)}</a></th>'


def _td(html: str, kind: str = "") -> str:
    return f'<td class="{kind}">{html}</td>' if kind else f"<td>{html}</td>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return '<dl class="facts">' + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts) + "</dl>"


def _form(url: str, token: str, hidden: Mapping[str, str], buttons: Sequence[str]) -> str:
    fields = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in {"csrf": token, **hidden}.items())
    return f'<form method="post" action="{escape(url)}">{fields}{"".join(buttons)}</form>'


def _button(do: str, label: str, what: str) -> str:
    """A button that says to those who cannot see the row what it is about."""
    return f'<button name="do" value="{do}">{label}<span class="unseen"> {escape(what)}</span></button>'


def _state(word: str) -> str:
    return f'<span class="{escape(word)}">{escape(word)}</span>'


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _bytes(n: int | None) -> str:
    if n is None:
        return "not known yet"
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
