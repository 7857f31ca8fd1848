"""The line in which a panel reports what it does: an icon, a word, and a color for each kind of report.

The colors are those of JupyterLab's theme. `panels.py` decides what is reported.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["idle", "working", "done", "failed", "stopped", "pending", "changed", "live"]


class Outcome(NamedTuple):
    """The result of a panel's call: its kind, its lines of text, and a word to show in place of the kind's default word."""

    kind: Kind
    text: str
    word: str = ""


class _Style(NamedTuple):
    word: str
    color: str
    icon: str
    role: str = "status"


_STYLES: dict[Kind, _Style] = {
    "working": _Style("Working.", "--jp-info-color1", '<circle cx="8" cy="8" r="6"/><path d="M8 4.5V8l2.5 2"/>'),
    "done": _Style("Done.", "--jp-success-color1", '<path d="M3 8.5l3.5 3.5L13 4.5"/>'),
    "failed": _Style("Not done.", "--jp-error-color1", '<path d="M4 4l8 8M12 4l-8 8"/>', "alert"),
    "stopped": _Style("Stopped.", "--jp-warn-color0", '<rect x="4" y="4" width="8" height="8"/>'),
    "pending": _Style("Not yet.", "--jp-warn-color0", '<path d="M8 2.5v7M8 12.5v.5"/>'),
    "changed": _Style("Changed.", "--jp-warn-color0", '<path d="M8 2.5v7M8 12.5v.5"/>', "alert"),
    "live": _Style("Live.", "--jp-success-color1", '<circle cx="8" cy="8" r="3" fill="currentColor"/>'),
}


def strong_color(variable: str) -> str:
    """Return a theme's color as CSS, moved toward the color of text, so that text in it is readable in light and dark themes."""
    return f"color-mix(in srgb, var({variable}) 65%, var(--jp-ui-font-color0))"


def render_status(kind: Kind, lines: Iterable[str], word: str = "") -> str:
    """Return the HTML of a report, or an empty string if there are no lines and the kind has no word.

    Screen readers announce failures and changed values at once, and everything else when they are idle.
    """
    text = "<br>".join(html.escape(line) for line in lines if line)
    style = _STYLES.get(kind)
    if style is None:
        return f'<div role="status" style="color: var(--jp-ui-font-color2); line-height: 1.5">{text}</div>' if text else ""
    box = (
        f"border-left: 4px solid var({style.color}); background: color-mix(in srgb, var({style.color}) 9%, transparent); "
        "color: var(--jp-ui-font-color1); padding: 5px 10px; margin: 2px 0; border-radius: 3px; line-height: 1.5; overflow-wrap: anywhere; "
        "display: flex; gap: 8px; align-items: baseline"
    )
    return (
        f'<div role="{style.role}" style="{box}">{_icon(style)}<div><strong style="color: {strong_color(style.color)}">'
        f"{html.escape(word or style.word)}</strong> {text}</div></div>"
    )


def _icon(style: _Style) -> str:
    # The word says the same, so screen readers skip the icon.
    return (
        '<svg aria-hidden="true" viewBox="0 0 16 16" width="14" height="14" fill="none" stroke="currentColor" stroke-width="2.2" '
        f'stroke-linecap="round" style="color: {strong_color(style.color)}; flex: none; position: relative; top: 2px">{style.icon}</svg>'
    )
