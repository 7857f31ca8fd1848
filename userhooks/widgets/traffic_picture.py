"""The fault dial's picture: charts of a traffic window as HTML with inline SVG, whose colors follow the page's theme. Pure.

The charts stretch to the page's width, while text keeps its size, because it is HTML positioned by percentages.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from userhooks.lessons.traffic_window import WINDOW_SECONDS, TrafficWindow

SMALLEST_AXIS = 10
"""Smallest upper end of an axis, so that a single row looks small."""

LISTED_MARKS = 12
"""Maximum number of marks in the list below the charts, which shows the newest ones."""

_HEADROOM = 1.08
_STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)

_NARROWEST = 360
"""Width of a chart in pixels below which its flags are hidden; `STYLE` contains the corresponding width of the whole picture."""
_DIGIT_PIXELS, _BADGE_PIXELS = 7, 12

WRITTEN, DELIVERED, REFUSED, WAITING = "#0072b2", "#009e73", "#d55e00", "#8a63d2"
"""Colors with a contrast ratio above 3 on light and dark pages. Lines also differ in style."""

STYLE = """<style>
.userhooks-traffic { color: var(--jp-ui-font-color1, inherit); font-size: 12px; line-height: 1.45; font-variant-numeric: tabular-nums;
  container-type: inline-size; margin-top: 6px; overflow-wrap: anywhere; }
.userhooks-traffic p { margin: 0 0 4px; font-size: 13px; }
.userhooks-traffic .key, .userhooks-traffic .events {
  display: flex; flex-wrap: wrap; gap: 0 18px; margin: 0; padding: 0; list-style: none; }
.userhooks-traffic .key svg { width: 26px; height: 10px; margin-right: 6px; }
.userhooks-traffic .lane { margin-top: 8px; }
.userhooks-traffic .flags, .userhooks-traffic .chart, .userhooks-traffic .times { position: relative; margin: 0 46px 0 56px; }
.userhooks-traffic .flags { height: 18px; }
.userhooks-traffic .flags span {
  position: absolute; top: 0; height: 15px; padding: 0 4px; border: 1px solid currentColor; border-radius: 3px;
  font-size: 11px; line-height: 14px; white-space: nowrap; }
.userhooks-traffic .chart { height: 62px; margin-top: 5px; }
.userhooks-traffic .chart.low { height: 34px; margin-top: 12px; }
.userhooks-traffic .chart svg { position: absolute; width: 100%; height: 100%; overflow: hidden; }
.userhooks-traffic .chart span { position: absolute; left: -56px; width: 51px; text-align: right; font-size: 11px; line-height: 12px; }
.userhooks-traffic .chart em { position: absolute; inset: 0; display: grid; place-items: center; font-style: normal; }
.userhooks-traffic .chart em b { font-weight: normal; padding: 0 8px; background: var(--jp-layout-color0, Canvas); }
.userhooks-traffic .times { height: 18px; margin-top: 2px; font-size: 11px; }
.userhooks-traffic .times span { position: absolute; white-space: nowrap; transform: translateX(-50%); }
.userhooks-traffic .times span:first-child { transform: none; } .userhooks-traffic .times span:last-child { transform: translateX(-100%); }
.userhooks-traffic .events { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20em, 100%), 1fr)); min-height: 35px; }
.userhooks-traffic .events b { display: inline-block; min-width: 1.6em; }
@container (max-width: 462px) { .userhooks-traffic .flags span { display: none; } .userhooks-traffic .flags { height: 0; }
  .userhooks-traffic .times span:nth-child(even) { display: none; } }
</style>"""
"""The picture's style; a page needs it only once, because it does not change."""


class Mark(NamedTuple):
    """Something that was done at a moment (in Unix time), such as a button that was pressed."""

    at: float
    text: str


class Flag(NamedTuple):
    """The numbers of one or more marks; `left` is their position, in percent of the charts' width."""

    left: float
    label: str


