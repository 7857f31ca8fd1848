"""Diagrams: nothing is cut off, text fits its box, and every color is visible on light and dark pages."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from userhooks import diagrams

LIGHT_PAGE, DARK_PAGE = "#ffffff", "#111111"


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


def test_every_text_is_inside_the_picture_and_overlaps_no_other(drawn: Axes) -> None:
    assert drawn.figure is not None
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn.texts if text.get_text()]
    for text, box in boxes:
        assert drawn.figure.bbox.x0 <= box.x0 < box.x1 <= drawn.figure.bbox.x1, text
        assert drawn.bbox.y0 - 1 <= box.y0 < box.y1 <= drawn.bbox.y1 + 1, text
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), (one, other)


def test_a_text_stays_inside_its_card_and_cards_stay_apart(drawn: Axes) -> None:
    cards = [patch for patch in drawn.patches if isinstance(patch, FancyBboxPatch)]
    assert len(cards) >= 6
    for card in cards:
        box = card.get_window_extent()
        inside = [text for text in drawn.texts if text.get_text() and box.overlaps(text.get_window_extent())]
        assert len(inside) == 1, [text.get_text() for text in inside]
        extent = inside[0].get_window_extent()
        assert box.contains(extent.x0, extent.y0), inside[0].get_text()
        assert box.contains(extent.x1, extent.y1), inside[0].get_text()
    for one, other in itertools.combinations(cards, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())


def test_texts_read_well_on_both_pages(drawn: Axes) -> None:
    cards = [patch for patch in drawn.patches if isinstance(patch, FancyBboxPatch)]
    for text in (text for text in [*drawn.texts, drawn.title] if text.get_text()):
        on_card = any(card.get_window_extent().overlaps(text.get_window_extent()) for card in cards)
        pages = [cards[0].get_facecolor()] if on_card else [LIGHT_PAGE, DARK_PAGE]
        assert all(contrast(text.get_color(), page) >= 4 for page in pages), text.get_text()  # type: ignore[arg-type]


def test_the_path_is_drawn_for_the_users_that_are_named() -> None:
    ax = diagrams.path_of_a_row(Figure().subplots(), user="Ben", other="Cy")
    assert "Ben" in ax.get_title()
    assert any("Cy's" in text.get_text() for text in ax.texts)
