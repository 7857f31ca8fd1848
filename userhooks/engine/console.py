"""The status page of the engine: sinks, what they owe, what went wrong last. Pure: an engine's counters in, HTML out."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from userhooks.engine.app import Engine

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
th.n { text-align: right; }
.wrong { font-weight: 600; }
"""


def page(engine: Engine) -> str:
    """Return the page; every value is escaped."""
    problem = f'<p class="wrong">{escape(engine.reader.problem)}</p>' if engine.reader.problem else "<p>Reading the replication slot.</p>"
    slot = engine.reader.slot
    kept = f"<p>The slot <code>{escape(engine.config.slot)}</code> keeps {slot.retained / 1e6:,.1f} MB of WAL.</p>" if slot else ""
    rows = []
    for sink in engine.catalog.sinks.values():
        delivery = engine.delivery(sink.id)
        cells = [
            f"<td>{escape(sink.name)}</td>",
            f"<td>{escape(sink.status)}</td>",
            *(f'<td class="n">{n:,}</td>' for n in (delivery.pending, delivery.retrying, delivery.delivered, delivery.failed)),
            f"<td>{escape(delivery.last_error or '')}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col"{" class=n" if n else ""}>{t}</th>' for t, n in _COLUMNS)
    sinks = f"<table><caption>Sinks</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    if not rows:
        sinks = "<p>There are no sinks yet.</p>"
    backfills = "".join(
        f"<li>{escape(engine.catalog.sinks[b.sink_id].name)}, {escape('.'.join(b.table))}: {escape(b.state)}, "
        f"{b.rows_processed_count:,} of {'?' if b.rows_initial_count is None else format(b.rows_initial_count, ',')} rows</li>"
        for b in engine.catalog.backfills.values()
        if b.sink_id in engine.catalog.sinks
    )
    history = f"<h2>Backfills</h2><ul>{backfills}</ul>" if backfills else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta http-equiv="refresh" content="5">'
        f"<title>userhooks engine</title><style>{_STYLE}</style></head>"
        f"<body><h1>The local engine</h1>{problem}{kept}{sinks}{history}</body></html>"
    )


_COLUMNS = (
    ("sink", False),
    ("status", False),
    ("pending", True),
    ("retrying", True),
    ("delivered", True),
    ("failed attempts", True),
    ("last error", False),
)
