"""The look of plots and diagrams: colors, type, and how a notebook shows them.

A figure is a white card with dark text, so that a stored picture is readable on every page. In JupyterLab, `inline_svg` shows the same
figure without the card, as wide as the column, with text in the theme's color.
"""

from __future__ import annotations

import html
import io
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from userhooks.shared.extras import lab_extra

with lab_extra():
    import matplotlib as mpl
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CARD, INK = "#ffffff", "#4a5160"
"""Colors of the background, and of text and axes."""

GENERATED, DELIVERED, MARK = "#0072b2", "#009e73", "#d55e00"
"""Colors for rows written, rows delivered, and whatever deserves attention, such as refused requests.

People with common kinds of color blindness can tell them apart (the palette of Okabe and Ito). Their contrast ratio is above 3 on light
and dark pages.
"""

TEXT_POINTS, TITLE_POINTS = 8.5, 10.0

_DPI = 200
"""Resolution of stored pictures: wide enough for a notebook's column, and sharp on a dense screen."""

_OURS = "userhooks"


def dressed(ax: Axes, title: str, x: str, y: str) -> Axes:
    """Give a plot its title, labels, colors, grid, and a legend if it has labeled lines; return it."""
    ax.set_title(title, color=INK, fontsize=TITLE_POINTS)
    ax.set_xlabel(x, color=INK, fontsize=TEXT_POINTS)
    ax.set_ylabel(y, color=INK, fontsize=TEXT_POINTS)
    ax.tick_params(which="both", colors=INK, labelsize=TEXT_POINTS)
    for name, spine in ax.spines.items():
        spine.set_color(INK)
        spine.set_visible(name in ("left", "bottom"))
    ax.grid(visible=True, axis="y", color=INK, alpha=0.25)
    ax.set_axisbelow(True)
    if ax.get_legend_handles_labels()[0]:
        # Below the axes, so that it never covers a line.
        place: Any = {"loc": "upper left", "bbox_to_anchor": (0, -0.2), "borderaxespad": 0}
        ax.legend(frameon=False, labelcolor=INK, ncols=3, fontsize=TEXT_POINTS, **place)
    return on_card(ax)


def on_card(ax: Axes) -> Axes:
    """Give a figure the background and the resolution of stored pictures; return the axes."""
    ax.patch.set_alpha(0)
    figure = ax.figure
    if isinstance(figure, Figure):
        figure.patch.set_facecolor(CARD)
        figure.set_dpi(max(_DPI, figure.dpi))
        figure.set_gid(_OURS)
        _show_in_theme()
    return ax


def inline_svg(figure: Figure) -> str | None:
    """Return a figure of this package as an SVG for a page, or None for any other figure.

    The SVG has no background, is as wide as its column, and has text in the color and font of the page.
    """
    if figure.get_gid() != _OURS:
        return None
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", facecolor="none", bbox_inches="tight")
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", drawn)
    title = html.escape("; ".join(ax.get_title() for ax in figure.axes if ax.get_title()))
    opening = f'<svg role="img" aria-label="{title}" style="display: block; width: 100%; height: auto" '
    return re.sub(r'^<svg |(?<= )(?:width|height)="[\d.]+pt" ?', lambda found: opening if found[0] == "<svg " else "", drawn, count=3)


def _show_in_theme() -> None:
    """Make this kernel show figures with `inline_svg`, if a Jupyter server such as JupyterLab started it for a notebook.

    Call this for each figure, because matplotlib's backend removes all formatters of figures when it is loaded.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and "JPY_SESSION_NAME" in os.environ else None
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(Figure, inline_svg)