def picture(window: TrafficWindow, marks: Sequence[Mark]) -> str:
    """Return the charts of a window, with numbered marks, as HTML."""
    shown = marks_shown(window, marks)
    said = html.escape(sentence(window))
    lines = "".join(
        f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="100" stroke="currentColor" stroke-opacity=".7" {_THIN}/>'
        for x in (_left(window, mark.at) for _, mark in shown)
    )
    lanes = "".join(_lane(window, user, lines) for user in window.users)
    flag_row = "".join(f'<span style="left: {flag.left:.2f}%">{flag.label}</span>' for flag in flags(window, marks))
    times = "".join(f'<span style="left: {100 - 100 * ago / WINDOW_SECONDS:g}%">{_ago(ago)}</span>' for ago in (60, 45, 30, 15, 0))
    return (
        f'<div class="userhooks-traffic"><p>{said}</p>{_KEY}<div class="flags" aria-hidden="true">{flag_row}</div>'
        f'{lanes}<div class="times" aria-hidden="true">{times}</div>{_events(window, shown)}</div>'
    )


def axis_limit(values: Iterable[float]) -> float:
    """Return the end of an axis that starts at 0: a round number of at least 10 that no value exceeds."""
    needed = max(SMALLEST_AXIS, _HEADROOM * max(values, default=0))
    power = 1
    while needed > 10 * power:
        power *= 10
    return next(step * power for step in _STEPS if step * power >= needed)


def sentence(window: TrafficWindow) -> str:
    """Return how many rows wait at the end of the window, and the most that waited at the end of any second in it."""
    if not window.length:
        return "Waiting for the first second to end."
    span = f"the last {window.length} s" if window.length > 1 else "the last second"
    last = {user: window.seconds(user)[-1].waiting for user in window.users}
    now = ", ".join(f"{count:,} for {_name(user)}" for user, count in last.items() if count)
    most, newest, user = max((second.waiting, second.second, user) for user in window.users for second in window.seconds(user))
    if not most:
        return f"No rows waiting, now or in {span}."
    peak = f"Most in {span}: {most:,} for {_name(user)}, {_ago(window.end - newest - 1)}."
    return f"Rows waiting now: {now}. {peak}" if now else f"No rows waiting now. {peak}"


def last_second(window: TrafficWindow, user: str) -> str:
    """Return what happened to a user's rows in the last second of the window."""
    if not window.length:
        return ""
    last = window.seconds(user)[-1]
    counts = f"{last.generated:,} written, {last.delivered:,} delivered, {last.refused:,} failed"
    return f"{counts} in the last second; {last.waiting:,} waiting"


def marks_shown(window: TrafficWindow, marks: Sequence[Mark]) -> list[tuple[int, Mark]]:
    """Return the marks in the window, each with its number. Marks are numbered from 1, including those before the window."""
    return [(number, mark) for number, mark in enumerate(marks, 1) if mark.at >= window.end - WINDOW_SECONDS]


def flags(window: TrafficWindow, marks: Sequence[Mark]) -> list[Flag]:
    """Return the flags of the marks in the window. Marks whose flags would overlap share one, such as `3–7`."""
    groups: list[tuple[float, int, int]] = []
    for number, mark in marks_shown(window, marks):
        left = _left(window, mark.at)
        if groups and left < groups[-1][0] + _width(_label(*groups[-1][1:])):
            groups[-1] = (groups[-1][0], groups[-1][1], number)
        else:
            groups.append((left, number, number))
    return [Flag(left, _label(first, last)) for left, first, last in groups]


