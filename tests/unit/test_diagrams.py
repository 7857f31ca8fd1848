"""Diagrams: they name the given users, and their text is readable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from userhooks import diagrams
from userhooks.plots.figure_style import CARD, INK


@pytest.fixture(params=[diagrams.path_of_a_row, diagrams.slot, diagrams.watermark, diagrams.group_order], ids=lambda draw: draw.__name__)
def drawn(request: pytest.FixtureRequest) -> Axes:
    draw: Callable[[Axes], Axes] = request.param
    figure = Figure(figsize=(8, 3))
    FigureCanvasAgg(figure)
    ax = draw(figure.subplots())
    figure.draw_without_rendering()
    return ax


def contrast(one: str, other: str) -> float:
    """Return the WCAG 2 contrast ratio, from 1 to 21."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_texts_read_well(drawn: Axes) -> None:
    cards = [patch for patch in drawn.patches if isinstance(patch, FancyBboxPatch)]
    for text in (text for text in [*drawn.texts, drawn.title] if text.get_text()):
        on_card = any(card.get_window_extent().overlaps(text.get_window_extent()) for card in cards)
        page = cards[0].get_facecolor() if on_card else CARD
        assert contrast(text.get_color(), page) >= 4.5, text.get_text()  # type: ignore[arg-type]
        assert on_card or text.get_color() == INK, "the text that a page gives its own color"


def test_the_path_is_drawn_for_the_users_that_are_named() -> None:
    ax = diagrams.path_of_a_row(Figure().subplots(), user="Ben", other="Cy")
    assert "Ben" in ax.get_title()
    assert any("Cy's" in text.get_text() for text in ax.texts)
