"""Explanatory diagrams: the path of a row, a slot in the WAL, the watermark of a backfill page, and the order within a group.

Plots of measurements are in `ledger_plots.py`. Each function draws into the given Axes and returns it; use a figure of 8 by 3 inches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userhooks.plots.figure_style import DELIVERED, GENERATED, INK, MARK, TITLE_POINTS, on_card

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAPER, _TEXT, _PALE = "#f4f6f8", "#1f2933", "#9aa5b1"


def path_of_a_row(ax: Axes, user: str = "Ada", other: str = "Ben") -> Axes:
    """Draw the path of one row of `user` through table, WAL, filters, and inbox; `other`'s filter rejects it."""
    _stage(ax, f"The path of a row: only {user}'s filter accepts it", 100, 36)
    _card(ax, 9, 18, 17, 12, f"your app\nINSERT\nfor {user}", INK)
    _card(ax, 35, 18, 20, 20, "Postgres\n\ntable\nnotifications\n↓\nWAL", GENERATED)
    for y, name, passes in ((27.5, user, True), (8.5, other, False)):
        _card(ax, 64, y, 23, 13, f"{name}'s sink\nuser_id = {name}?\n{'yes' if passes else 'no'}", DELIVERED if passes else _PALE)
        _card(ax, 92, y, 15, 13, f"{name}'s\ninbox" + ("" if passes else "\n(nothing)"), DELIVERED if passes else _PALE)
        _arrow(ax, (45.5, 18), (52, y), INK)
    _arrow(ax, (18, 18), (24.5, 18), INK)
    _arrow(ax, (76, 27.5), (84, 27.5), DELIVERED, "POST")
    ax.text(80, 8.5, "✕", ha="center", va="center", color=INK, fontsize=13)
    ax.text(64, 18, "Sequin reads the WAL", ha="center", va="center", color=INK, fontsize=9)
    return ax


def slot(ax: Axes) -> Axes:
    """Draw a slot as a bookmark in the WAL: what Sequin has processed, what Postgres keeps for it, and where Postgres writes next."""
    _stage(ax, "A slot is a bookmark in the WAL: Postgres keeps everything after it", 100, 36)
    _arrow(ax, (0, 18), (99, 18), INK)
    for x, text in ((8, "insert 7"), (22, "update 3"), (36, "delete 5"), (57, "insert 8"), (71, "update 7"), (85, "insert 9")):
        _card(ax, x, 18, 13, 8, text, _PALE if x < 46 else GENERATED)
    ax.plot([46.5, 46.5], [9, 25], color=MARK, linewidth=3)
    ax.plot([94.5, 94.5], [14, 25], color=INK, linewidth=1.5, linestyle="--")
    ax.text(46.5, 29.5, "slot: Sequin has confirmed\neverything before this point", ha="center", va="center", color=INK, fontsize=9)
    ax.text(99, 29.5, "end of the WAL:\nPostgres writes here next", ha="right", va="center", color=INK, fontsize=9)
    ax.text(22, 8, "Postgres may delete it", ha="center", va="center", color=INK, fontsize=9)
    ax.text(71, 8, "Postgres keeps it until it is confirmed", ha="center", va="center", color=INK, fontsize=9)
    return ax


def watermark(ax: Axes) -> Axes:
    """Draw how a backfill page is merged with the WAL: the page is sent at its watermark, without the row that has since changed."""
    _stage(ax, "A backfill page is sent when its watermark appears in the WAL", 100, 36)
    for y, name in ((30, "read from\nthe table"), (18, "WAL"), (6, "sent")):
        ax.text(0, y, name, ha="left", va="center", color=INK, fontsize=9.5)
    _card(ax, 26, 30, 26, 7, "page: rows 1, 2, 3", MARK)
    _arrow(ax, (14, 18), (99, 18), INK)
    for x, text, edge in (
        (27, "insert 8", GENERATED),
        (45, "update 2", GENERATED),
        (64, "watermark", MARK),
        (86, "insert 9", GENERATED),
    ):
        _card(ax, x, 18, 21 if edge == MARK else 14, 7, text, edge)
    _arrow(ax, (39.5, 30), (62, 22), MARK)
    for x, text, edge in (
        (23, "insert 8", GENERATED),
        (40, "update 2", GENERATED),
        (57, "read 1", MARK),
        (71, "read 3", MARK),
        (88, "insert 9", GENERATED),
    ):
        _card(ax, x, 6, 12 if edge == MARK else 14, 7, text, edge)
    ax.text(76, 30, "row 2 is skipped:\nits update is newer", ha="center", va="center", color=INK, fontsize=9.5)
    return ax


def group_order(ax: Axes) -> Axes:
    """Draw how a failing message holds back later messages of its own row, but of no other row."""
    _stage(ax, "A failing webhook delays later changes of its own row only", 100, 36)
    for y, name in ((27, "row 1"), (10, "row 2")):
        ax.text(0, y, name, ha="left", va="center", color=INK, fontsize=10)
        _arrow(ax, (9, y), (99, y), INK)
    for x, text, edge in (
        (17, "insert\nrefused", MARK),
        (39, "retry\nrefused", MARK),
        (69, "retry\naccepted", DELIVERED),
        (87, "update\naccepted", DELIVERED),
    ):
        _card(ax, x, 27, 13, 9, text, edge)
    for start, end, text in ((24, 32, "1 s"), (46, 62, "2 s")):
        ax.text((start + end) / 2, 29.5, text, ha="center", va="center", color=INK, fontsize=9)
    ax.text(44, 18.5, "update committed; it waits for the insert", ha="center", va="center", color=INK, fontsize=9)
    ax.plot([27, 32], [26.5, 20], color=INK, linewidth=1)
    for x, text in ((17, "insert\naccepted"), (33, "update\naccepted"), (49, "delete\naccepted")):
        _card(ax, x, 10, 13, 9, text, DELIVERED)
    return ax


def _stage(ax: Axes, title: str, width: float, height: float) -> None:
    ax.set_title(title, color=INK, fontsize=TITLE_POINTS)
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.axis("off")
    on_card(ax)


def _card(ax: Axes, x: float, y: float, width: float, height: float, text: str, edge: str) -> None:
    """Draw a card centered on (x, y), with dark text on a light background."""
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 1, y - height / 2 + 1), width - 2, height - 2, boxstyle="round,pad=1", facecolor=_PAPER, edgecolor=edge,
            linewidth=2, zorder=2,
        )
    )  # fmt: skip
    ax.text(x, y, text, ha="center", va="center", color=_TEXT, fontsize=9, linespacing=1.25, zorder=3)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, text: str = "") -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}, zorder=1)
    if text:
        ax.text((start[0] + end[0]) / 2, start[1] + 2, text, ha="center", va="center", color=INK, fontsize=9)