def _label(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _width(label: str) -> float:
    """Return the percentage of the narrowest chart that a flag takes, with the space after it."""
    return 100 * (_DIGIT_PIXELS * len(label) + _BADGE_PIXELS) / _NARROWEST


def _left(window: TrafficWindow, at: float) -> float:
    return min(100.0, 100 * (at - (window.end - WINDOW_SECONDS)) / WINDOW_SECONDS)


_THIN = 'vector-effect="non-scaling-stroke" stroke-width="1"'
_LINE = 'fill="none" vector-effect="non-scaling-stroke" stroke-width="1.75"'


def _lane(window: TrafficWindow, user: str, lines: str) -> str:
    """Return a user's two charts. Each user has separate axes, so that one user's peak does not flatten the charts of the others."""
    seconds = window.seconds(user)
    rate = axis_limit(max(second.generated, second.delivered, second.refused) for second in seconds)
    rows = axis_limit(second.waiting for second in seconds)
    rates = pile = ""
    if any(second.generated or second.delivered or second.refused for second in seconds):
        rates = (
            _blocks(window, [(second.second, second.refused) for second in seconds], rate, REFUSED)
            + f'<path d="{_steps(window, [(second.second, second.delivered) for second in seconds], rate)}" stroke="{DELIVERED}" {_LINE}/>'
            + f'<path d="{_steps(window, [(second.second, second.generated) for second in seconds], rate)}" stroke="{WRITTEN}" '
            f'stroke-dasharray="5 4" {_LINE}/>'
        )
    if any(second.waiting for second in seconds):
        pile = _blocks(window, [(second.second, second.waiting) for second in seconds], rows, WAITING)
    name = html.escape(_name(user))
    quiet, few = (
        "" if drawn or not seconds else f"<em><b>{words}</b></em>" for drawn, words in ((rates, "No traffic"), (pile, "No rows waiting"))
    )
    return (
        f'<div class="lane"><div><b>{name}</b> {last_second(window, user)}</div>'
        f"{_chart('', f'{name}: rows per second', rate, '/s', rates + lines, quiet)}"
        f"{_chart(' low', f'{name}: rows waiting', rows, '', pile + lines, few)}</div>"
    )


def _chart(kind: str, label: str, limit: float, unit: str, drawn: str, words: str) -> str:
    grid = "".join(f'<line x1="0" x2="100" y1="{y}" y2="{y}" stroke="currentColor" stroke-opacity=".25" {_THIN}/>' for y in (2, 98))
    ends = f'<span style="top: -2px">{limit:,g}{unit}</span><span style="bottom: -2px">0</span>'
    return (
        f'<div class="chart{kind}" role="img" aria-label="{label}"><svg viewBox="0 0 100 100" preserveAspectRatio="none">'
        f"{grid}{drawn}</svg>{ends}{words}</div>"
    )


def _steps(window: TrafficWindow, points: Sequence[tuple[int, int]], limit: float) -> str:
    """Return SVG path commands for a line with one step per second."""
    commands, before = "", None
    for second, count in points:
        y = f"{98 - 96 * count / limit:.1f}"
        if y != before:
            start = f"{_left(window, second):.2f}"
            commands += f"M{start},{y}" if before is None else f"H{start}V{y}"
            before = y
    return f"{commands}H{_left(window, points[-1][0] + 1):.2f}"


def _blocks(window: TrafficWindow, points: Sequence[tuple[int, int]], limit: float, color: str) -> str:
    """Return filled steps for the seconds with a count; seconds without one have no line."""
    commands = ""
    for some, group in groupby(points, key=lambda point: point[1] > 0):
        if some:
            steps = list(group)
            commands += f"{_steps(window, steps, limit)}V98H{_left(window, steps[0][0]):.2f}Z"
    return f'<path d="{commands}" fill="{color}" fill-opacity=".35" stroke="{color}" {_THIN}/>' if commands else ""


def _swatch(drawn: str, text: str) -> str:
    return f'<li><svg viewBox="0 0 26 10" aria-hidden="true">{drawn}</svg>{text}</li>'


_KEY = (
    '<ul class="key">'
    + _swatch(f'<path d="M0,5H26" stroke="{WRITTEN}" stroke-dasharray="5 4" {_LINE}/>', "rows written")
    + _swatch(f'<path d="M0,5H26" stroke="{DELIVERED}" {_LINE}/>', "webhooks delivered")
    + _swatch(f'<path d="M1,1H25V10H1Z" fill="{REFUSED}" fill-opacity=".35" stroke="{REFUSED}" {_THIN}/>', "failed attempts")
    + _swatch(f'<path d="M1,1H25V10H1Z" fill="{WAITING}" fill-opacity=".35" stroke="{WAITING}" {_THIN}/>', "rows waiting")
    + "</ul>"
)


def _events(window: TrafficWindow, shown: Sequence[tuple[int, Mark]]) -> str:
    newest = [
        f"<li><b>{number}</b> {html.escape(mark.text)}, {_ago(max(0, int(window.end - mark.at)))}</li>"
        for number, mark in shown[: -LISTED_MARKS - 1 : -1]
    ]
    if len(shown) > LISTED_MARKS:
        newest.append(f"<li>and {len(shown) - LISTED_MARKS} before</li>")
    return f'<ul class="events">{"".join(newest)}</ul>'


def _ago(seconds: int) -> str:
    return f"{seconds} s ago" if seconds else "now"


def _name(user: str) -> str:
    return user.capitalize()
